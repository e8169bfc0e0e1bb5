//! `mcpp tenant`: the teams that share the host.

use std::{io::IsTerminal as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Data, print, print_json, table};
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
    /// A limit such as running=8 (running, waiting, queued, calls_per_minute, sessions, kept, log_records_per_second, log_bytes_per_second); may be repeated
    #[arg(long = "limit", value_name = "NAME=NUMBER")]
    limits: Vec<String>,
}

impl Limits {
    fn parse(&self) -> anyhow::Result<TenantLimitsPatch> {
        toml::from_str(&self.limits.join("\n")).context("a limit is NAME=NUMBER")
    }
}

impl TenantArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let homes = self.data.homes()?;
        match &self.command {
            TenantCommand::List => self.list(&homes)?,
            TenantCommand::Show { tenant } => self.show(&homes, tenant)?,
            TenantCommand::Add { tenant, trusted, limits } => {
                let settings =
                    TenantSettings { pinned: !trusted, limits: limits.parse()?, ..TenantSettings::default() };
                let home = homes.add(tenant, settings)?;
                self.tell_host().await?;
                self.say(&home, "added")?;
                if !self.data.json {
                    print(&format!("its tools are the .wasm files in {}", home.tools().display()))?;
                    print(&format!("next: mcpp token create {tenant} SUBJECT"))?;
                }
            }
            TenantCommand::Limit { tenant, limits } => {
                let (home, patch) = (homes.find(tenant)?, limits.parse()?);
                // Limits that the command does not name stay as they were.
                let merged = merged(&home.settings()?.limits, &patch)?;
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
        if self.data.json { print_json(&shown(home)?) } else { print(&format!("{done} {}", home.tenant)) }
    }

    fn list(&self, homes: &Homes) -> anyhow::Result<()> {
        let tenants = homes.list()?.iter().map(shown).collect::<anyhow::Result<Vec<Value>>>()?;
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
        print_json(&shown(&homes.find(tenant)?)?)
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

fn merged(before: &TenantLimitsPatch, patch: &TenantLimitsPatch) -> anyhow::Result<TenantLimitsPatch> {
    let mut table = toml::Table::try_from(before)?;
    table.extend(toml::Table::try_from(patch)?);
    Ok(table.try_into()?)
}

fn shown(home: &Home) -> anyhow::Result<Value> {
    let settings = home.settings()?;
    let local = home.tenant == TenantId::local();
    Ok(json!({
        "tenant": home.tenant,
        "suspended": settings.suspended,
        "pinned": settings.pinned,
        "created": settings.created.map(|time| humantime::format_rfc3339_seconds(time).to_string()),
        "limits": settings.limits,
        "tools": (!local).then(|| home.tools()),
        "grants": home.grants(),
    }))
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
