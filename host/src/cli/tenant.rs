//! `mcpp tenant`: the teams that share the host.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Data, print, print_json, table, token};
use crate::{
    admin::Removal,
    auth::tokens::TokenFile,
    limits::TenantLimitsPatch,
    names::TenantId,
    store::{
        Store as _,
        embedded::{EmbeddedStore, disk::FileSystem},
    },
    tenant::home::{Home, Homes, TenantSettings},
    tenants::{Refreshed, removal},
};

#[derive(Debug, Args)]
pub(super) struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
    #[command(flatten)]
    data: Data,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Add a tenant, with a tools folder of its own
    Add {
        /// Its name: 1 to 64 characters of a-z, 0-9 and -
        tenant: TenantId,
        /// Let its components go live on save. Without this flag, a build that is new, asks for more or shows clients something else waits for `mcpp accept`
        #[arg(long)]
        trusted: bool,
        #[command(flatten)]
        limits: Limits,
    },
    /// List the tenants
    List,
    /// Show a tenant: its folder, limits, tokens
    Show {
        /// The tenant
        tenant: TenantId,
    },
    /// Change a tenant's limits
    Limit {
        /// The tenant
        tenant: TenantId,
        #[command(flatten)]
        limits: Limits,
    },
    /// Refuse a tenant's clients and stop its tools, until it is resumed
    Suspend {
        /// The tenant
        tenant: TenantId,
    },
    /// Let a suspended tenant in again
    Resume {
        /// The tenant
        tenant: TenantId,
    },
    /// Remove a tenant for good: its tools, data, grants, secrets and tokens
    Remove {
        /// The tenant
        tenant: TenantId,
        /// First copy its data, tools and grants into this folder, which the command makes
        #[arg(long, value_name = "DIR")]
        export: Option<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Limits {
    #[arg(long = "limit", value_name = "NAME=NUMBER", help = limits_help())]
    limits: Vec<String>,
}

/// The names of a tenant's limits.
const LIMITS: [&str; 17] = [
    "running",
    "waiting",
    "queued",
    "calls_per_minute",
    "sessions",
    "kept",
    "components",
    "connections",
    "streams",
    "traffic_bytes_per_second",
    "log_records_per_second",
    "log_bytes_per_second",
    "tasks",
    "task_bytes",
    "guest_bytes",
    "code_bytes",
    "message_bytes",
];
/// The value that takes a tenant's own limit away.
const DEFAULT: &str = "default";

fn limits_help() -> String {
    let names = LIMITS.join(", ");
    format!("A limit such as running=8, or running={DEFAULT} for the host's; may be repeated. The limits: {names}")
}

impl Limits {
    /// The limits that are set, and the names of those that are taken away.
    fn parse(&self) -> anyhow::Result<(TenantLimitsPatch, Vec<&str>)> {
        let (mut set, mut taken_away) = (Vec::new(), Vec::new());
        for limit in &self.limits {
            match limit.split_once('=') {
                Some((name, value)) if value.trim() == DEFAULT => {
                    let known = LIMITS.iter().find(|known| **known == name.trim());
                    taken_away.push(*known.with_context(|| format!("there is no limit {name:?}; {}", limits_help()))?);
                }
                _ => set.push(limit.as_str()),
            }
        }
        let form = || format!("a limit is NAME=NUMBER, or NAME={DEFAULT} for the host's");
        Ok((toml::from_str(&set.join("\n")).with_context(form)?, taken_away))
    }
}

impl TenantArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let homes = self.data.homes()?;
        match &self.command {
            TenantCommand::List => self.list(&homes)?,
            TenantCommand::Show { tenant } => self.show(&homes, tenant)?,
            TenantCommand::Add { tenant, trusted, limits } => {
                let (limits, _) = limits.parse()?;
                let settings = TenantSettings { pinned: !trusted, limits, ..TenantSettings::default() };
                let home = homes.add(tenant, settings)?;
                self.tell_host().await?;
                self.say(&home, "added")?;
                if !self.data.json {
                    print(&format!("its tools are the .wasm files in {}", home.tools().display()))?;
                    print(&format!("next: mcpp token create {tenant} SUBJECT"))?;
                }
            }
            TenantCommand::Limit { tenant, limits } => {
                let (home, (set, taken_away)) = (homes.find(tenant)?, limits.parse()?);
                if limits.limits.is_empty() {
                    bail!("--limit NAME=NUMBER is missing; `mcpp tenant show {tenant}` shows the limits");
                }
                // Limits that the command does not name stay as they were.
                let merged = merged(&home.settings()?.limits, &set, &taken_away)?;
                home.change(|settings| settings.limits = merged)?;
                self.tell_host().await?;
                self.say(&home, "limited")?;
            }
            TenantCommand::Suspend { tenant } => self.suspend(&homes, tenant, true).await?,
            TenantCommand::Resume { tenant } => self.suspend(&homes, tenant, false).await?,
            TenantCommand::Remove { tenant, export, yes } => self.remove(&homes, tenant, export.as_ref(), *yes).await?,
        }
        Ok(0)
    }

    async fn suspend(&self, homes: &Homes, tenant: &TenantId, suspended: bool) -> anyhow::Result<()> {
        if *tenant == TenantId::local() {
            bail!("the tenant `local` is the host's own user and cannot be suspended");
        }
        let home = homes.find(tenant)?;
        home.change(|settings| settings.suspended = suspended)?;
        self.tell_host().await?;
        self.say(&home, if suspended { "suspended" } else { "resumed" })
    }

    async fn remove(
        &self,
        homes: &Homes,
        tenant: &TenantId,
        export: Option<&PathBuf>,
        yes: bool,
    ) -> anyhow::Result<()> {
        homes.find(tenant)?;
        if !yes && !confirmed(tenant, export.is_some())? {
            bail!("nothing was removed");
        }
        let export = export.map(std::path::absolute).transpose()?;
        let operator = self.data.operator();
        let copied: u64 = if operator.is_running()? {
            let removal = Removal { tenant: tenant.clone(), export: export.clone() };
            operator.tell("/tenants/remove", &removal).await?.json().await?
        } else {
            let config = self.data.config()?;
            let store = EmbeddedStore::new(config.data_dir()?.join("store"), config.store, Arc::new(FileSystem))?;
            let copied = removal::remove(homes, tenant, export.as_deref(), &store).await?;
            store.close().await;
            copied
        };
        match export {
            _ if self.data.json => {
                print_json(&json!({ "tenant": tenant, "removed": true, "exported_entries": copied }))
            }
            Some(export) => print(&format!("removed {tenant}; {copied} entries of data are in {}", export.display())),
            None => print(&format!("removed {tenant}")),
        }
    }

    fn say(&self, home: &Home, done: &str) -> anyhow::Result<()> {
        if self.data.json { print_json(&self.shown(home)?) } else { print(&format!("{done} {}", home.tenant)) }
    }

    fn list(&self, homes: &Homes) -> anyhow::Result<()> {
        let tenants = homes.list()?.iter().map(|home| self.shown(home)).collect::<anyhow::Result<Vec<Value>>>()?;
        if self.data.json {
            return print_json(&tenants);
        }
        let tokens = TokenFile::new(homes.tokens()).read()?.unwrap_or_default();
        let text = |tenant: &Value, key: &str| tenant.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let rows = tenants.iter().map(|tenant| {
            let name = text(tenant, "tenant");
            let count = tokens.iter().filter(|token| token.tenant.as_str() == name).count();
            let suspended = tenant.get("suspended").and_then(Value::as_bool).unwrap_or_default();
            let state = if suspended { "suspended" } else { "open" };
            vec![name, state.to_owned(), count.to_string(), text(tenant, "tools")]
        });
        print(&table(&["TENANT", "STATE", "TOKENS", "TOOLS FOLDER"], rows))
    }

    fn show(&self, homes: &Homes, tenant: &TenantId) -> anyhow::Result<()> {
        let mut shown = self.shown(&homes.find(tenant)?)?;
        let mut tokens = TokenFile::new(homes.tokens()).read()?.unwrap_or_default();
        tokens.retain(|token| token.tenant == *tenant);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("tokens".into(), tokens.iter().map(token::shown).collect());
        }
        print_json(&shown)
    }

    fn shown(&self, home: &Home) -> anyhow::Result<Value> {
        let (settings, config) = (home.settings()?, self.data.config()?);
        // The folders and grants of `local` are the configuration's.
        let (pinned, tools, grants) = match home.tenant == TenantId::local() {
            true => (config.tools.pinned, json!(config.tools.folders), config.grants()?),
            false => (settings.pinned, json!(home.tools()), home.grants()),
        };
        Ok(json!({
            "tenant": home.tenant,
            "suspended": settings.suspended,
            "pinned": pinned,
            "created": settings.created.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
            "limits": settings.limits,
            "tools": tools,
            "grants": grants,
        }))
    }

    /// Makes a running host read the files again. A host that does not run reads them when it starts.
    async fn tell_host(&self) -> anyhow::Result<()> {
        let operator = self.data.operator();
        if !operator.is_running()? {
            return Ok(());
        }
        let refreshed: Refreshed = operator.ask(reqwest::Method::POST, "/tenants/refresh").await?;
        match refreshed.failed.first() {
            Some((tenant, error)) => bail!("the host could not open {tenant}: {error}"),
            None => Ok(()),
        }
    }
}

