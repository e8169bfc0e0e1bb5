//! `mcpp grant`, `revoke`, `test`, `explain` and `learn`: what a component may do, from an operator's side.
//!
//! Grants are files. These commands keep a valid file valid, keep its comments, and then tell the host.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};
use url::Url;

use super::{Operator, clean, print, print_json, remote::tell};
use crate::{
    admin::Explanation,
    files::{lock, write_durably},
    grants::{ComponentGrant, FORMAT_VERSION, files::FolderGrant, ledger::Note},
    names::{ComponentName, TenantId, ToolName, Topic},
    reload::Report,
    tenant::home::Homes,
};

impl Operator {
    /// The file of a component's grant.
    fn grant_file(&self, component: &str) -> anyhow::Result<PathBuf> {
        let component = ComponentName::new(component)?;
        let config = self.load_config()?;
        let folder = if self.tenant == TenantId::local() {
            config.grants()?
        } else {
            Homes::new(config.data_dir()?).find(&self.tenant)?.grants()
        };
        Ok(folder.join(format!("{component}.toml")))
    }

    /// Writes a grant that is valid, and tells the host if one runs.
    async fn put(&self, component: &str, document: &DocumentMut) -> anyhow::Result<()> {
        let (file, text) = (self.grant_file(component)?, document.to_string());
        ComponentGrant::parse(&file, &text)?;
        write_durably(&file, text.as_bytes()).with_context(|| format!("cannot write {}", file.display()))?;
        self.tell_reload(component).await?;
        if self.json { print_json(&serde_json::json!({ "file": file, "grant": text })) } else { print(&text) }
    }

    async fn tell_reload(&self, component: &str) -> anyhow::Result<()> {
        if !self.is_running()? {
            return Ok(());
        }
        let reports: std::collections::BTreeMap<TenantId, Report> = self.ask(Method::POST, "/reload").await?;
        if let Some(error) = reports.get(&self.tenant).and_then(|report| report.failed.get(component)) {
            tell(&format!("{component} is not live: {}", clean(error)));
        }
        Ok(())
    }
}

