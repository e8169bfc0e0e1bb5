//! `mcpp invite`, `mcpp join`, `mcpp peers`, `mcpp peer` and `mcpp call --peer`: other hosts, and what they and this one let each other do.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{
    Data, Operator, clean, print, print_json,
    remote::{show_progress, tell},
    table,
};
use crate::{
    admin::peers::{Invited, JoinOrder, Joined, PeerCallLine, PeerCallOrder, PeerList, PeerRow, RevokeOrder, RightRow},
    mesh::PeerId,
    names::{TenantId, ToolName, ToolPattern},
    peers::{
        file::{PeerFile, Revoked},
        invitation::NewInvitation,
    },
};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("offer").args(["tools", "components"]).required(true).multiple(true))]
pub(super) struct Invite {
    /// A tool that the other host may see and call, or a prefix that ends in *; may be repeated
    #[arg(long = "tool", value_name = "TOOL")]
    tools: Vec<ToolPattern>,
    /// A component whose live build the other host may fetch (`mcpp fetch` there), or a prefix that ends in *; may be repeated
    #[arg(long = "component", value_name = "COMPONENT")]
    components: Vec<ToolPattern>,
    /// How long the ticket can be redeemed
    #[arg(long = "for", default_value = "1h", value_name = "TIME")]
    good_for: String,
    /// How often the ticket can be redeemed
    #[arg(long, default_value_t = 1, value_name = "N")]
    uses: u32,
    /// How long the other host may then call, such as 12h, 90days, or `never` for no end
    #[arg(long, default_value = "90days", value_name = "TIME")]
    expires: String,
    /// How many requests a minute the other host may make
    #[arg(long, value_name = "N")]
    calls_per_minute: Option<u64>,
    /// The only host that may redeem the ticket, by its id (`mcpp id` there)
    #[arg(long, value_name = "PEER")]
    peer: Option<PeerId>,
    #[command(flatten)]
    operator: Operator,
}

impl Invite {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let new = NewInvitation {
            tenant: self.operator.tenant.clone(),
            tools: self.tools,
            components: self.components,
            calls_per_minute: self.calls_per_minute,
            only: self.peer,
            good_for: time(&self.good_for)?,
            grant_for: if self.expires == "never" { None } else { Some(time(&self.expires)?) },
            uses: self.uses,
        };
        let invited: Invited = self.operator.tell("/peers/invite", &new).await?.json().await?;
        if self.operator.json {
            print_json(&invited)?;
            return Ok(0);
        }
        print(&invited.ticket)?;
        let until = humantime::format_rfc3339_seconds(invited.expires);
        tell(&format!(
            "invitation {}, until {until}; run `mcpp join TICKET` on the other machine. The ticket is not shown again",
            invited.invitation
        ));
        let is_local = |address: &String| address.contains("/127.0.0.1/") || address.contains("/::1/");
        if invited.addresses.iter().all(is_local) {
            tell("the ticket has addresses of this machine only; to be reached from others, set `mesh.listen`");
        }
        Ok(0)
    }
}

fn time(text: &str) -> anyhow::Result<Duration> {
    humantime::parse_duration(text).with_context(|| format!("{text:?} is not a time such as 12h or 90days"))
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// The ticket, as `mcpp invite` printed it; `-` to read it from standard input
    ticket: String,
    #[command(flatten)]
    operator: Operator,
}

impl Join {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let ticket = if self.ticket == "-" { std::io::read_to_string(std::io::stdin())? } else { self.ticket };
        let joined: Joined = self.operator.tell("/peers/join", &JoinOrder { ticket }).await?.json().await?;
        if self.operator.json {
            print_json(&joined)?;
            return Ok(0);
        }
        let Joined { peer, allowed } = joined;
        print(&format!("joined {peer}"))?;
        let (tenant, until) = (&self.operator.tenant, until(allowed.expires));
        if !allowed.tools.is_empty() {
            let tools = patterns(&allowed.tools);
            tell(&format!("tenant {tenant} may call {tools} there, {until}; try `mcpp call --peer {peer} TOOL`"));
        }
        if !allowed.components.is_empty() {
            let components = patterns(&allowed.components);
            tell(&format!("tenant {tenant} may fetch {components} there, {until}; try `mcpp fetch --peer {peer}`"));
        }
        Ok(0)
    }
}

fn patterns(tools: &[ToolPattern]) -> String {
    clean(&tools.iter().map(|tool| String::from(tool.clone())).collect::<Vec<_>>().join(" "))
}

fn until(expires: Option<SystemTime>) -> String {
    match expires {
        None => "without end".to_owned(),
        Some(time) => format!("until {}", humantime::format_rfc3339_seconds(time)),
    }
}

