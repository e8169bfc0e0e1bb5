//! `mcpp workflow`: watching the workflows of a host, through the same tools that every client has.

mod follow;
mod mend;
mod steps;
mod test;
mod tree;

use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{clean, field, print, print_json, remote::Server, table};
use crate::mcp::client::Client;

/// Most calls of one `doctor`: 500 runs each, or fewer large ones.
const MAX_EXAMINED_PARTS: usize = 20_000;

#[derive(Debug, Args)]
pub(super) struct WorkflowArgs {
    #[command(subcommand)]
    command: Option<WorkflowCommand>,
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

/// The runs that are meant, besides by their status.
#[derive(Debug, Default, Args)]
struct RunFilter {
    /// Only runs with this tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Only runs submitted at this time (RFC 3339) or later
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only runs submitted before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

#[derive(Debug, Subcommand)]
enum WorkflowCommand {
    /// List runs, newest first (the default)
    List {
        /// Only runs that are submitted, running, completed, failed or cancelled
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        filter: RunFilter,
        /// The most runs to list
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show one run and its steps
    Show {
        /// The run's id
        id: String,
        /// Draw its graph for Graphviz
        #[arg(long, conflicts_with = "mermaid")]
        dot: bool,
        /// Draw its graph for Mermaid
        #[arg(long)]
        mermaid: bool,
    },
    /// Follow one run until it has ended, as a tree of its steps on a terminal and line by line elsewhere; exit code 1 if it did not complete
    Follow {
        /// The run's id
        id: String,
    },
    /// Cancel, pause, resume, retry or delete all runs of a filter; exit code 1 if that is refused for some
    Bulk(mend::BulkArgs),
    /// Print a run as a JSON document, to be imported on another host
    Export {
        /// The run's id
        id: String,
    },
    /// Make a run of a document: steps that have results there keep them
    Import(mend::RunImportArgs),
    /// Rehearse a workflow on a store of its own: every step and undo fails, is done twice and comes late; exit code 1 if an effect stays
    Test(test::TestArgs),
    /// Look for unfinished runs to which nothing will happen any more, and for what is overdue; exit code 1 if there is any
    Doctor,
}

impl WorkflowArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let command =
            self.command.unwrap_or(WorkflowCommand::List { status: None, filter: RunFilter::default(), limit: 50 });
        if let WorkflowCommand::Test(args) = command {
            return Box::pin(test::run(args, self.json)).await;
        }
        let client = self.server.connect(Arc::new(|_, _, _| {})).await?;
        let code = match command {
            WorkflowCommand::List { status, filter: RunFilter { tags, since, until }, limit } => {
                let arguments = json!({ "status_filter": status, "tag_filter": tags, "created_after": since, "created_before": until, "limit": limit });
                list(&client, arguments, self.json).await
            }
            WorkflowCommand::Show { id, dot, mermaid } if dot || mermaid => {
                draw(&client, &id, if dot { "dot" } else { "mermaid" }).await
            }
            WorkflowCommand::Show { id, .. } => show(&client, &id, self.json).await,
            WorkflowCommand::Follow { id } => follow::follow(&client, &id, self.json).await,
            WorkflowCommand::Doctor => doctor(&client, self.json).await,
            WorkflowCommand::Bulk(args) => mend::bulk(&client, args, self.json).await,
            WorkflowCommand::Export { id } => mend::export(&client, &id).await,
            WorkflowCommand::Import(args) => mend::import(&client, &args, self.json).await,
            // It has a host of its own.
            WorkflowCommand::Test(_) => Ok(0),
        };
        client.close().await;
        code
    }
}

/// Calls a tool of workflows; its reply, if that is a success.
async fn ask(client: &Client, tool: &str, arguments: Value) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(mut arguments) = arguments else { bail!("arguments are an object") };
    arguments.retain(|_, value| !value.is_null());
    let answer = client.call(tool, arguments).await.context("the host has no workflows, or does not answer")?;
    let reply = answer.json.get("structuredContent").and_then(Value::as_object).cloned().unwrap_or_default();
    if reply.get("success") != Some(&json!(true)) {
        bail!("the host refuses: {}", clean(&refusal(&reply, &answer.texts)));
    }
    Ok(reply)
}

/// Why a call is refused. A call whose arguments the host refuses has its reason as a text.
fn refusal(reply: &Map<String, Value>, texts: &[String]) -> String {
    match reply.get("error").and_then(Value::as_str) {
        Some(error) => error.to_owned(),
        None if texts.iter().all(|text| text.trim().is_empty()) => "no reason is given".to_owned(),
        None => texts.join(" "),
    }
}

