//! `mcpp tasks`: watching the task queue of a host, through the same tools that every client has.

mod interchange;

use std::{collections::BTreeMap, io::IsTerminal as _, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use self::interchange::{ExportArgs, ImportArgs};
use super::{clean, field, print, print_json, remote::Server, table};
use crate::mcp::client::Client;

/// How often the command asks for a followed task.
const LOOK: Duration = Duration::from_millis(300);
/// The most tasks that one command follows.
const MAX_FOLLOWED: usize = 200;

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    #[command(subcommand)]
    command: Option<TasksCommand>,
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TasksCommand {
    /// List tasks, oldest first (the default)
    List {
        /// Only tasks that are queued, running, completed, failed or cancelled
        #[arg(long, default_value = "")]
        status: String,
        /// Only tasks of this type
        #[arg(long = "type", value_name = "TYPE")]
        task_type: Option<String>,
        /// The most tasks to list
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show everything about one task
    Show {
        /// The task's id
        id: String,
    },
    /// Follow tasks until they have ended; exit code 1 if one did not complete
    Follow {
        /// The tasks' ids; all that are queued or running now if none is named
        ids: Vec<String>,
    },
    /// Write all tasks as lines of JSON, oldest first
    Export(ExportArgs),
    /// Take in tasks that were exported; those that are there already are passed over
    Import(ImportArgs),
}

impl TasksArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let client = self.server.connect(Arc::new(|_, _, _| {})).await?;
        let all = TasksCommand::List { status: String::new(), task_type: None, limit: 50 };
        let code = match self.command.unwrap_or(all) {
            TasksCommand::List { status, task_type, limit } => {
                let arguments = json!({ "status": status, "task_types": task_type.map(|kind| [kind]), "limit": limit });
                list(&client, arguments, self.json).await
            }
            TasksCommand::Show { id } => show(&client, &id, self.json).await,
            TasksCommand::Follow { ids } => follow(&client, ids, self.json).await,
            TasksCommand::Export(args) => interchange::export(&client, args, self.json).await,
            TasksCommand::Import(args) => interchange::import(&client, args, self.json).await,
        };
        client.close().await;
        code
    }
}

/// Calls a tool of the queue; its reply, if that is a success.
async fn ask(client: &Client, tool: &str, arguments: Value) -> anyhow::Result<Map<String, Value>> {
    let Value::Object(arguments) = arguments else { bail!("arguments are an object") };
    let answer = client.call(tool, arguments).await.context("the host has no task queue, or does not answer")?;
    let reply = answer.json.get("structuredContent").and_then(Value::as_object).cloned().unwrap_or_default();
    if reply.get("ok").or(reply.get("success")) != Some(&json!(true)) {
        let text = |name: &str| reply.get(name).and_then(Value::as_str).unwrap_or_default();
        bail!("the task queue refuses: {} {}", clean(text("error")), clean(text("detail")));
    }
    Ok(reply)
}

async fn list(client: &Client, arguments: Value, as_json: bool) -> anyhow::Result<u8> {
    let reply = ask(client, "p2p_taskqueue_list_tasks", arguments).await?;
    let tasks = reply.get("tasks").and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        print_json(&tasks)?;
        return Ok(0);
    }
    let columns = ["task_id", "task_type", "status", "priority", "attempt", "assigned_worker", "error"];
    let rows = tasks.iter().map(|task| columns.map(|column| field(task, column)).to_vec());
    print(&table(&["TASK", "TYPE", "STATUS", "PRIORITY", "ATTEMPT", "WORKER", "ERROR"], rows))?;
    Ok(0)
}

async fn find(client: &Client, id: &str) -> anyhow::Result<Option<Value>> {
    let reply = ask(client, "p2p_taskqueue_get_task", json!({ "task_id": id })).await?;
    Ok(reply.get("task").filter(|task| !task.is_null()).cloned())
}

async fn show(client: &Client, id: &str, as_json: bool) -> anyhow::Result<u8> {
    let Some(task) = find(client, id).await? else { bail!("there is no task {id:?}") };
    if as_json {
        print_json(&task)?;
        return Ok(0);
    }
    let rows = task.as_object().into_iter().flatten().map(|(name, _)| vec![name.clone(), field(&task, name)]);
    print(&table(&["FIELD", "VALUE"], rows))?;
    Ok(0)
}

/// One task that is followed: its line, and what was last said of it.
struct Followed {
    bar: ProgressBar,
    said: String,
}

async fn follow(client: &Client, ids: Vec<String>, as_json: bool) -> anyhow::Result<u8> {
    let ids = if ids.is_empty() { unfinished(client).await? } else { ids };
    if ids.len() > MAX_FOLLOWED {
        bail!("{} tasks are too many to follow; name at most {MAX_FOLLOWED}", ids.len());
    }
    let is_live = std::io::stderr().is_terminal() && !as_json;
    let lines = MultiProgress::new();
    let style = ProgressStyle::with_template("{spinner} {prefix} {msg}")?;
    let mut followed: BTreeMap<String, Followed> = BTreeMap::new();
    for id in ids {
        let bar = if is_live { lines.add(ProgressBar::new_spinner()) } else { ProgressBar::hidden() };
        bar.set_style(style.clone());
        bar.set_prefix(clean(&id));
        bar.enable_steady_tick(Duration::from_millis(100));
        followed.insert(id, Followed { bar, said: String::new() });
    }
    let mut not_completed = 0_usize;
    while !followed.is_empty() {
        let mut ended = Vec::new();
        for (id, line) in &mut followed {
            let Some(task) = find(client, id).await? else { bail!("there is no task {id:?}") };
            let status = field(&task, "status");
            let said = describe(&task);
            line.bar.set_message(said.clone());
            if line.said != said && !is_live {
                if as_json { print_json(&task)? } else { print(&format!("{} {said}", clean(id)))? }
            }
            line.said = said;
            if !matches!(status.as_str(), "queued" | "running") {
                not_completed = not_completed.saturating_add(usize::from(status != "completed"));
                line.bar.finish();
                ended.push(id.clone());
            }
        }
        ended.iter().for_each(|id| drop(followed.remove(id)));
        if !followed.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(u8::from(not_completed > 0))
}

async fn unfinished(client: &Client) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    for status in ["queued", "running"] {
        let reply = ask(client, "p2p_taskqueue_list_tasks", json!({ "status": status, "limit": 1_000 })).await?;
        let tasks = reply.get("tasks").and_then(Value::as_array).into_iter().flatten();
        ids.extend(tasks.filter_map(|task| Some(task.get("task_id")?.as_str()?.to_owned())));
    }
    Ok(ids)
}

/// A task in one line: where it stands, who has it, how far it is, the last line of its log.
fn describe(task: &Value) -> String {
    let mut line = format!("{} (attempt {})", field(task, "status"), field(task, "attempt"));
    for (name, before) in [("assigned_worker", " by "), ("error", ": ")] {
        let value = field(task, name);
        if value != "-" {
            line.push_str(before);
            line.push_str(&value);
        }
    }
    let result = task.get("result");
    if let Some(progress) = result.and_then(|result| result.get("progress")) {
        line.push_str(&format!(" {}", clean(&progress.to_string())));
    }
    let last = result.and_then(|result| result.get("logs")?.as_array()?.last()?.get("message")?.as_str());
    if let Some(last) = last {
        line.push_str(&format!(" | {}", clean(last).replace('\n', " ")));
    }
    line
}
