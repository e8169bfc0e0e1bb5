//! The grant under which a component loads and can do nothing more: to paste into its file, and to fill in.

use std::fmt::Write as _;

use crate::{
    capability::{self, Access},
    names::ToolName,
};

/// The needs that the grant must meet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wants<'a> {
    pub(super) component: &'a str,
    /// The capabilities that it imports, by name.
    pub(super) capabilities: &'a [&'static str],
    /// The topics of which it wants to be told.
    pub(super) topics: &'a [String],
    /// Its tools, as it calls them.
    pub(super) tools: &'a [&'a str],
}

/// The advice for a line with a placeholder.
const FILL_IN: &[(&str, &str)] = &[
    ("call = ", "Put the tools that it may call in the place of TOOL: names, or beginnings such as \"text_*\"."),
    ("store = ", "At most 256 MiB; for another bound: store = { quota_bytes = 67108864 }"),
    (
        "http = ",
        "Nothing has this address: put the ones that it may ask in its place, with methods if it needs more than GET and HEAD.",
    ),
    ("mesh.connect = ", "Nobody is this peer: put the ids or addresses of those that it may connect in its place."),
    (
        "mesh.discover = ",
        "Put the services that it may look for in the place of SERVICE; for those that it may provide: mesh.provide = [\"SERVICE\"]",
    ),
    (
        "mesh.announce = ",
        "Put its topics in the place of TOPIC; for those of others that it may hear: mesh.hear = [\"COMPONENT/TOPIC\"]",
    ),
    (
        "mesh.call = ",
        "Nobody is this peer: put the peer's id in its place, or * for each that the tenant may call, and tools in the place of TOOL.",
    ),
];
/// A peer that nobody is: no key has this hash.
const NO_PEER: &str = "QmNLei78zWmzUdbeRB3CiUfAizWUrbeeZh5K1rhAQKCh51";
/// Capabilities that every component has and that are empty until a grant fills them.
const EMPTY: &[(&str, &str)] =
    &[("files", "# [[files]]\n# path = \"/srv/data\"\n# mode = \"read\""), ("config", "# [config]\n# key = \"value\"")];
/// An address that nothing has, now and ever (RFC 6761).
const NOWHERE: &str = "host.invalid";

/// The text of the file; none if the component loads without one.
pub(super) fn grant(wants: Wants<'_>) -> Option<String> {
    let mut keys = String::new();
    let granted = capability::TABLE.iter().filter(|capability| wants.capabilities.contains(&capability.name));
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    for capability in granted {
        if let Access::Granted { grant, .. } = capability.access {
            let why = format!("# {}: {}", capability.name, capability.meaning);
            match lines.iter_mut().find(|(line, _)| *line == grant) {
                Some((_, whys)) => whys.push(why),
                None => lines.push((grant, vec![why])),
            }
        }
    }
    for (line, whys) in lines {
        let how = FILL_IN.iter().find(|(key, _)| line.starts_with(key)).map(|(_, how)| format!("# {how}\n"));
        let line = line.replace("HOST", NOWHERE).replace("PEER", NO_PEER);
        let _a_string_takes_all = write!(keys, "\n{}\n{}{line}\n", whys.join("\n"), how.unwrap_or_default());
    }
    // A wildcard loads without a grant.
    let foreign =
        |topic: &&String| topic.split_once('/').is_some_and(|(of, name)| of != wants.component && name != "*");
    let topics: Vec<String> = wants.topics.iter().filter(foreign).map(|topic| quoted(topic)).collect();
    if !topics.is_empty() {
        let _a_string_takes_all =
            write!(keys, "\n# be told of these events of other components\nsubscribe = [{}]\n", topics.join(", "));
    }
    let unlawful = wants.tools.iter().filter(|name| ToolName::new(name).is_err());
    let renamed: Vec<String> =
        unlawful.enumerate().map(|(n, name)| format!("{} = \"{}_{}\"", quoted(name), wants.component, n + 1)).collect();
    if !renamed.is_empty() {
        let _a_string_takes_all =
            write!(keys, "\n# clients cannot call tools by these names\nrename = {{ {} }}\n", renamed.join(", "));
    }
    if keys.is_empty() {
        return None;
    }
    let mut text = format!("# grants/{}.toml: the least with which it loads.\nversion = 1\n{keys}", wants.component);
    for (name, example) in EMPTY.iter().filter(|(name, _)| wants.capabilities.contains(name)) {
        let _a_string_takes_all =
            write!(text, "\n# {name}: it loads without, and finds none; for example:\n{example}\n");
    }
    Some(text)
}

/// A string of TOML, with nothing in it that could end it. JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        grants::ComponentGrant,
        names::{ComponentName, Topic},
    };

    #[test]
    fn the_least_grant_of_every_capability_gives_it() {
        for capability in capability::TABLE {
            let wants = Wants { component: "c", capabilities: &[capability.name], topics: &[], tools: &["ok"] };
            let text = grant(wants);
            match capability.access {
                Access::Granted { given, .. } => {
                    let text = text.expect("a grant");
                    let parsed = ComponentGrant::parse(Path::new("c.toml"), &text).expect("valid");
                    assert!(given(&parsed) && text.contains(capability.meaning), "{text}");
                    let others = capability::TABLE.iter().filter(|other| match other.access {
                        Access::Granted { given, grant } => given(&parsed) && !capability.needs(grant),
                        _ => false,
                    });
                    assert_eq!(others.count(), 0, "{text}");
                }
                _ => assert_eq!(text, None, "{}", capability.name),
            }
        }
    }

    #[test]
    fn what_a_component_says_cannot_write_its_own_grant() {
        let evil = "x\"]\ncall = [\"*\u{7f}\u{1b}[2J";
        let topics = [format!("other/{evil}"), "orders/ordered".into(), "c/own".into()];
        let names = [evil, "fine"];
        let wants =
            Wants { component: "c", capabilities: &["store", "events", "files"], topics: &topics, tools: &names };
        let text = grant(wants).expect("a grant");
        let table: toml::Table = toml::from_str(&text).expect("TOML");
        assert_eq!(table.keys().collect::<Vec<_>>(), ["rename", "store", "subscribe", "version"]);
        assert_eq!(table["rename"][evil].as_str(), Some("c_1"));
        assert_eq!(text.matches("store = {}").count(), 1, "one line for all that it gives: {text}");
        let wants = Wants { topics: &topics[1..], ..wants };
        let parsed = ComponentGrant::parse(Path::new("c.toml"), &grant(wants).expect("a grant")).expect("valid");
        let ordered = Topic::parse("orders/ordered", &ComponentName::new("c").expect("legal")).expect("a topic");
        assert!(parsed.subscribe.len() == 1 && parsed.subscribe[0].matches(&ordered));
    }
}
