//! `mcpp tools` and `mcpp call`: an MCP client for any server.

use std::{
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use serde_json::{Map, Value};
use url::Host;

use super::{
    Data, Operator, clean, operate,
    peers::{self, ByPeer},
    pinned, print, print_json, question, table,
};
use crate::{
    call::inputs::Reply,
    info::Info,
    mcp::client::{Answer, Client, ClientConfig, OnProgress, OnQuestion},
    mesh::PeerId,
};

/// Which server, and how patiently.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The MCP endpoint
    #[arg(long, env = "MCPP_URL", default_value = "http://127.0.0.1:8000/mcp")]
    url: String,
    /// Bearer token
    #[arg(long, env = "MCPP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Seconds for one request, besides the time that you take to answer a tool's question
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    timeout: f64,
    /// How often to repeat a request that cannot have run (connection refused, host busy), with exponential back-off
    #[arg(long, default_value_t = 3, value_name = "N")]
    retries: u32,
}

impl Server {
    /// The time for one request.
    fn patience(&self) -> anyhow::Result<Duration> {
        Duration::try_from_secs_f64(self.timeout).context("--timeout is not a number of seconds")
    }

    pub(super) async fn connect(&self, on_progress: OnProgress) -> anyhow::Result<Client> {
        let timeout = self.patience()?;
        let config = ClientConfig { url: self.url.clone(), token: self.token.clone(), timeout, retries: self.retries };
        Ok(Client::connect(config, on_progress, user()).await?)
    }
}

#[derive(Debug, Args)]
pub(super) struct Tools {
    #[command(flatten)]
    server: Server,
    /// Show the components whose newest build is not live or whose lists change in a loop, and why (of a host on this machine)
    #[arg(long)]
    problems: bool,
    #[command(flatten)]
    operator: Operator,
}

impl Tools {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        if self.problems {
            return operate::problems(&self.operator).await;
        }
        let client = self.server.connect(Arc::new(|_, _, _| {})).await?;
        let mut tools = client.tools().await?;
        client.close().await;
        let info = self.info().await;
        if let Some(loading) = info.as_ref().and_then(loading) {
            tell(&loading);
        }
        if self.operator.json {
            if let Some(info) = &info {
                pinned::add_pinned(&mut tools, info);
            }
            print_json(&tools)?;
            return Ok(0);
        }
        let text = |tool: &Value, key: &str| clean(tool.get(key).and_then(Value::as_str).unwrap_or_default());
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        let rows =
            tools.iter().map(|tool| vec![text(tool, "name"), signature(tool), first_line(text(tool, "description"))]);
        print(&table(&["TOOL", "ARGUMENTS", "DESCRIPTION"], rows))?;
        if let Some(older) = info.as_ref().and_then(pinned::older_builds) {
            print(&format!("\n{older}"))?;
        }
        Ok(0)
    }

    /// The state of the server, where it is the host with this data directory.
    async fn info(&self) -> Option<Info> {
        if !self.operator.is_running().is_ok_and(|is_running| is_running) {
            return None;
        }
        let info: Info = self.operator.ask(Method::GET, "/info").await.ok()?;
        (address(&info.url)? == address(&self.server.url)?).then_some(info)
    }
}

/// That the list is not whole yet, where the host still loads.
fn loading(info: &Info) -> Option<String> {
    if info.opening.is_empty() {
        return None;
    }
    let to_come = info.loads.as_ref().map_or(0, |now| now.queued.saturating_add(usize::from(now.loading.is_some())));
    let to_come = if to_come == 0 { String::new() } else { format!(" ({to_come} components to come)") };
    Some(format!("the host still loads{to_come}, so this list may not be whole; `mcpp info` shows the loads"))
}

/// The address of a URL, where it names one.
fn address(url: &str) -> Option<SocketAddr> {
    let url = url::Url::parse(url).ok()?;
    let host = match url.host()? {
        Host::Domain("localhost") => Ipv4Addr::LOCALHOST.into(),
        Host::Domain(_) => return None,
        Host::Ipv4(host) => host.into(),
        Host::Ipv6(host) => host.into(),
    };
    Some(SocketAddr::new(host, url.port_or_known_default()?))
}