#[derive(Debug, Args)]
pub(super) struct Peers {
    #[command(flatten)]
    operator: Operator,
}

impl Peers {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let list: PeerList = self.operator.ask(Method::GET, "/peers").await?;
        if self.operator.json {
            print_json(&list)?;
            return Ok(0);
        }
        let rows = list.peers.iter().map(|(peer, row)| shown(peer, row));
        print(&table(&["PEER", "PATH", "ROUND TRIP", "MAY CALL HERE", "MAY BE CALLED", "MOUNTED", "PROGRAM"], rows))?;
        for (id, (uses, expires)) in &list.invitations {
            tell(&format!("invitation {id}: {uses} uses left, until {expires}"));
        }
        tell(&format!("this host is {}", list.id));
        Ok(0)
    }
}

fn shown(peer: &PeerId, row: &PeerRow) -> Vec<String> {
    let path = match (&row.path, &row.came) {
        (Some(path), Some(came)) => format!("{path}, {came}"),
        (Some(path), None) => path.clone(),
        (None, _) => "-".to_owned(),
    };
    let ms = |us: Option<u64>| us.map_or("-".to_owned(), |us| format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10));
    let right = |right: &RightRow| {
        let ended = if right.expired { " (expired)" } else { "" };
        let components = if right.components.is_empty() { "" } else { "; components " };
        format!("{}: {}{components}{}{ended}", right.tenant, patterns(&right.tools), patterns(&right.components))
    };
    let here = row.may_call_here.as_ref().map_or("nothing".to_owned(), right);
    let there = row.may_be_called.values().map(right).collect::<Vec<_>>().join("; ");
    let there = if there.is_empty() { "nothing".to_owned() } else { there };
    let agent = row.agent.as_deref().map(clean).unwrap_or_default();
    let mounted = if row.mounted.is_empty() { "-".to_owned() } else { row.mounted.join(", ") };
    vec![peer.to_string(), path, ms(row.rtt_us), here, there, mounted, agent]
}

#[derive(Debug, Args)]
pub(super) struct PeerArgs {
    #[command(subcommand)]
    command: PeerCommand,
    #[command(flatten)]
    data: Data,
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// Take away what a peer and this host let each other do; or revoke an invitation and all grants that came of it. In force at once, also for what is open
    Revoke {
        /// The peer, or the invitation, as `mcpp peers` shows it
        name: String,
    },
}

impl PeerArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let PeerCommand::Revoke { name } = self.command;
        let operator = self.data.operator();
        // A host that runs also closes its connections to the peer; without one the records are enough.
        let revoked: Revoked = if operator.is_running()? {
            operator.tell("/peers/revoke", &RevokeOrder { name: name.clone() }).await?.json().await?
        } else {
            PeerFile::new(&self.data.homes()?).revoke(&name)?
        };
        if self.data.json {
            print_json(&revoked)?;
        } else {
            let Revoked { grants, memberships, invitations } = revoked;
            print(&format!(
                "revoked {}: {grants} grants, {memberships} memberships, {invitations} invitations",
                clean(&name)
            ))?;
        }
        Ok(0)
    }
}

/// Calls a tool of a peer by way of the host that runs here; the result in MCP's words.
pub(super) async fn call(
    operator: &Operator,
    peer: PeerId,
    tool: &str,
    arguments: Map<String, Value>,
    timeout: Duration,
) -> anyhow::Result<Value> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let order = PeerCallOrder { peer, tool: ToolName::new(tool)?, arguments, timeout_ms };
    let mut answer = operator.tell("/peers/call", &order).await?;
    let mut text = Vec::new();
    let done = loop {
        let Some(end) = text.iter().position(|byte| *byte == b'\n') else {
            let more = answer.chunk().await?.context("the host ended before the call did")?;
            text.extend_from_slice(&more);
            continue;
        };
        let line: Vec<u8> = text.drain(..=end).collect();
        match serde_json::from_slice(&line)? {
            PeerCallLine::Progress { done, total, message } => show_progress(done, total, message.as_deref()),
            PeerCallLine::Done(done) => break done,
        }
    };
    match (done.result, done.error) {
        (Some(result), _) => Ok(result),
        (None, Some(error)) => bail!("{}", clean(&error)),
        (None, None) => bail!("the host gave neither a result nor an error"),
    }
}

/// The tenant by whose right a peer is called.
#[derive(Debug, Clone, Args)]
pub(super) struct ByPeer {
    /// Call the tool of this peer, by way of the host that runs here with the data directory
    #[arg(long, value_name = "PEER")]
    pub(super) peer: Option<PeerId>,
    /// With --peer: the tenant by whose right
    #[arg(long, value_name = "TENANT", default_value = "local", requires = "peer")]
    pub(super) tenant: TenantId,
}