fn read(file: &PathBuf) -> anyhow::Result<DocumentMut> {
    match std::fs::read_to_string(file) {
        Ok(text) => text.parse().with_context(|| format!("{} is not TOML", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut document = DocumentMut::new();
            document.insert("version", toml_edit::value(i64::from(FORMAT_VERSION)));
            Ok(document)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Adds what `more` says: lists grow, tables grow, a directory that was read may be written, anything else is replaced.
fn merge(into: &mut Table, more: &Table) {
    for (key, item) in more {
        match (into.get_mut(key), item) {
            (Some(_), Item::Value(Value::Array(more))) if more.is_empty() => {}
            (Some(Item::ArrayOfTables(known)), Item::ArrayOfTables(more)) if key == "files" => {
                more.iter().for_each(|folder| add_folder(known, folder));
            }
            (Some(Item::Value(Value::Array(known))), Item::Value(Value::Array(more))) => extend(known, more),
            (Some(Item::ArrayOfTables(known)), Item::ArrayOfTables(more)) => {
                let new = |table: &&Table| !known.iter().any(|known| same(known, table));
                let new: Vec<Table> = more.iter().filter(new).cloned().collect();
                known.extend(new);
            }
            (Some(known), item) if known.is_table_like() && item.is_table_like() => {
                let mut table = as_table(known);
                merge(&mut table, &as_table(item));
                *known = Item::Table(table);
            }
            _ => drop(into.insert(key, item.clone())),
        }
    }
}

/// Adds a directory, or widens what may be done with one that is there.
fn add_folder(known: &mut ArrayOfTables, folder: &Table) {
    let parse = |table: &Table| toml::from_str::<FolderGrant>(&table.to_string()).ok();
    let new = parse(folder);
    let place = |grant: &FolderGrant| (grant.path.clone(), grant.at.clone());
    let is_same = |table: &Table| new.is_some() && parse(table).as_ref().map(place) == new.as_ref().map(place);
    let Some(place) = known.iter().position(is_same) else { return known.push(folder.clone()) };
    if let (Some(known), Some(new)) = (known.get_mut(place), &new)
        && parse(known).is_some_and(|known| new.mode > known.mode)
    {
        known.insert("mode", toml_edit::value(new.mode.to_string()));
    }
}

fn same(a: &Table, b: &Table) -> bool {
    let bare = |table: &Table| {
        table.iter().map(|(key, item)| (key.to_owned(), item.to_string().trim().to_owned())).collect::<Vec<_>>()
    };
    bare(a) == bare(b)
}

fn as_table(item: &Item) -> Table {
    item.clone().into_table().unwrap_or_default()
}

fn extend(known: &mut Array, more: &Array) {
    for value in more {
        if !known.iter().any(|known| known.to_string().trim() == value.to_string().trim()) {
            known.push_formatted(value.clone().decorated(if known.is_empty() { "" } else { " " }, ""));
        }
    }
}

/// Joins several pieces of grants. A list of rules that are written in a line each becomes one of tables.
fn together(pieces: impl IntoIterator<Item = String>, mut document: DocumentMut) -> anyhow::Result<DocumentMut> {
    for piece in pieces {
        let more: DocumentMut =
            piece.parse().with_context(|| format!("{piece:?} is not a part of a grant, such as 'store = {{}}'"))?;
        let mut table = Table::new();
        for (key, item) in more.as_table() {
            table.insert(key, tables(item));
        }
        for (key, item) in document.as_table_mut().iter_mut() {
            if table.get(&key).is_some_and(Item::is_array_of_tables) {
                *item = tables(item);
            }
        }
        merge(document.as_table_mut(), &table);
    }
    Ok(document)
}

/// The text of a grant with these pieces of grants added, as `mcpp grant` adds them.
pub fn grant_with(text: &str, pieces: impl IntoIterator<Item = String>) -> anyhow::Result<String> {
    Ok(together(pieces, text.parse().context("the grant is not TOML")?)?.to_string())
}

/// A list of inline tables as tables; anything else as it is.
fn tables(item: &Item) -> Item {
    let Item::Value(Value::Array(array)) = item else { return item.clone() };
    if array.is_empty() || !array.iter().all(Value::is_inline_table) {
        return item.clone();
    }
    let tables = array.iter().filter_map(|value| value.as_inline_table().cloned()).map(|table| table.into_table());
    Item::ArrayOfTables(ArrayOfTables::from_iter(tables))
}

#[derive(Debug, Args)]
pub(super) struct GrantArgs {
    /// The component
    component: String,
    /// Lines to add to its grant, such as 'store = {}', 'call = ["text_*"]' or 'http = [{ url = "https://api.example.com/*" }]'. Without any, the command shows the grant
    #[arg(value_name = "TOML")]
    what: Vec<String>,
    #[command(flatten)]
    operator: Operator,
}

impl GrantArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let file = self.operator.grant_file(&self.component)?;
        if self.what.is_empty() {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("{} has no grant of its own ({})", self.component, file.display()))?;
            print(&text)?;
            return Ok(0);
        }
        let _one_at_a_time = lock(&file)?;
        let document = together(self.what, read(&file)?)?;
        self.operator.put(&self.component, &document).await?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The component
    component: String,
    /// The keys to take out of its grant, such as store or http. Without any, the whole grant
    #[arg(value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    operator: Operator,
}

impl Revoke {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let file = self.operator.grant_file(&self.component)?;
        let _one_at_a_time = lock(&file)?;
        if !file.exists() {
            bail!("{} has no grant of its own", self.component);
        }
        let mut document = read(&file)?;
        if self.keys.is_empty() {
            // The file stays: without one, a built-in component would have the grant that it is shipped with.
            document.retain(|key, _| key == "version");
        }
        for key in &self.keys {
            if key == "version" || document.remove(key).is_none() {
                bail!("the grant of {} has no {key:?}", self.component);
            }
        }
        self.operator.put(&self.component, &document).await?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The component
    component: String,
    #[command(subcommand)]
    what: Question,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Debug, Subcommand)]
enum Question {
    /// Whether it may make a request. The command does not look up the host's name
    Http {
        /// Such as GET
        method: String,
        /// Such as https://api.example.com/v1/things
        url: Url,
    },
    /// Whether it may call a tool
    Call {
        /// The tool's name
        tool: String,
    },
    /// Whether it may subscribe to a topic
    Topic {
        /// Such as orders/ordered
        topic: String,
    },
    /// Whether it has a store
    Store,
}

impl Test {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let file = self.operator.grant_file(&self.component)?;
        let grant = if file.exists() { ComponentGrant::load(&file)? } else { ComponentGrant::default() };
        let denied = denied(&grant, &self.component, &self.what)?;
        if self.operator.json {
            let (reason, add) = denied.clone().unzip();
            print_json(&serde_json::json!({ "allowed": denied.is_none(), "reason": reason, "add": add.flatten() }))?;
        } else {
            match &denied {
                None => print("allowed")?,
                Some((reason, add)) => {
                    print(&format!("denied: {}", clean(reason)))?;
                    if let Some(add) = add {
                        print(&format!("to allow it, add to {}:\n{}", file.display(), clean(add)))?;
                    }
                }
            }
        }
        Ok(u8::from(denied.is_some()))
    }
}