async fn list(client: &Client, arguments: Value, as_json: bool) -> anyhow::Result<u8> {
    let reply = ask(client, "workflow_list", arguments).await?;
    let runs = reply.get("workflows").and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        print_json(&runs)?;
        return Ok(0);
    }
    let columns = ["workflow_id", "name", "status", "phase", "progress", "current_step", "created_at", "error"];
    let rows = runs.iter().map(|run| columns.map(|column| field(run, column)).to_vec());
    print(&table(&["RUN", "NAME", "STATUS", "PHASE", "%", "STEP", "SUBMITTED", "ERROR"], rows))?;
    Ok(0)
}

async fn show(client: &Client, id: &str, as_json: bool) -> anyhow::Result<u8> {
    let run = steps::whole(client, id).await?;
    if as_json {
        print_json(&run)?;
        return Ok(0);
    }
    for name in ["workflow_id", "name", "status", "phase", "progress", "next_event", "error"] {
        print(&format!("{name:<12} {}", field(&run, name)))?;
    }
    let rows = steps::in_order(&run).into_iter().map(row);
    print(&table(&["STEP", "TOOL", "STATUS", "ATTEMPTS", "START", "END", "SECONDS", "HOST", "ERROR"], rows))?;
    Ok(0)
}

/// A step as a row of a table, moved in if it stands within another one.
fn row(step: &Value) -> Vec<String> {
    let path = field(step, "step_id");
    let (depth, name) = (steps::depth(&path), path.rsplit('/').next().unwrap_or_default());
    let mut row = vec![format!("{}{name}", "  ".repeat(depth))];
    let columns = ["action", "status", "attempts", "start_time", "end_time", "duration_s", "host"];
    row.extend(columns.map(|column| field(step, column)));
    // A step that its condition skips, or that waits for a key, has a reason, and no error.
    row.push(field(step, if step.get("reason").is_some_and(Value::is_string) { "reason" } else { "error" }));
    row
}

async fn draw(client: &Client, id: &str, format: &str) -> anyhow::Result<u8> {
    let reply = ask(client, "workflow_dependencies", json!({ "workflow_id": id, "format": format })).await?;
    // A graph has line ends, which `clean` would hide.
    let graph = reply.get("dag").and_then(Value::as_str).unwrap_or_default();
    for line in graph.lines() {
        print(&clean(line))?;
    }
    Ok(0)
}

async fn doctor(client: &Client, as_json: bool) -> anyhow::Result<u8> {
    const LISTS: [&str; 4] = ["stuck", "overdue", "late_schedules", "waits_for_operator"];
    let (mut found, mut examined, mut cursor) = (LISTS.map(|_| Vec::new()), 0_u64, Value::Null);
    for _ in 0..MAX_EXAMINED_PARTS {
        let reply = ask(client, "workflow_doctor", json!({ "cursor": cursor })).await?;
        for (list, name) in found.iter_mut().zip(LISTS) {
            for entry in reply.get(name).and_then(Value::as_array).into_iter().flatten() {
                // A part that ends within a run may name it twice.
                if !list.contains(entry) {
                    list.push(entry.clone());
                }
            }
        }
        examined = examined.saturating_add(reply.get("examined").and_then(Value::as_u64).unwrap_or_default());
        cursor = reply.get("next_cursor").cloned().unwrap_or_default();
        if cursor.is_null() {
            break;
        }
    }
    let [stuck, overdue, late, waiting] = found;
    let is_healthy = stuck.is_empty() && overdue.is_empty() && late.is_empty();
    let code = u8::from(!is_healthy);
    if as_json {
        print_json(&json!({
            "healthy": is_healthy, "examined": examined, "stuck": stuck, "waits_for_operator": waiting, "overdue": overdue, "late_schedules": late,
        }))?;
        return Ok(code);
    }
    for run in &stuck {
        print(&format!("{}: nothing will happen any more (phase {})", field(run, "workflow_id"), field(run, "phase")))?;
    }
    for run in &overdue {
        print(&format!("{}: overdue: {}", field(run, "workflow_id"), field(run, "waits_for")))?;
    }
    for schedule in &late {
        print(&format!("schedule {}: late, it was due at {}", field(schedule, "name"), field(schedule, "next_time")))?;
    }
    for run in &waiting {
        print(&format!("{}: waits for {}", field(run, "workflow_id"), field(run, "waits_for")))?;
    }
    let (stuck, overdue, late) = (stuck.len(), overdue.len(), late.len());
    print(&format!(
        "{examined} runs examined, {stuck} without a next event, {overdue} overdue, {late} schedules late"
    ))?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_reason_of_the_tool_or_of_the_host() {
        let reply = |reply: Value| reply.as_object().cloned().unwrap_or_default();
        let texts = ["status_filter: unknown variant `bogus`".to_owned()];
        assert_eq!(
            refusal(&reply(json!({ "success": false, "error": "Workflow x not found" })), &texts),
            "Workflow x not found"
        );
        assert_eq!(refusal(&reply(json!({})), &texts), "status_filter: unknown variant `bogus`");
        assert_eq!(refusal(&reply(json!({})), &[]), "no reason is given");
    }
}
