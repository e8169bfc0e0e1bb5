//! `mcpp token`: the tokens that open the host to clients.

use std::time::{Duration, Instant, SystemTime};

use anyhow::bail;
use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode, header::HOST};
use serde_json::{Value, json};

use super::{Data, Operator, clean, print, print_json, remote::tell, table};
use crate::{
    auth::tokens::{NewToken, Token, TokenFile},
    info::Info,
    names::{TenantId, ToolPattern},
    tenant::{SCOPE_TOOLS, SCOPES},
};

/// The longest time for which the command waits until a running host has a new token.
const HOST_TIME: Duration = Duration::from_secs(5);
/// The pause between two looks at the host.
const HOST_LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
    #[command(flatten)]
    data: Data,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, this once. From the first token on, the host refuses every client without one.
    Create {
        /// The tenant whose tools it opens
        tenant: TenantId,
        /// Its holder: a name for the log and for tools
        subject: String,
        /// How long it is good for, such as 12h, 90days, or `never`
        #[arg(long, default_value = "90days", value_name = "TIME")]
        expires: String,
        /// The scope of its holder; may be repeated [default: tools] [possible values: tools, metrics]
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// A tool that its holder may see and call, or a prefix that ends in *; may be repeated [default: all]
        #[arg(long = "tool", value_name = "TOOL")]
        tools: Vec<ToolPattern>,
    },
    /// List the tokens, without their secret parts
    List {
        /// Only the tokens of this tenant
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Make a token useless, at once
    Revoke {
        /// Its id, as `mcpp token list` shows it
        id: String,
    },
}

impl TokenArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let homes = self.data.homes()?;
        let file = TokenFile::new(homes.tokens());
        match self.command {
            TokenCommand::Create { tenant, subject, expires, scopes, tools } => {
                homes.find(&tenant)?;
                for scope in &scopes {
                    if !SCOPES.contains(&scope.as_str()) {
                        bail!("there is no scope {scope:?}; the scopes are {}", SCOPES.join(" and "));
                    }
                }
                let good_for = parse_time(&expires)?;
                let scopes = if scopes.is_empty() { vec![SCOPE_TOOLS.to_owned()] } else { scopes };
                let first = !file.exists();
                let new = NewToken { tenant, subject, scopes: scopes.into_iter().collect(), tools, good_for };
                let (kept, token) = file.create(new)?;
                if let Err(error) = wait_for_host(&self.data.operator(), &token).await {
                    tell(&format!("the running host may not know the token yet: {error:#}"));
                }
                if self.data.json {
                    let mut shown = shown(&kept);
                    if let Some(fields) = shown.as_object_mut() {
                        fields.insert("token".into(), token.into());
                    }
                    print_json(&shown)?;
                } else {
                    print(&token)?;
                    tell(&format!("token {}; it is not shown again", kept.id));
                }
                if first {
                    tell("from now on this host refuses every client without a token, on loopback too");
                }
            }
            TokenCommand::List { tenant } => {
                tenant.as_ref().map(|tenant| homes.find(tenant)).transpose()?;
                let mut tokens = file.read()?.unwrap_or_default();
                tokens.retain(|token| tenant.as_ref().is_none_or(|tenant| token.tenant == *tenant));
                if self.data.json {
                    print_json(&tokens.iter().map(shown).collect::<Vec<_>>())?;
                } else {
                    print(&table(&["ID", "TENANT", "SUBJECT", "SCOPES", "TOOLS", "EXPIRES"], tokens.iter().map(row)))?;
                }
            }
            TokenCommand::Revoke { id } => {
                let revoked = file.revoke(&id)?;
                let operator = self.data.operator();
                if operator.is_running().unwrap_or(true)
                    && let Err(error) = operator.tell("/tokens/look", &()).await
                {
                    tell(&format!("the running host may need a moment to see the revocation: {error:#}"));
                }
                if self.data.json {
                    print_json(&shown(&revoked))?;
                } else {
                    print(&format!("revoked {id} of {}", clean(&revoked.subject)))?;
                }
            }
        }
        Ok(0)
    }
}

/// Waits until a running host takes the token, and refuses a client that shows none.
async fn wait_for_host(operator: &Operator, token: &str) -> anyhow::Result<()> {
    if !operator.is_running()? {
        return Ok(());
    }
    let info: Info = operator.ask(Method::GET, "/info").await?;
    // A host without an HTTP door asks no client for a token.
    if !info.url.starts_with("http") {
        return Ok(());
    }
    let client = reqwest::Client::builder().no_proxy().timeout(HOST_TIME).build()?;
    // The door answers to loopback's names, whatever the address is on which it listens.
    let ask = || client.get(&info.url).header(HOST, "localhost");
    let started = Instant::now();
    loop {
        let (stranger, holder) = (ask().send().await?.status(), ask().bearer_auth(token).send().await?.status());
        if stranger == StatusCode::UNAUTHORIZED && holder != StatusCode::UNAUTHORIZED {
            return Ok(());
        }
        anyhow::ensure!(started.elapsed() < HOST_TIME, "it answered {stranger} without a token, {holder} with it");
        tokio::time::sleep(HOST_LOOK).await;
    }
}

fn parse_time(text: &str) -> anyhow::Result<Option<Duration>> {
    if text == "never" {
        return Ok(None);
    }
    let time = humantime::parse_duration(text);
    let time = time.map_err(|error| anyhow::anyhow!("{text:?} is not a time such as 12h or 90days: {error}"))?;
    if time.is_zero() || SystemTime::now().checked_add(time).is_none() {
        bail!("{text:?} is not a time that a token can be good for");
    }
    Ok(Some(time))
}

/// A token without its secret part.
pub(super) fn shown(token: &Token) -> Value {
    let time = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    json!({
        "id": token.id,
        "tenant": token.tenant,
        "subject": token.subject,
        "scopes": token.scopes,
        "tools": token.tools,
        "created": time(token.created),
        "expires": token.expires.map(time),
        "expired": token.is_expired(SystemTime::now()),
    })
}

fn row(token: &Token) -> Vec<String> {
    let expires = match token.expires {
        None => "never".to_owned(),
        Some(_) if token.is_expired(SystemTime::now()) => "expired".to_owned(),
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
    };
    let tools = token.tools.iter().map(|tool| String::from(tool.clone())).collect::<Vec<_>>().join(" ");
    vec![
        token.id.clone(),
        token.tenant.to_string(),
        clean(&token.subject),
        token.scopes.iter().cloned().collect::<Vec<_>>().join(" "),
        if tools.is_empty() { "all".to_owned() } else { tools },
        expires,
    ]
}
