//! `mcpp workflow bulk`, `export` and `import`: what an operator does with many runs, and with one that goes to another host.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::{RunFilter, ask, field};
use crate::{
    cli::{clean, print, print_json},
    mcp::client::Client,
};

/// Most calls of one `bulk`: 100 runs each.
const MAX_PARTS: usize = 10_000;

#[derive(Debug, Args)]
pub(super) struct BulkArgs {
    /// cancel, pause, resume, retry or delete
    action: String,
    /// The status of the runs: submitted, running, completed, failed or cancelled
    #[arg(long)]
    status: String,
    #[command(flatten)]
    filter: RunFilter,
    /// Why, for cancel
    #[arg(long)]
    reason: Option<String>,
    /// Cancel without waiting for steps and without undos
    #[arg(long)]
    force: bool,
    /// Only say which runs these are
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn bulk(client: &Client, args: BulkArgs, as_json: bool) -> anyhow::Result<u8> {
    let BulkArgs { action, status, filter: RunFilter { tags, since, until }, reason, force, dry_run } = args;
    let (mut changed, mut refused, mut cursor) = (Vec::new(), Vec::new(), Value::Null);
    for _ in 0..MAX_PARTS {
        let arguments = json!({
            "action": action, "status_filter": status, "tag_filter": tags, "created_after": since, "created_before": until,
            "reason": reason, "force": force, "dry_run": dry_run, "cursor": cursor,
        });
        let reply = ask(client, "workflow_bulk", arguments).await?;
        let part = |name: &str| reply.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        changed.extend(part("changed"));
        refused.extend(part("refused"));
        cursor = reply.get("next_cursor").cloned().unwrap_or_default();
        if cursor.is_null() {
            break;
        }
    }
    let code = u8::from(!refused.is_empty());
    if as_json {
        print_json(&json!({ "changed": changed, "refused": refused, "dry_run": dry_run }))?;
        return Ok(code);
    }
    for id in changed.iter().filter_map(Value::as_str) {
        print(&clean(id))?;
    }
    for run in &refused {
        print(&format!("{}: {}", field(run, "workflow_id"), field(run, "error")))?;
    }
    Ok(code)
}

/// Prints a run as a document.
pub(super) async fn export(client: &Client, id: &str) -> anyhow::Result<u8> {
    let reply = ask(client, "workflow_export", json!({ "workflow_id": id })).await?;
    print_json(reply.get("document").unwrap_or(&Value::Null))?;
    Ok(0)
}

#[derive(Debug, Args)]
pub(super) struct RunImportArgs {
    /// The file that `mcpp workflow export` wrote
    file: PathBuf,
    /// Another id for the run
    #[arg(long = "as", value_name = "ID")]
    id: Option<String>,
}

/// Makes a run of a document.
pub(super) async fn import(client: &Client, args: &RunImportArgs, as_json: bool) -> anyhow::Result<u8> {
    let document = read(&args.file)?;
    let reply = ask(client, "workflow_import", json!({ "document": document, "workflow_id": args.id })).await?;
    let reply = Value::Object(reply);
    if as_json {
        print_json(&reply)?;
    } else {
        print(&format!(
            "{}: {}, {} steps kept",
            field(&reply, "workflow_id"),
            field(&reply, "status"),
            field(&reply, "steps_kept")
        ))?;
    }
    Ok(0)
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON", file.display()))
}
