//! The pinned builds of components beside their tools, in `mcpp tools`: a reader sees there that older builds are still called.

use serde_json::{Value, json};

use super::{clean, table};
use crate::info::{ComponentInfo, Info, PinnedInfo};

/// Digits of a digest that tell builds apart.
const SHOWN_DIGITS: usize = 12;

/// A table of the components whose older builds are still called; none if there are no such components.
pub(super) fn older_builds(info: &Info) -> Option<String> {
    let rows: Vec<_> = info.components.iter().filter_map(row).collect();
    let header = ["COMPONENT", "PINNED BUILDS", "OLDER", "REVISIONS OF THE OLDER", "PINNED BY"];
    (!rows.is_empty()).then(|| {
        format!(
            "Older builds that unfinished work of tenant {} still calls:\n{}",
            info.tenant.name,
            table(&header, rows)
        )
    })
}

fn row(component: &ComponentInfo) -> Option<Vec<String>> {
    let older: Vec<&PinnedInfo> = component.pinned.iter().filter(|build| !build.live).collect();
    if older.is_empty() {
        return None;
    }
    let revision = |build: &&PinnedInfo| {
        let digits: String = build.digest.chars().take(SHOWN_DIGITS).collect();
        if build.loaded { digits } else { format!("{digits} (missing)") }
    };
    let mut by: Vec<&str> = older.iter().flat_map(|build| &build.by).map(String::as_str).collect();
    by.sort_unstable();
    by.dedup();
    Some(vec![
        clean(&component.name),
        component.pinned.len().to_string(),
        older.len().to_string(),
        older.iter().map(revision).collect::<Vec<_>>().join(", "),
        clean(&by.join(", ")),
    ])
}

/// Adds to each tool of a component with pinned builds the component's name and these builds.
pub(super) fn add_pinned(tools: &mut [Value], info: &Info) {
    for component in info.components.iter().filter(|component| !component.pinned.is_empty()) {
        for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
            let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
            if component.tools.iter().any(|own| own.name == name) {
                tool.insert("component".to_owned(), json!(component.name));
                tool.insert("pinned_builds".to_owned(), json!(component.pinned));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pinned: &Value) -> Info {
        let instances = json!({ "running": 0, "waiting": 0, "queued": 0, "kept": 0 });
        let component = |name: &str, pinned: &Value| {
            json!({
                "name": name, "digest": "d", "bytes": 1, "origin": "built in", "granted": [], "store": null,
                "tools": [{ "name": format!("{name}_run"), "limits": {}, "reuse": null }], "topics": [], "notes": [], "pinned": pinned,
            })
        };
        let info = json!({
            "version": "1", "pid": 1, "url": "stdio", "sessions": 0, "calls": 0, "instances": instances, "engine": crate::engine::EngineConfig::default(),
            "memory": [], "limits": {}, "tenant": { "name": "local", "open": true, "limits": {}, "instances": instances, "memory": [] },
            "components": [component("text", pinned), component("other", &json!([]))], "problems": [],
        });
        serde_json::from_value(info).expect("the form of an answer")
    }

    fn build(letter: &str, live: bool, loaded: bool) -> Value {
        json!({ "digest": letter.repeat(64), "live": live, "loaded": loaded, "by": ["workflow"] })
    }

    #[test]
    fn older_builds_are_seen_at_a_glance_and_the_live_one_alone_is_not_worth_a_table() {
        assert_eq!(older_builds(&info(&json!([]))), None);
        assert_eq!(older_builds(&info(&json!([build("a", true, true)]))), None);
        let shown =
            older_builds(&info(&json!([build("a", true, true), build("b", false, true), build("c", false, false)])));
        let shown = shown.expect("a table");
        let row = shown.lines().last().expect("a row").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row, "text 3 2 bbbbbbbbbbbb, cccccccccccc (missing) workflow", "{shown}");
    }

    #[test]
    fn a_program_finds_the_pinned_builds_at_each_tool_of_their_component() {
        let mut tools = vec![json!({ "name": "text_run" }), json!({ "name": "other_run" })];
        let build = build("b", false, true);
        add_pinned(&mut tools, &info(&json!([build])));
        assert_eq!(tools[0], json!({ "name": "text_run", "component": "text", "pinned_builds": [build] }));
        assert_eq!(tools[1], json!({ "name": "other_run" }));
    }
}
