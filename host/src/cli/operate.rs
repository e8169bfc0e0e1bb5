//! `mcpp info`, `mcpp reload`, `mcpp tools --problems`: an operator at a running host's own socket.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::{Method, Response};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Data, Operator, clean, mounts, print, print_json, table};
use crate::{
    admin,
    config::Config,
    info::{Info, Instances, PinnedInfo, PoolInfo, StoreInfo, TenantInfo, ToolInfo},
    limits::Reuse,
    names::TenantId,
    reload::Report,
};

impl Operator {
    /// Whether a host runs with this data directory.
    pub(super) fn is_running(&self) -> anyhow::Result<bool> {
        Ok(std::os::unix::net::UnixStream::connect(self.socket()?).is_ok())
    }

    /// The host's configuration.
    pub(super) fn load_config(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), |_| None)?;
        if self.data.is_some() {
            config.data.dir.clone_from(&self.data);
        }
        Ok(config)
    }

    /// The data directory.
    pub(super) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        Ok(self.load_config()?.data_dir()?)
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
        let mut request = client.request(method, format!("http://localhost{path}?tenant={}", self.tenant));
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
pub(super) struct InfoArgs {
    #[command(flatten)]
    operator: Operator,
}

impl InfoArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let info: Info = self.operator.ask(Method::GET, "/info").await?;
        if self.operator.json {
            print_json(&info)?;
            return Ok(0);
        }
        let Info { version, pid, url, sessions, calls, engine, .. } = &info;
        print(&format!("mcpp {version}, process {pid}, at {url}: {calls} calls, {sessions} sessions"))?;
        let most =
            [engine.max_running, engine.max_waiting, engine.max_queued, engine.max_kept].map(|most| most.to_string());
        print(&format!("host: {}", use_of(&info.instances, &most)))?;
        print(&format!("host's memory: {}", memory_of(&info.memory)))?;
        let TenantInfo { name, open, limits, instances, memory } = &info.tenant;
        let most = |what: &str| limits.get(what).map(ToString::to_string).unwrap_or_default();
        if *open {
            let used = use_of(instances, &["running", "waiting", "queued", "kept"].map(most));
            let (calls, sessions) = (most("calls_per_minute"), most("sessions"));
            print(&format!("tenant {name}: {used}; at most {calls} calls a minute and {sessions} sessions"))?;
            print(&format!("tenant {name}'s memory: {}\n", memory_of(memory)))?;
        } else {
            print(&format!("tenant {name} is suspended\n"))?;
        }
        print_loads(&info)?;
        let rows = info.components.iter().map(|component| {
            let digest = component.digest.chars().take(12).collect();
            vec![
                component.name.clone(),
                digest,
                component.bytes.to_string(),
                component.tools.len().to_string(),
                store_use(component.store.as_ref()),
                component.granted.join(", "),
                component.origin.clone(),
            ]
        });
        print(&table(&["COMPONENT", "REVISION", "BYTES", "TOOLS", "STORE", "GRANTED", "FROM"], rows))?;
        if !info.mounts.is_empty() {
            print(&format!("\n{}", mounts::shown(&info.mounts)))?;
        }
        let pinned = info.components.iter().flat_map(|component| {
            component.pinned.iter().map(|build| {
                let state = match build {
                    PinnedInfo { live: true, .. } => "live",
                    PinnedInfo { loaded: true, .. } => "replaced",
                    _ => "missing",
                };
                let digest = build.digest.chars().take(12).collect();
                vec![component.name.clone(), digest, state.to_owned(), build.by.join(", ")]
            })
        });
        let pinned: Vec<_> = pinned.collect();
        if !pinned.is_empty() {
            print("\nPinned builds:")?;
            print(&table(&["COMPONENT", "REVISION", "STATE", "BY"], pinned))?;
        }
        print("\nLimits of one call, where a tool has no others:")?;
        let usual = info.limits.as_object().into_iter().flatten();
        print(&table(&["LIMIT", "VALUE"], usual.map(|(limit, value)| vec![limit.clone(), value.to_string()])))?;
        let tools = info.components.iter().flat_map(|component| &component.tools);
        let others: Vec<_> = tools.flat_map(|tool| differences(tool, &info.limits)).collect();
        if !others.is_empty() {
            print("\nTools with others:")?;
            print(&table(&["TOOL", "LIMIT", "VALUE"], others))?;
        }
        print_problems(&info)
    }
}