/// The arguments' names, those that may be left out with a question mark.
fn signature(tool: &Value) -> String {
    let Some(properties) = tool.pointer("/inputSchema/properties").and_then(Value::as_object) else {
        return String::new();
    };
    let required: Vec<&str> = tool
        .pointer("/inputSchema/required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let names =
        properties.keys().map(|name| if required.contains(&name.as_str()) { name.clone() } else { format!("{name}?") });
    clean(&names.collect::<Vec<_>>().join(" "))
}

#[derive(Debug, Args)]
pub(super) struct CallArgs {
    /// The tool's name
    tool: String,
    /// The arguments: one JSON object, `-` to read it from standard input, or `key=value` pairs (a value that is JSON is taken as JSON)
    #[arg(value_name = "JSON | KEY=VALUE")]
    arguments: Vec<String>,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    by: ByPeer,
    #[command(flatten)]
    data: Data,
}

impl CallArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let given = Given::parse(&self.arguments)?;
        if let Some(peer) = &self.by.peer {
            return self.call_peer(peer.clone(), given).await;
        }
        let progress = Arc::new(CallProgress::default());
        let shown = Arc::clone(&progress);
        let on_progress = move |done: f64, total: Option<f64>, message: Option<&str>| shown.show(done, total, message);
        let client = self.server.connect(Arc::new(on_progress)).await?;
        let arguments = match given {
            Given::Object(object) => object,
            Given::Pairs(pairs) => typed(pairs, &input_schema(&client, &self.tool).await?),
        };
        let answer = client.call(&self.tool, arguments).await;
        progress.end();
        client.close().await;
        self.show(&answer?)
    }

    /// Calls a peer's tool by way of the host that runs here.
    async fn call_peer(&self, peer: PeerId, given: Given) -> anyhow::Result<u8> {
        let arguments = match given {
            Given::Object(object) => object,
            // The tool's schema is there, not here: what is JSON is taken as JSON.
            Given::Pairs(pairs) => typed(pairs, &Value::Null),
        };
        let operator = Operator { tenant: self.by.tenant.clone(), ..self.data.operator() };
        let json = peers::call(&operator, peer, &self.tool, arguments, self.server.patience()?).await?;
        let blocks = json.get("content").and_then(Value::as_array).into_iter().flatten();
        let texts = blocks.filter_map(|block| Some(block.get("text")?.as_str()?.to_owned())).collect();
        let is_error = json.get("isError") == Some(&Value::Bool(true));
        self.show(&Answer { is_error, texts, json })
    }

    fn show(&self, answer: &Answer) -> anyhow::Result<u8> {
        if self.data.json {
            print_json(&answer.json)?;
        } else if answer.is_error {
            tell(&clean(&answer.texts.join("\n")));
        } else {
            let text = answer.texts.join("\n");
            let blocks = answer.json.get("content").and_then(Value::as_array).map_or(0, Vec::len);
            print(&if blocks == answer.texts.len() {
                clean(&text)
            } else {
                serde_json::to_string_pretty(&answer.json)?
            })?;
        }
        Ok(u8::from(answer.is_error))
    }
}

pub(super) fn tell(message: &str) {
    use std::io::Write as _;
    let _nobody_may_read_it = writeln!(std::io::stderr().lock(), "{message}");
}

/// The user at the terminal, if there is one.
fn user() -> Option<OnQuestion> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return None;
    }
    Some(Arc::new(|asked| {
        Box::pin(async move {
            let asking = tokio::task::spawn_blocking(move || question::at_terminal(&asked));
            asking.await.unwrap_or(Reply::Cancelled)
        })
    }))
}

/// A bar while a tool says how far it is, where there is a terminal.
#[derive(Debug, Default)]
pub(super) struct CallProgress(std::sync::OnceLock<ProgressBar>);

