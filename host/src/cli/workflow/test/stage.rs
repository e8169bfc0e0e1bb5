//! The host on which workflows are rehearsed: its store is thrown away, and nothing of it reaches other machines or the files of this one.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;
use tokio::time::Instant;
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item};

use super::{
    TestArgs,
    effects::{EffectPlace, SeenEffects},
};
use crate::{
    config::Config,
    host::Host,
    mcp::client::{Client, ClientConfig},
    names::TenantId,
    store::{Bounds, Entry, MAX_PAGE_ENTRIES, Scan, Section, Space, after_key},
};

/// The folder in the data directory in which the host has its own files. The compiled components in it stay.
const FOLDER: &str = "rehearsal";
/// The component whose own data are no effect.
const WORKFLOW: &str = "workflow";
/// How long events and timers that are due may take to be handled.
const SETTLE: Duration = Duration::from_secs(5);
/// A rule for requests that reach nothing: a component with HTTP needs one to be loaded.
const NOWHERE: &str = "https://rehearsal.invalid";
/// Most entries and files that are looked at.
const MAX_EFFECTS: usize = 100_000;

/// The host, and a client of it.
pub(super) struct Stage {
    host: Host,
    pub(super) client: Client,
    data: PathBuf,
}

impl Stage {
    /// Starts the host with the tools and grants of another one.
    pub(super) async fn open(args: &TestArgs) -> anyhow::Result<Self> {
        let mut config = Config::load(args.config.as_deref(), |_| None)?;
        if args.data.is_some() {
            config.data.dir.clone_from(&args.data);
        }
        let (theirs, data) = (config.grants()?, config.data_dir()?.join(FOLDER));
        throw_away(&data)?;
        let grants = data.join("grants");
        std::fs::create_dir_all(&grants).with_context(|| format!("cannot make {}", grants.display()))?;
        for file in std::fs::read_dir(&theirs).into_iter().flatten().flatten() {
            let (path, name) = (file.path(), file.file_name());
            if path.extension().is_some_and(|extension| extension == "toml") {
                let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let folder = data.join("files").join(path.file_stem().unwrap_or_default());
                let held_back =
                    harmless(&text, &folder).with_context(|| format!("cannot use the grant {}", path.display()))?;
                std::fs::write(grants.join(&name), held_back)
                    .with_context(|| format!("cannot write {}", grants.join(&name).display()))?;
            }
        }
        config.data.dir = Some(data.clone());
        config.tools.folders.extend(args.tools.iter().cloned());
        config.tools.grants = Some(grants);
        config.tools.builtin = true;
        config.tools.pinned = false;
        config.server.http = true;
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.mesh.enabled = false;
        let host = Box::pin(Host::start(config, Arc::new(|| {}))).await?;
        host.loaded().await;
        let config = ClientConfig { url: host.url(), token: None, timeout: Duration::from_secs(60), retries: 3 };
        let client = Client::connect(config, Arc::new(|_, _, _| {}), None).await?;
        Ok(Self { host, client, data })
    }

    /// Stops the host and throws its store away.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.client.close().await;
        self.host.stop().await;
        throw_away(&self.data)
    }

    /// The tools that say they change nothing.
    pub(super) async fn read_only_tools(&self) -> anyhow::Result<BTreeSet<String>> {
        let is_read_only = |tool: &&Value| tool.pointer("/annotations/readOnlyHint") == Some(&Value::Bool(true));
        let name = |tool: &Value| Some(tool.get("name")?.as_str()?.to_owned());
        Ok(self.client.tools().await?.iter().filter(is_read_only).filter_map(name).collect())
    }

    async fn spaces(&self) -> anyhow::Result<Vec<Space>> {
        let mut spaces = self.host.registry().store().spaces(&TenantId::local()).await?;
        spaces.retain(|space| space.component.as_str() != WORKFLOW);
        Ok(spaces)
    }

    async fn entries(&self, space: &Space, sections: &[Section]) -> anyhow::Result<Vec<Entry>> {
        let snapshot = self.host.registry().store().snapshot(space).await?;
        let mut entries = Vec::new();
        for section in sections {
            let mut range = section.prefix(b"");
            loop {
                let page = snapshot.scan(&range, Scan::first(MAX_PAGE_ENTRIES)).await?;
                if let Some(last) = page.entries.last() {
                    range.start = after_key(&last.key);
                }
                entries.extend(page.entries);
                anyhow::ensure!(entries.len() <= MAX_EFFECTS, "{space} has more than {MAX_EFFECTS} entries");
                if !page.more {
                    break;
                }
            }
        }
        Ok(entries)
    }

    /// All effects that are there, once nothing is under way any more.
    pub(super) async fn effects(&self) -> anyhow::Result<SeenEffects> {
        let until = Instant::now() + SETTLE;
        let mut effects = SeenEffects::default();
        for space in self.spaces().await? {
            while !self.entries(&space, &[Section::Deliveries]).await?.is_empty() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            for entry in self.entries(&space, &[Section::Data, Section::KeyValue, Section::Timers]).await? {
                let component = space.component.as_str().to_owned();
                let place = EffectPlace { component, key: entry.key.to_vec() };
                effects.0.insert(place, blake3::hash(&entry.value).into());
            }
        }
        for component in std::fs::read_dir(self.data.join("files")).into_iter().flatten().flatten() {
            let name = component.file_name().to_string_lossy().into_owned();
            files(&component.path(), &name, &mut effects)?;
        }
        Ok(effects)
    }

    /// Removes all effects.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        let all =
            [Section::Data, Section::KeyValue, Section::Timers, Section::Due, Section::Deliveries, Section::Parked];
        for space in self.spaces().await? {
            let entries = self.entries(&space, &all).await?;
            for part in entries.chunks(MAX_PAGE_ENTRIES) {
                let mut transaction = self.host.registry().store().begin(&space, Bounds::host()).await?;
                transaction.write_many(part.iter().map(|entry| (entry.key.clone(), None)).collect()).await?;
                transaction.commit().await?;
            }
        }
        for component in std::fs::read_dir(self.data.join("files")).into_iter().flatten().flatten() {
            for folder in std::fs::read_dir(component.path()).into_iter().flatten().flatten() {
                std::fs::remove_dir_all(folder.path())?;
                std::fs::create_dir(folder.path())?;
            }
        }
        Ok(())
    }
}

