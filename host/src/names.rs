//! Names of tenants, components, tools and topics, each checked once. They depend on nothing.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A tenant: 1 to 64 characters of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

/// A tenant name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("tenant name {0:?} is not 1 to 64 characters of `a-z`, `0-9` and `-`")]
pub struct InvalidTenantId(String);

impl TenantId {
    /// The one tenant of a host without configuration.
    pub fn local() -> Self {
        Self("local".into())
    }

    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidTenantId> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(InvalidTenantId(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no tenant but the host's own user may be made with this name: `local` is that user, and the others have meant the host itself.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.as_str())
    }
}

/// Names by which the host means itself, in folders, labels and messages.
const RESERVED: [&str; 4] = ["local", "built-in", "host", "mcpp"];

impl TryFrom<String> for TenantId {
    type Error = InvalidTenantId;

    fn try_from(name: String) -> Result<Self, InvalidTenantId> {
        Self::new(&name)
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.as_str().to_owned()
    }
}

impl std::str::FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(name: &str) -> Result<Self, InvalidTenantId> {
        Self::new(name)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tool's name as clients see it: 1 to 128 characters of `A-Z a-z 0-9 _ . -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolName(Arc<str>);

/// A tool name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("tool name {0:?} is not 1 to 128 characters of `A-Z`, `a-z`, `0-9`, `_`, `.` and `-`")]
pub struct InvalidToolName(String);

impl ToolName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidToolName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.len() > 128 || !name.chars().all(legal) {
            return Err(InvalidToolName(name.chars().take(160).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl From<ToolName> for String {
    fn from(name: ToolName) -> Self {
        name.as_str().to_owned()
    }
}

impl TryFrom<String> for ToolName {
    type Error = InvalidToolName;

    fn try_from(name: String) -> Result<Self, InvalidToolName> {
        Self::new(&name)
    }
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A component's stable name: 1 to 64 characters of `a-z A-Z 0-9 _ -`. It owns the component's grants and data, whatever build is loaded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentName(Arc<str>);

/// A component name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("component name {0:?} is not 1 to 64 characters of `a-z`, `A-Z`, `0-9`, `_` and `-`")]
pub struct InvalidComponentName(String);

impl ComponentName {
    /// The owner of the host's own tools. No component can be called so.
    pub fn of_host() -> Self {
        Self("(host)".into())
    }

    /// The owner of the space in which the host keeps tasks. No component can be called so.
    pub fn of_tasks() -> Self {
        Self("(tasks)".into())
    }

    /// The owner of a space, as the host wrote its name: of a component, or of the host's own data.
    pub(crate) fn of_space(name: &str) -> Self {
        Self(name.into())
    }

    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidComponentName> {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
            return Err(InvalidComponentName(name.chars().take(80).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl TryFrom<String> for ComponentName {
    type Error = InvalidComponentName;

    fn try_from(name: String) -> Result<Self, InvalidComponentName> {
        Self::new(&name)
    }
}

impl From<ComponentName> for String {
    fn from(name: ComponentName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ComponentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tool's name, or all names with a prefix (`hash_*`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolPattern {
    prefix: String,
    open: bool,
}

impl TryFrom<String> for ToolPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (prefix, open) = text.strip_suffix('*').map_or((text.as_str(), false), |prefix| (prefix, true));
        if !(open && prefix.is_empty()) {
            ToolName::new(prefix)
                .map_err(|_| format!("{text:?} is neither a tool name nor a prefix that ends in `*`"))?;
        }
        Ok(Self { prefix: prefix.to_owned(), open })
    }
}

impl From<ToolPattern> for String {
    fn from(pattern: ToolPattern) -> Self {
        if pattern.open { pattern.prefix + "*" } else { pattern.prefix }
    }
}

impl std::str::FromStr for ToolPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl ToolPattern {
    /// Whether the pattern covers `name`.
    pub fn matches(&self, name: &ToolName) -> bool {
        self.matches_text(name.as_str())
    }

    /// Whether the pattern covers a name that may not be legal.
    pub fn matches_text(&self, name: &str) -> bool {
        if self.open { name.starts_with(&self.prefix) } else { name == self.prefix }
    }

    /// The pattern of the names that both cover; none if there are no such names.
    pub fn meet(&self, other: &Self) -> Option<Self> {
        let covers = |wide: &Self, narrow: &Self| match wide.open {
            true => narrow.prefix.starts_with(&wide.prefix),
            false => !narrow.open && narrow.prefix == wide.prefix,
        };
        match (covers(self, other), covers(other, self)) {
            (true, _) => Some(other.clone()),
            (false, true) => Some(self.clone()),
            (false, false) => None,
        }
    }

    /// The single name that the pattern covers; none for a prefix.
    pub fn exact(&self) -> Option<&str> {
        (!self.open).then_some(self.prefix.as_str())
    }
}

/// A topic: one component's, with a name of 1 to 64 characters of `a-z A-Z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// The component that owns the topic and alone emits on it.
    pub component: ComponentName,
    /// Its name among the component's.
    pub name: ComponentName,
}

impl Topic {
    /// Parses `<component>/<name>`; `<name>` alone is a topic of `own`.
    pub fn parse(text: &str, own: &ComponentName) -> Option<Self> {
        let (component, name) = match text.split_once('/') {
            Some((component, name)) => (ComponentName::new(component).ok()?, name),
            None => (own.clone(), text),
        };
        Some(Self { component, name: ComponentName::new(name).ok()? })
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.component, self.name)
    }
}

/// A topic, or all topics of a component (`queue/*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct TopicPattern {
    component: ComponentName,
    name: Option<ComponentName>,
}

impl TryFrom<String> for TopicPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a topic, `<component>/<name>` or `<component>/*`");
        let (component, name) = text.split_once('/').ok_or_else(refuse)?;
        let component = ComponentName::new(component).map_err(|_| refuse())?;
        let name = match name {
            "*" => None,
            name => Some(ComponentName::new(name).map_err(|_| refuse())?),
        };
        Ok(Self { component, name })
    }
}

impl From<Topic> for TopicPattern {
    fn from(topic: Topic) -> Self {
        Self { component: topic.component, name: Some(topic.name) }
    }
}

impl TopicPattern {
    /// Whether the pattern covers `topic`.
    pub fn matches(&self, topic: &Topic) -> bool {
        self.component == topic.component && self.name.as_ref().is_none_or(|name| *name == topic.name)
    }

    /// All topics of a component.
    pub fn all_of(component: &ComponentName) -> Self {
        Self { component: component.clone(), name: None }
    }

    /// The component whose topics the pattern covers.
    pub fn component(&self) -> &ComponentName {
        &self.component
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}/{name}", self.component),
            None => write!(f, "{}/*", self.component),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ComponentName {
        ComponentName::new(name).expect("legal")
    }

    #[test]
    fn topics_are_parsed() {
        for (text, topic) in [
            ("done", Some("own/done")),
            ("queue/done", Some("queue/done")),
            ("queue/a/b", None),
            ("", None),
            ("queue/", None),
            ("queue/dö", None),
        ] {
            assert_eq!(Topic::parse(text, &name("own")).map(|topic| topic.to_string()).as_deref(), topic, "{text:?}");
        }
    }

    #[test]
    fn a_pattern_covers_one_topic_or_all_of_a_component() {
        let topic = |text: &str| Topic::parse(text, &name("own")).expect("a topic");
        for (text, covered, other) in
            [("orders/paid", "orders/paid", "orders/sent"), ("orders/*", "orders/sent", "other/sent")]
        {
            let pattern = TopicPattern::try_from(text.to_owned()).expect("a pattern");
            assert!(pattern.matches(&topic(covered)) && !pattern.matches(&topic(other)), "{text}");
            assert_eq!((pattern.to_string(), pattern.component()), (text.to_owned(), &name("orders")));
        }
        assert_eq!(TopicPattern::all_of(&name("orders")).to_string(), "orders/*");
        for wrong in ["*", "*/*", "orders", "orders/", "/paid", "orders/p*"] {
            assert!(TopicPattern::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tool_names_are_checked() {
        for (name, legal) in
            [("add", true), ("A.b_c-1", true), ("", false), ("a b", false), ("é", false), (&"a".repeat(129), false)]
        {
            assert_eq!(ToolName::new(name).is_ok(), legal, "{name:?}");
        }
    }

    #[test]
    fn tenant_names_are_checked() {
        for (name, legal) in
            [("local", true), ("team-7", true), ("", false), ("Team", false), ("a/b", false), (&"a".repeat(65), false)]
        {
            assert_eq!(TenantId::new(name).is_ok(), legal, "{name:?}");
        }
    }
}