fn merged(
    before: &TenantLimitsPatch,
    set: &TenantLimitsPatch,
    taken_away: &[&str],
) -> anyhow::Result<TenantLimitsPatch> {
    let mut table = toml::Table::try_from(before)?;
    table.retain(|name, _| !taken_away.contains(&name));
    table.extend(toml::Table::try_from(set)?);
    Ok(table.try_into()?)
}

fn confirmed(tenant: &TenantId, exported: bool) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("removing a tenant cannot be undone; say --yes if that is what you want");
    }
    let lost =
        if exported { "its secrets and tokens are lost" } else { "all its data is lost; --export DIR keeps a copy" };
    super::remote::tell(&format!("remove {tenant}? {lost}. Type its name to go on:"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == tenant.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(given: &[&str]) -> Limits {
        Limits { limits: given.iter().map(|limit| (*limit).to_owned()).collect() }
    }

    #[test]
    fn the_help_names_every_limit() {
        let unknown = toml::from_str::<TenantLimitsPatch>("nope = 1").expect_err("no limit").to_string();
        let known = unknown.split('`').skip(3).step_by(2);
        let known: std::collections::BTreeSet<&str> = known.collect();
        assert_eq!(known, LIMITS.into(), "{unknown}");
    }

    #[test]
    fn a_limit_is_set_and_taken_away() {
        let both = limits(&["running=8", "kept=2"]);
        let (before, _) = both.parse().expect("legal");
        let back = limits(&["running=default", "waiting = 3"]);
        let (set, taken_away) = back.parse().expect("legal");
        let after = merged(&before, &set, &taken_away).expect("merged");
        assert_eq!(after, limits(&["kept=2", "waiting=3"]).parse().expect("legal").0);
        for bad in ["running=", "running", "nope=default", "nope=1", "running=0"] {
            assert!(limits(&[bad]).parse().is_err(), "{bad}");
        }
    }
}