/// Adds the files below a folder.
fn files(folder: &Path, component: &str, effects: &mut SeenEffects) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        anyhow::ensure!(effects.0.len() <= MAX_EFFECTS, "there are more than {MAX_EFFECTS} files");
        if entry.file_type()?.is_dir() {
            files(&entry.path(), component, effects)?;
        } else {
            let place =
                EffectPlace { component: component.into(), key: entry.path().into_os_string().into_encoded_bytes() };
            effects.0.insert(place, blake3::hash(&std::fs::read(entry.path())?).into());
        }
    }
    Ok(())
}

/// Removes what rehearsals have left; compiled components stay.
fn throw_away(data: &Path) -> anyhow::Result<()> {
    for name in ["store", "files", "grants"] {
        let path = data.join(name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A grant without what reaches other machines, and with empty folders, made below `folder`, in the place of those that may be written.
fn harmless(text: &str, folder: &Path) -> anyhow::Result<String> {
    let mut grant: DocumentMut = text.parse()?;
    for key in ["mesh", "secrets"] {
        grant.remove(key);
    }
    if grant.remove("http").is_some() {
        let mut rule = InlineTable::new();
        rule.insert("url", NOWHERE.into());
        grant.insert("http", toml_edit::value(Array::from_iter([rule])));
    }
    let replace = |number: usize, mode: Option<&str>| -> anyhow::Result<Option<String>> {
        if mode != Some("read-write") {
            return Ok(None);
        }
        let own = folder.join(number.to_string());
        std::fs::create_dir_all(&own)?;
        Ok(Some(own.to_string_lossy().into_owned()))
    };
    match grant.get_mut("files") {
        Some(Item::ArrayOfTables(folders)) => {
            let folders: &mut ArrayOfTables = folders;
            for (number, table) in folders.iter_mut().enumerate() {
                if let Some(own) = replace(number, table.get("mode").and_then(Item::as_str))? {
                    table.insert("path", toml_edit::value(own));
                }
            }
        }
        Some(Item::Value(toml_edit::Value::Array(folders))) => {
            for (number, value) in folders.iter_mut().enumerate() {
                let Some(table) = value.as_inline_table_mut() else { continue };
                if let Some(own) = replace(number, table.get("mode").and_then(toml_edit::Value::as_str))? {
                    table.insert("path", own.into());
                }
            }
        }
        _ => {}
    }
    Ok(grant.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_reaches_nothing_and_writes_only_folders_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = "version = 1\nstore = {}\n[mesh]\nsee = true\n[secrets]\nKEY = [\"https://a.example\"]\n[[http]]\nurl = \"https://a.example\"\n\
                    [[files]]\npath = \"/srv/in\"\nat = \"/in\"\n[[files]]\npath = \"/srv/out\"\nat = \"/out\"\nmode = \"read-write\"\n";
        let held_back = harmless(text, folder.path()).expect("a grant");
        let grant: toml::Table = toml::from_str(&held_back).expect("TOML");
        assert_eq!((grant.get("mesh"), grant.get("secrets")), (None, None));
        assert_eq!(grant["http"][0]["url"].as_str(), Some(NOWHERE));
        assert_eq!(grant["files"][0]["path"].as_str(), Some("/srv/in"));
        let own = grant["files"][1]["path"].as_str().expect("a path");
        assert!(own.starts_with(folder.path().to_str().expect("text")) && Path::new(own).is_dir(), "{held_back}");
    }
}