/// Why it is denied, and what to add, if it is.
fn denied(
    grant: &ComponentGrant,
    component: &str,
    what: &Question,
) -> anyhow::Result<Option<(String, Option<String>)>> {
    Ok(match what {
        Question::Http { method, url } => {
            let host = url.host_str().context("the URL has no host")?;
            let checked = grant.http.check(method, url.scheme(), host, url.port(), url.path());
            checked.err().map(|denied| (denied.to_string(), denied.advice()))
        }
        Question::Call { tool } => {
            let tool = ToolName::new(tool)?;
            let allowed = grant.call.iter().any(|pattern| pattern.matches(&tool));
            (!allowed).then(|| (format!("it may not call `{tool}`"), Some(format!("call = [\"{tool}\"]"))))
        }
        Question::Topic { topic } => {
            let own = ComponentName::new(component)?;
            let topic = Topic::parse(topic, &own).with_context(|| format!("{topic:?} is not a topic"))?;
            let allowed = topic.component == own || grant.subscribe.iter().any(|pattern| pattern.matches(&topic));
            (!allowed).then(|| (format!("it is not told of {topic}"), Some(format!("subscribe = [\"{topic}\"]"))))
        }
        Question::Store => grant.store.is_none().then(|| ("it has no store".into(), Some("store = {}".into()))),
    })
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The component
    component: String,
    #[command(flatten)]
    operator: Operator,
}