impl CallProgress {
    /// Shows a report.
    pub(super) fn show(&self, done: f64, total: Option<f64>, message: Option<&str>) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.0.get_or_init(|| ProgressBar::new_spinner().with_style(bar_style("{spinner} {pos} {msg}")));
        let whole = |number: f64| (number.max(0.0) * SHOWN_STEPS).round() as u64;
        if let Some(total) = total.filter(|total| *total > 0.0) {
            bar.set_style(bar_style("{wide_bar} {percent} % {msg}"));
            bar.set_length(whole(total));
            bar.set_position(whole(done));
        } else {
            bar.set_position(done.max(0.0) as u64);
        }
        bar.set_message(clean(message.unwrap_or_default()).replace('\n', " "));
        bar.tick();
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = self.0.get() {
            bar.finish_and_clear();
        }
    }
}

/// Steps of a bar for each unit of progress, which may be a fraction.
const SHOWN_STEPS: f64 = 100.0;

fn bar_style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

pub(super) fn show_progress(done: f64, total: Option<f64>, message: Option<&str>) {
    if std::io::stderr().is_terminal() {
        let of = total.map(|total| format!("/{total}")).unwrap_or_default();
        tell(&clean(&format!("{done}{of} {}", message.unwrap_or_default())));
    }
}

/// The arguments as they were typed.
#[derive(Debug, PartialEq)]
enum Given {
    Object(Map<String, Value>),
    Pairs(Vec<(String, String)>),
}

impl Given {
    fn parse(given: &[String]) -> anyhow::Result<Self> {
        let object = |text: &str| match serde_json::from_str(text) {
            Ok(Value::Object(object)) => Ok(Self::Object(object)),
            Ok(_) => anyhow::bail!("the arguments must be a JSON object, such as '{{\"text\":\"hello\"}}'"),
            Err(error) => Err(error).context("the arguments are not JSON"),
        };
        match given {
            [] => Ok(Self::Object(Map::new())),
            [only] if only == "-" => object(&std::io::read_to_string(std::io::stdin())?),
            [only] if only.trim_start().starts_with('{') => object(only),
            pairs => pairs.iter().map(|pair| split_pair(pair)).collect::<anyhow::Result<_>>().map(Self::Pairs),
        }
    }
}

pub(super) fn split_pair(pair: &str) -> anyhow::Result<(String, String)> {
    let (key, value) =
        pair.split_once('=').with_context(|| format!("{pair:?} is neither a JSON object nor KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

async fn input_schema(client: &Client, tool: &str) -> anyhow::Result<Value> {
    let tools = client.tools().await?;
    let tool = tools.into_iter().find(|listed| listed.get("name").and_then(Value::as_str) == Some(tool));
    Ok(tool.and_then(|tool| tool.get("inputSchema").cloned()).unwrap_or_default())
}

/// A value is text where the tool wants text; elsewhere it is JSON if it can be.
fn typed(pairs: Vec<(String, String)>, schema: &Value) -> Map<String, Value> {
    let wants_text = |key: &str| {
        schema.get("properties").and_then(|all| all.get(key)?.get("type")).and_then(Value::as_str) == Some("string")
    };
    let value = |key: &str, text: String| {
        if wants_text(key) { Value::String(text) } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) }
    };
    pairs.into_iter().map(|(key, text)| (key.clone(), value(&key, text))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(given: &[&str]) -> anyhow::Result<Given> {
        Given::parse(&given.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_come_in_three_forms() {
        assert_eq!(parse(&[]).ok(), Some(Given::Object(Map::new())));
        assert_eq!(parse(&[r#"{"a":1}"#]).ok(), json!({ "a": 1 }).as_object().cloned().map(Given::Object));
        for bad in [&["{"][..], &["[1]"], &["a"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pairs_take_the_types_that_the_tool_wants() {
        let schema = json!({ "properties": { "t": { "type": "string" }, "n": { "type": "integer" } } });
        let Ok(Given::Pairs(pairs)) = parse(&["t=5", "n=5", "x=[1,2]", "d=a=b", "e="]) else { panic!("pairs") };
        assert_eq!(Value::Object(typed(pairs, &schema)), json!({ "t": "5", "n": 5, "x": [1, 2], "d": "a=b", "e": "" }));
    }
}
