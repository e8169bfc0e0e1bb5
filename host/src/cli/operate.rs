//! `mcpp info`, `mcpp reload`, `mcpp tools --problems`: an operator at a running host's own socket.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Method, Response};
use serde::{Serialize, de::DeserializeOwned};

use super::{Operator, clean, print, print_json, table};
use crate::{
    admin::{self, Info as HostInfo, StoreInfo},
    config::Config,
    reload::Report,
};

impl Operator {
    /// The data directory.
    pub(super) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        let mut config = Config::load(self.config.as_deref(), |_| None)?;
        if self.data.is_some() {
            config.data.dir.clone_from(&self.data);
        }
        Ok(config.data_dir()?)
    }

    fn socket(&self) -> anyhow::Result<PathBuf> {
        Ok(self.data_dir()?.join(admin::SOCKET))
    }

    /// Asks the running host.
    pub(super) async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> anyhow::Result<T> {
        Ok(self.send(method, path, None::<&()>).await?.json().await?)
    }

    /// Tells the running host to do something.
    pub(super) async fn tell(&self, path: &str, what: &impl Serialize) -> anyhow::Result<Response> {
        self.send(Method::POST, path, Some(what)).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> anyhow::Result<Response> {
        let socket = self.socket()?;
        let client = reqwest::Client::builder().unix_socket(socket.clone()).build()?;
        let mut request = client.request(method, format!("http://localhost{path}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        let absent =
            || format!("no host answers at {}; is one running with this data directory? (--data)", socket.display());
        let answer = request.send().await.with_context(absent)?;
        let status = answer.status();
        if !status.is_success() {
            bail!("{}", clean(&answer.text().await.unwrap_or_else(|_| status.to_string())));
        }
        Ok(answer)
    }
}

#[derive(Debug, Args)]
pub(super) struct Info {
    #[command(flatten)]
    operator: Operator,
}

impl Info {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let info: HostInfo = self.operator.ask(Method::GET, "/info").await?;
        if self.operator.json {
            print_json(&info)?;
            return Ok(0);
        }
        let HostInfo { version, pid, url, sessions, calls, instances, engine, .. } = &info;
        print(&format!("mcpp {version}, process {pid}, at {url}"))?;
        print(&format!(
            "instances: {} of {} run, {} of {} wait, {} of {} calls queue; {calls} calls, {sessions} sessions\n",
            instances.running,
            engine.max_running,
            instances.waiting,
            engine.max_waiting,
            instances.queued,
            engine.max_queued
        ))?;
        let rows = info.components.iter().map(|component| {
            let digest = component.digest.chars().take(12).collect();
            vec![
                component.name.clone(),
                digest,
                component.bytes.to_string(),
                component.tools.len().to_string(),
                store_use(component.store.as_ref()),
                component.origin.clone(),
            ]
        });
        print(&table(&["COMPONENT", "REVISION", "BYTES", "TOOLS", "STORE", "FROM"], rows))?;
        let tools = info.components.iter().flat_map(|component| &component.tools);
        let limits = tools.map(|tool| {
            let value = |name: &str| tool.limits.get(name).map(ToString::to_string).unwrap_or_default();
            let shown = ["deadline_ms", "memory_bytes", "output_bytes", "log_bytes", "host_calls", "concurrency"];
            std::iter::once(tool.name.clone()).chain(shown.map(value)).collect()
        });
        print("")?;
        print(&table(&["TOOL", "DEADLINE MS", "MEMORY", "OUTPUT", "LOG", "HOST CALLS", "AT ONCE"], limits))?;
        print_problems(&info)
    }
}

/// How much of its store a component uses.
fn store_use(store: Option<&StoreInfo>) -> String {
    match store {
        None => "-".into(),
        Some(StoreInfo { used_bytes: Some(used), quota_bytes, .. }) => format!("{used} of {quota_bytes}"),
        Some(StoreInfo { used_bytes: None, .. }) => "not available".into(),
    }
}

/// Shows what keeps components from being live; exit code 1 if there is anything.
pub(super) async fn problems(operator: &Operator) -> anyhow::Result<u8> {
    let info: HostInfo = operator.ask(Method::GET, "/info").await?;
    if operator.json {
        print_json(&info.problems)?;
    } else {
        print_problems(&info)?;
    }
    Ok(u8::from(!info.problems.is_empty()))
}

fn print_problems(info: &HostInfo) -> anyhow::Result<u8> {
    for problem in &info.problems {
        let serves = if problem.old_build_serves { " (the build before it goes on serving)" } else { "" };
        print(&format!(
            "\n{} from {} is not live{serves}:\n  {}",
            problem.component,
            problem.origin,
            clean(&problem.error)
        ))?;
    }
    for component in &info.components {
        for note in &component.notes {
            print(&format!("\n{}: {}", component.name, clean(note)))?;
        }
    }
    Ok(0)
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    operator: Operator,
}

impl Reload {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let report: Report = self.operator.ask(Method::POST, "/reload").await?;
        if self.operator.json {
            print_json(&report)?;
        } else {
            for (what, components) in
                [("loaded", &report.loaded), ("unchanged", &report.unchanged), ("removed", &report.removed)]
            {
                for component in components {
                    print(&format!("{what} {component}"))?;
                }
            }
            for (component, error) in &report.failed {
                print(&format!("failed {component}: {}", clean(error)))?;
            }
        }
        Ok(u8::from(!report.failed.is_empty()))
    }
}
