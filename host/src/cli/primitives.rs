//! `mcpp resources`, `mcpp read`, `mcpp prompts` and `mcpp prompt`: an MCP client for any server.

use std::{io::Write as _, sync::Arc};

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clap::Args;
use serde_json::{Map, Value};

use super::{
    clean, print, print_json,
    remote::{Server, split_pair},
    table,
};
use crate::mcp::client::Client;

#[derive(Debug, Args)]
pub(super) struct ResourcesArgs {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ResourcesArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let client = connect(&self.server).await?;
        let (resources, templates) = (client.resources().await?, client.templates().await?);
        client.close().await;
        if self.json {
            print_json(&serde_json::json!({ "resources": resources, "templates": templates }))?;
            return Ok(0);
        }
        let row = |one: &Value, key: &str| vec![text(one, key), text(one, "mimeType"), first_line(one)];
        let rows = resources.iter().map(|one| row(one, "uri"));
        print(&table(
            &["URI", "TYPE", "DESCRIPTION"],
            rows.chain(templates.iter().map(|one| row(one, "uriTemplate"))),
        ))?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The resource's URI
    uri: String,
    #[command(flatten)]
    server: Server,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

impl ReadArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let client = connect(&self.server).await?;
        let read = client.read(&self.uri).await;
        client.close().await;
        let read = read?;
        if self.json {
            print_json(&read)?;
            return Ok(0);
        }
        for part in read.get("contents").and_then(Value::as_array).into_iter().flatten() {
            match (part.get("text").and_then(Value::as_str), part.get("blob").and_then(Value::as_str)) {
                (Some(text), _) => print(&clean(text))?,
                (None, Some(blob)) => {
                    let bytes = BASE64_STANDARD.decode(blob).context("the server's bytes are not base64")?;
                    std::io::stdout().lock().write_all(&bytes)?;
                }
                (None, None) => {}
            }
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct PromptsArgs {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl PromptsArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let client = connect(&self.server).await?;
        let prompts = client.prompts().await?;
        client.close().await;
        if self.json {
            print_json(&prompts)?;
            return Ok(0);
        }
        let rows = prompts.iter().map(|prompt| vec![text(prompt, "name"), arguments(prompt), first_line(prompt)]);
        print(&table(&["PROMPT", "ARGUMENTS", "DESCRIPTION"], rows))?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct PromptArgs {
    /// The prompt's name
    prompt: String,
    /// Its arguments
    #[arg(value_name = "KEY=VALUE")]
    arguments: Vec<String>,
    #[command(flatten)]
    server: Server,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
}

impl PromptArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let pairs = self.arguments.iter().map(|pair| split_pair(pair)).collect::<anyhow::Result<Vec<_>>>()?;
        let arguments: Map<String, Value> =
            pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        let client = connect(&self.server).await?;
        let filled = client.prompt(&self.prompt, arguments).await;
        client.close().await;
        let filled = filled?;
        if self.json {
            print_json(&filled)?;
            return Ok(0);
        }
        for message in filled.get("messages").and_then(Value::as_array).into_iter().flatten() {
            let content = message.get("content").cloned().unwrap_or_default();
            let said = match content.get("text").and_then(Value::as_str) {
                Some(text) => clean(text),
                None => serde_json::to_string_pretty(&content)?,
            };
            print(&format!("{}: {said}", text(message, "role")))?;
        }
        Ok(0)
    }
}

async fn connect(server: &Server) -> anyhow::Result<Client> {
    server.connect(Arc::new(|_, _, _| {})).await
}

fn text(of: &Value, key: &str) -> String {
    clean(of.get(key).and_then(Value::as_str).unwrap_or_default())
}

fn first_line(of: &Value) -> String {
    text(of, "description").lines().next().unwrap_or_default().to_owned()
}

/// The names of a prompt's arguments, those that may be left out with a question mark.
fn arguments(prompt: &Value) -> String {
    let arguments = prompt.get("arguments").and_then(Value::as_array).into_iter().flatten();
    let names = arguments.map(|argument| {
        let required = argument.get("required") == Some(&Value::Bool(true));
        format!("{}{}", text(argument, "name"), if required { "" } else { "?" })
    });
    names.collect::<Vec<_>>().join(" ")
}
