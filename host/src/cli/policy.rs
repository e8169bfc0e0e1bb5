//! `mcpp grant`, `revoke`, `test`, `explain` and `learn`: what a component may do, from an operator's side.
//!
//! Grants are files. These commands keep a valid file valid, keep its comments, and then tell the host.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use reqwest::Method;
use toml_edit::DocumentMut;
use url::Url;

use super::{Operator, clean, print, print_json, remote::tell, shell_word};
use crate::{
    admin::Explanation,
    files::{lock, write_durably},
    grants::{
        ComponentGrant,
        container::{full_image, is_repository},
        edit::{self, EditError},
        question::{Denial, Question},
    },
    mesh::PeerId,
    names::{ComponentName, TenantId, ToolName, Topic},
    reload::{Report, shipped},
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

/// The grant of a component, to be changed: the operator's, or what a built-in component is shipped with.
fn read(file: &Path, component: &str) -> Result<DocumentMut, EditError> {
    edit::read(file, shipped::grant(component).unwrap_or_default())
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
            let text = match (std::fs::read_to_string(&file), shipped::grant(&self.component)) {
                (Ok(text), _) => text,
                (Err(error), Some(shipped)) if error.kind() == std::io::ErrorKind::NotFound => shipped.to_owned(),
                (Err(error), _) => Err(error)
                    .with_context(|| format!("{} has no grant of its own ({})", self.component, file.display()))?,
            };
            print(&text)?;
            return Ok(0);
        }
        let _one_at_a_time = lock(&file)?;
        let document = edit::extend_grant(read(&file, &self.component)?, self.what)?;
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
        let mut document = match file.exists() || shipped::grant(&self.component).is_some() {
            true => read(&file, &self.component)?,
            false => bail!("{} has no grant of its own", self.component),
        };
        // The file stays: without one, a built-in component would have the grant that it is shipped with.
        edit::cut(&mut document, &self.keys).with_context(|| self.component.clone())?;
        self.operator.put(&self.component, &document).await?;
        if shipped::grant(&self.component).is_some() {
            tell(&format!(
                "{} is shipped with a grant, which {} replaces; to go back to it, delete that file and run `mcpp reload`",
                self.component,
                file.display()
            ));
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Test {
    /// The component
    component: String,
    #[command(subcommand)]
    what: TestedUse,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Debug, Subcommand)]
enum TestedUse {
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
    /// Whether it may call a tool of a peer. The tenant's membership there is another matter
    Peer {
        /// The peer's id
        peer: PeerId,
        /// The tool's name there
        tool: String,
    },
    /// Whether it may subscribe to a topic
    Topic {
        /// Such as orders/ordered
        topic: String,
    },
    /// Whether it may run an image in a container. The host's settings must allow it too
    Image {
        /// Such as python:3.12-slim
        image: String,
    },
    /// Whether it may run what is built of a repository; likewise
    Repository {
        /// Such as https://github.com/org/name
        url: String,
    },
    /// Whether it has a store
    Store,
}

impl TestedUse {
    fn question(self, component: &ComponentName) -> anyhow::Result<Question> {
        Ok(match self {
            Self::Http { method, url } => Question::http(&method, &url).context("the URL has no host")?,
            Self::Call { tool } => Question::Call(ToolName::new(&tool)?),
            Self::Peer { peer, tool } => Question::Peer(peer, ToolName::new(&tool)?),
            Self::Topic { topic } => {
                let known = Topic::parse(&topic, component);
                Question::Topic(known.with_context(|| format!("{topic:?} is not a topic"))?)
            }
            Self::Image { image } => {
                Question::Image(full_image(&image).with_context(|| format!("{image:?} is no image's name"))?)
            }
            Self::Repository { url } => {
                anyhow::ensure!(is_repository(&url), "{url:?} is no `https:` URL of a repository");
                Question::Repository(url)
            }
            Self::Store => Question::Store,
        })
    }
}

impl Test {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let file = self.operator.grant_file(&self.component)?;
        let grant = if file.exists() { ComponentGrant::load(&file)? } else { ComponentGrant::default() };
        let component = ComponentName::new(&self.component)?;
        let denied = self.what.question(&component)?.denied(&grant, &component);
        if self.operator.json {
            let (reason, add) = denied.clone().map(|Denial { reason, add }| (reason, add)).unzip();
            print_json(&serde_json::json!({ "allowed": denied.is_none(), "reason": reason, "add": add.flatten() }))?;
        } else {
            match &denied {
                None => print("allowed")?,
                Some(Denial { reason, add }) => {
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
                Some(lines) => {
                    let (lines, flags) = (shell_word(&clean(lines)), self.operator.flags());
                    print(&format!("  to allow it: mcpp grant {} {lines}{flags}", self.component))?;
                }
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
        let policy = edit::least_grant(&found.notes.notes)?;
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

async fn explanation(operator: &Operator, component: &str) -> anyhow::Result<Explanation> {
    let component = ComponentName::new(component)?;
    operator.ask(Method::GET, &format!("/notes/{component}")).await
}