impl Explain {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let found = explanation(&self.operator, &self.component).await?;
        if self.operator.json {
            print_json(&found)?;
            return Ok(0);
        }
        if let Some(problem) = &found.problem {
            print(&format!("it is not live: {}", clean(problem)))?;
        }
        let mut denied = found.notes.notes.iter().filter(|note| note.denied.is_some()).peekable();
        if denied.peek().is_none() && found.problem.is_none() {
            print(&format!("{} was denied nothing since the host started", self.component))?;
        }
        for note in denied {
            let why = note.denied.as_deref().unwrap_or_default();
            print(&format!("denied {} times, last in `{}`: {}", note.count, clean(&note.tool), clean(why)))?;
            match &note.grant {
                Some(lines) => print(&format!("  to allow it: mcpp grant {} '{}'", self.component, clean(lines)))?,
                None => print("  no grant can allow it")?,
            }
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Learn {
    /// The component
    component: String,
    #[command(flatten)]
    operator: Operator,
}

impl Learn {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let found = explanation(&self.operator, &self.component).await?;
        let policy = least(&found.notes.notes)?;
        if self.operator.json {
            print_json(&serde_json::json!({ "grant": policy, "dropped": found.notes.dropped }))?;
        } else {
            print(&policy)?;
        }
        if found.notes.dropped > 0 {
            tell(&format!("{} more kinds of use were not noted: there were too many", found.notes.dropped));
        }
        Ok(0)
    }
}

/// The least grant under which all that was noted would be allowed.
fn least(notes: &[Note]) -> anyhow::Result<String> {
    let empty = format!("version = {FORMAT_VERSION}\n").parse()?;
    Ok(together(notes.iter().filter_map(|note| note.grant.clone()), empty)?.to_string())
}

async fn explanation(operator: &Operator, component: &str) -> anyhow::Result<Explanation> {
    let component = ComponentName::new(component)?;
    operator.ask(Method::GET, &format!("/notes/{component}")).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::files::FolderMode;

    fn merged(text: &str, pieces: &[&str]) -> String {
        grant_with(text, pieces.iter().map(|piece| (*piece).to_owned())).expect("TOML")
    }

    #[test]
    fn a_grant_grows_and_keeps_its_comments() {
        let before = "version = 1\n# why\ncall = [\"a\"] # here\n[limits]\nmemory_bytes = 1048576\n";
        let after = merged(
            before,
            &[
                "call = [\"b\", \"a\"]",
                "[limits]\ncpu_ms = 5",
                "store = {}",
                "[[http]]\nurl = \"https://a.com/x\"\nmethods = [\"GET\"]",
                "http = [{ url = \"https://b.com/*\" }]",
                "http = []",
                "[[http]]\nurl = \"https://a.com/x\"\nmethods = [\"GET\"]",
            ],
        );
        assert!(after.contains("# why\ncall = [\"a\", \"b\"] # here"), "{after}");
        let grant = ComponentGrant::parse(std::path::Path::new("x"), &after).expect("valid");
        assert!(grant.store.is_some() && grant.limits.cpu_ms.is_some() && grant.limits.memory_bytes.is_some());
        assert!(grant.http.check("GET", "https", "b.com", None, "/y").is_ok());
        assert_eq!(after.matches("[[http]]").count(), 2, "{after}");
    }

    #[test]
    fn what_was_noted_is_what_the_least_grant_allows() {
        let note = |grant: &str, denied: Option<&str>| Note {
            grant: Some(grant.into()),
            denied: denied.map(str::to_owned),
            tool: "t".into(),
            count: 1,
            last: 0,
        };
        let policy = least(&[
            note("store = {}", None),
            note("call = [\"text_hash\"]", Some("no")),
            note("call = [\"text_count\"]", None),
            note("[secrets]\nA = [\"https://a.com\"]", None),
            note("[secrets]\nB = [\"https://a.com\"]", Some("no")),
            note("[[http]]\nurl = \"https://a.com/v1\"\nmethods = [\"GET\"]", None),
            note("[[http]]\nurl = \"https://a.com/v2\"\nmethods = [\"PUT\"]", Some("no")),
            note("[[files]]\npath = \"/a\"\nat = \"/in\"\nmode = \"read\"", None),
            note("[[files]]\npath = \"/b\"\nat = \"/out\"\nmode = \"read-write\"", None),
            note("[[files]]\npath = \"/b\"\nat = \"/out\"\nmode = \"read\"", None),
            note("[[files]]\npath = \"/a\"\nat = \"/in\"\nmode = \"read-write\"", Some("no")),
        ])
        .expect("TOML");
        let grant = ComponentGrant::parse(std::path::Path::new("x"), &policy).expect("valid");
        let allows = |what: Question| denied(&grant, "c", &what).expect("legal").is_none();
        let http = |method: &str, url: &str| Question::Http { method: method.into(), url: url.parse().expect("a URL") };
        assert!(allows(Question::Store) && allows(Question::Call { tool: "text_hash".into() }), "{policy}");
        assert!(allows(http("GET", "https://a.com/v1")) && allows(http("PUT", "https://a.com/v2")));
        let folders: Vec<_> = grant.files.iter().map(|folder| (folder.at.as_str(), folder.mode)).collect();
        assert_eq!(folders, [("/in", FolderMode::ReadWrite), ("/out", FolderMode::ReadWrite)], "{policy}");
        assert!(!allows(http("PUT", "https://a.com/v1")) && !allows(Question::Call { tool: "text_x".into() }));
    }
}
