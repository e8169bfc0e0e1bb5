//! `mcpp events` and `mcpp backup`: the operator looks after the components' data.

use std::{io::IsTerminal as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use reqwest::Method;

use super::{Operator, clean, print, print_json, table};
use crate::{
    admin::data::{Backup, BackupStep, Settle},
    events::parked::{Shown, Verdict},
};

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(subcommand)]
    command: Option<EventsCommand>,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Debug, Subcommand)]
enum EventsCommand {
    /// Show events and timers that wait and deliveries that were given up (the default); exit code 1 if any was given up
    List,
    /// Deliver again the events and timers that were given up; exit code 1 if the one named was not, 0 with --all even if there were none
    Retry(Which),
    /// Forget the events and timers that were given up; exit code 1 if the one named was not, 0 with --all even if there were none
    Drop(Which),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The delivery's id, as `mcpp events` shows it
    id: Option<String>,
    /// All deliveries that were given up
    #[arg(long)]
    all: bool,
}

impl EventsArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        match self.command {
            None | Some(EventsCommand::List) => list(&self.operator).await,
            Some(EventsCommand::Retry(which)) => settle(&self.operator, which, Verdict::Retry).await,
            Some(EventsCommand::Drop(which)) => settle(&self.operator, which, Verdict::Drop).await,
        }
    }
}

async fn list(operator: &Operator) -> anyhow::Result<u8> {
    let shown: Vec<Shown> = operator.ask(Method::GET, "/events").await?;
    let given_up = shown.iter().any(|delivery| delivery.reason.is_some());
    if operator.json {
        print_json(&shown)?;
        return Ok(u8::from(given_up));
    }
    let rows = shown.iter().map(|delivery| {
        let state = match &delivery.reason {
            Some(reason) => format!("given up: {}", clean(reason)),
            None if delivery.attempts > 0 => "waits to be tried again".into(),
            None => "waits".into(),
        };
        let Shown { id, to, topic, key, attempts, .. } = delivery;
        vec![clean(id), clean(to), clean(topic), clean(key), attempts.to_string(), state]
    });
    print(&table(&["ID", "TO", "TOPIC", "KEY", "FAILED", "STATE"], rows))?;
    Ok(u8::from(given_up))
}

async fn settle(operator: &Operator, which: Which, verdict: Verdict) -> anyhow::Result<u8> {
    let request = Settle { id: which.id, verdict };
    let settled: usize = operator.tell("/events/settle", &request).await?.json().await?;
    if let (0, Some(id)) = (settled, &request.id) {
        bail!("no delivery {id:?} was given up; `mcpp events` lists those that were");
    }
    if operator.json {
        print_json(&settled)?;
    } else if settled == 0 {
        print("no delivery was given up")?;
    } else {
        let what = if verdict == Verdict::Retry { "will be delivered again" } else { "forgotten" };
        print(&format!("{settled} {what}"))?;
    }
    Ok(0)
}

#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// The file to make; it must not exist yet
    target: PathBuf,
    #[command(flatten)]
    operator: Operator,
}

impl BackupArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let target = std::path::absolute(&self.target)?;
        anyhow::ensure!(!target.exists(), "{} is there already; name another file", target.display());
        let mut response = self.operator.tell("/backup", &Backup { target: target.clone() }).await?;
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.enable_steady_tick(Duration::from_millis(100));
        let mut unread = String::new();
        while let Some(chunk) = response.chunk().await? {
            unread.push_str(&String::from_utf8_lossy(&chunk));
            while let Some((line, rest)) = unread.split_once('\n') {
                match serde_json::from_str(line)? {
                    BackupStep::Copied(entries) => bar.set_message(format!("{entries} entries copied")),
                    BackupStep::Failed(reason) => bail!("the backup failed: {reason}"),
                    BackupStep::Done(entries) => {
                        bar.finish_and_clear();
                        let bytes = std::fs::metadata(&target).context("the host wrote no file here")?.len();
                        return if self.operator.json {
                            print_json(&serde_json::json!({ "file": target, "entries": entries, "bytes": bytes }))
                                .map(|()| 0)
                        } else {
                            print(&format!("{entries} entries, {bytes} bytes: {}", target.display())).map(|()| 0)
                        };
                    }
                }
                unread = rest.to_owned();
            }
        }
        bail!("the host broke off the backup")
    }
}