/// Prints the loads that go on now, if there are any.
fn print_loads(info: &Info) -> anyhow::Result<()> {
    if !info.opening.is_empty() {
        let opening = info.opening.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        print(&format!("the tools of these tenants are loaded for the first time: {opening}\n"))?;
    }
    let Some(loads) = &info.loads else { return Ok(()) };
    if let Some(component) = &loads.loading {
        print(&format!("loading {} for {} ms; {} more wait\n", clean(component), loads.for_ms, loads.queued))?;
    }
    Ok(())
}

/// The numbers of instances that run, wait, queue and stay, each beside its bound.
fn use_of(now: &Instances, most: &[String; 4]) -> String {
    let [running, waiting, queued, kept] = most;
    format!(
        "{} of {running} run, {} of {waiting} wait, {} of {queued} calls queue, {} of {kept} are kept",
        now.running, now.waiting, now.queued, now.kept
    )
}

/// The used bytes of each pool of memory, in MiB.
fn memory_of(pools: &[PoolInfo]) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let pool = |pool: &PoolInfo| format!("{} {} of {} MiB", pool.pool, mib(pool.used_bytes), mib(pool.bound_bytes));
    pools.iter().map(pool).collect::<Vec<_>>().join(", ")
}

/// Where a tool's limits in force are not the usual ones; and that its instances are used again.
fn differences(tool: &ToolInfo, usual: &Value) -> Vec<Vec<String>> {
    let row = |limit: &str, value: String| vec![tool.name.clone(), limit.to_owned(), value];
    let limits = tool.limits.as_object().into_iter().flatten();
    let others = limits.filter(|(limit, value)| usual.get(limit.as_str()) != Some(*value));
    let mut rows: Vec<_> = others.map(|(limit, value)| row(limit, value.to_string())).collect();
    if let Some(Reuse { calls, age_s, idle_s }) = tool.reuse {
        rows.push(row("reuse", format!("{calls} calls, {age_s} s after the first, {idle_s} s after the last")));
    }
    rows
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
    let info: Info = operator.ask(Method::GET, "/info").await?;
    if operator.json {
        print_json(&info.problems)?;
    } else {
        print_problems(&info)?;
    }
    Ok(u8::from(!info.problems.is_empty()))
}

fn print_problems(info: &Info) -> anyhow::Result<u8> {
    for problem in &info.problems {
        if problem.is_live || problem.component.starts_with("mount ") {
            print(&format!("\n{}:\n  {}", problem.component, clean(&problem.error)))?;
            continue;
        }
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

/// The outcome for each component of a tenant. Components of other tenants than `local` stand with the tenant's name.
fn print_report(tenant: &TenantId, report: &Report) -> anyhow::Result<()> {
    let owner = if *tenant == TenantId::local() { String::new() } else { format!("{tenant}/") };
    for (what, components) in
        [("loaded", &report.loaded), ("unchanged", &report.unchanged), ("removed", &report.removed)]
    {
        for component in components {
            print(&format!("{what} {owner}{component}"))?;
        }
    }
    for component in &report.loading {
        print(&format!("still loading {owner}{component}"))?;
    }
    for (component, error) in &report.failed {
        print(&format!("failed {owner}{component}: {}", clean(error)))?;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    data: Data,
    /// The only tenant to reload; all if none is named
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantId>,
}

impl Reload {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let operator = self.data.operator();
        let reports: BTreeMap<TenantId, Report> = match self.tenant {
            None => operator.ask(Method::POST, "/reload/all").await?,
            Some(tenant) => Operator { tenant, ..operator }.ask(Method::POST, "/reload").await?,
        };
        if self.data.json {
            print_json(&reports)?;
        } else {
            for (tenant, report) in &reports {
                print_report(tenant, report)?;
            }
        }
        Ok(u8::from(reports.values().any(|report| !report.failed.is_empty())))
    }
}
