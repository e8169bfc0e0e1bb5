//! Reasons for which a build cannot become its component's live revision, each with the remedy.

use crate::{capability::files::FolderError, names::ComponentName};

/// A build does not fit the catalog, or the grant under which it would serve.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The host cannot open a directory of its grant.
    #[error(transparent)]
    Files(#[from] FolderError),
    /// Its schemas are too large together.
    #[error("the compiled schemas of its tools have more than {0} bytes together")]
    SchemasTooLarge(u64),
    /// The tenant has too many components.
    #[error(
        "there are {0} components already, as many as the tenant may have (`components` of its limits); remove one"
    )]
    TooManyComponents(u64),
    /// It lists a tool that is not legal.
    #[error("its tool `{tool}` is refused: {reason}")]
    Tool {
        /// The tool's name as the component gives it.
        tool: String,
        /// The fault.
        reason: String,
    },
    /// A tool's name is not legal, or two of its tools have it.
    #[error(
        "its tool `{tool}` is refused: {reason}; give it another name with `rename = {{ \"{tool}\" = \"…\" }}` in `grants/{component}.toml`"
    )]
    ToolName {
        /// The tool's name as the component gives it.
        tool: String,
        /// The fault.
        reason: String,
        /// The component.
        component: ComponentName,
    },
    /// Its grant names a tool that it does not have.
    #[error("`{key}` in its grant names `{tool}`, which is none of its tools{}", listed(.known))]
    NoSuchTool {
        /// Key of the grant that names the tool.
        key: &'static str,
        /// The name.
        tool: String,
        /// The tools it has.
        known: Vec<String>,
    },
    /// What it lists beside tools is not legal.
    #[error("{0}")]
    Lists(String),
    /// Another component has a resource, template or prompt of this name.
    #[error("{kind} {name:?} already belongs to component `{owner}`; remove one of them, or change its source")]
    ListedTaken {
        /// Resource, template or prompt.
        kind: &'static str,
        /// Its URI or name.
        name: String,
        /// The present owner.
        owner: String,
    },
    /// Another component has the tool's name.
    #[error(
        "tool `{tool}` already belongs to component `{owner}`; rename the tool of one of them with `rename` in its grant"
    )]
    NameTaken {
        /// The tool.
        tool: String,
        /// The present owner.
        owner: String,
    },
    /// The component's own name is taken.
    #[error("component `{name}` already comes from {owner}; rename this file or remove the other")]
    ComponentTaken {
        /// The component.
        name: String,
        /// Source of that component.
        owner: String,
    },
    /// It subscribes to a name that is not a topic.
    #[error(
        "it subscribes to {0:?}, which is not a topic: `<name>`, `<component>/<name>`, `<component>/*` of another component, or `*`"
    )]
    Topic(String),
    /// It subscribes to another component's topic without a grant.
    #[error(
        "it subscribes to `{topic}` of another component; to grant it, add `subscribe = [\"{topic}\"]` to `grants/{component}.toml` in its tenant's folder and run `mcpp reload`"
    )]
    TopicNotGranted {
        /// The topic.
        topic: String,
        /// The component.
        component: String,
    },
    /// Its migration failed.
    #[error("it could not migrate its data: {0}")]
    Migration(String),
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl InstallError {
    /// Whether the same file with the same grant would fail the same way again.
    pub fn is_of_the_file(&self) -> bool {
        matches!(self, Self::Tool { .. } | Self::Topic(_) | Self::Lists(_))
    }
}

/// Some names, for an error.
fn listed(names: &[String]) -> String {
    const MOST: usize = 20;
    let shown = names.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => String::new(),
        1..=MOST => format!(" ({shown})"),
        _ => format!(" ({shown}, …)"),
    }
}
