//! A graph as JSON, DOT and Mermaid, with its critical path: the chain of steps that takes longest.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// A step, as it is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub id: String,
    /// The tool that it calls.
    pub action: String,
    /// What has become of it.
    pub status: String,
    /// How long it took, in milliseconds; none while that is not known.
    pub took_ms: Option<u64>,
    /// The places of the steps that it waits for.
    pub depends_on: Vec<usize>,
}

/// The places on the chain that takes longest. A step whose time is not known counts as one millisecond, so that before the run it is the chain with most steps.
pub fn critical_path(steps: &[Drawn]) -> Vec<usize> {
    // How long it takes to the end of each step, and the one before it on that way.
    let mut ends: Vec<Option<(u64, Option<usize>)>> = vec![None; steps.len()];
    for begin in 0..steps.len() {
        let mut waiting = vec![begin];
        while let Some(place) = waiting.last().copied() {
            let Some(step) = steps.get(place).filter(|_| ends.get(place) == Some(&None)) else {
                waiting.pop();
                continue;
            };
            let open: Vec<usize> =
                step.depends_on.iter().copied().filter(|before| ends.get(*before) == Some(&None)).collect();
            // A chain that is longer than there are steps has a cycle.
            if !open.is_empty() && waiting.len() <= steps.len() {
                waiting.extend(open);
                continue;
            }
            let before = step.depends_on.iter().filter_map(|before| Some(((*ends.get(*before)?)?.0, *before)));
            let last = before.max_by_key(|(end, place)| (*end, std::cmp::Reverse(*place)));
            let took = step.took_ms.unwrap_or(1).max(1);
            let end = last.map_or(0, |(end, _)| end).saturating_add(took);
            if let Some(known) = ends.get_mut(place) {
                *known = Some((end, last.map(|(_, place)| place)));
            }
            waiting.pop();
        }
    }
    let last = ends.iter().enumerate().filter_map(|(place, end)| Some(((*end)?.0, place)));
    let mut at = last.max_by_key(|(end, place)| (*end, std::cmp::Reverse(*place))).map(|(_, place)| place);
    let mut path = Vec::new();
    while let Some(place) = at {
        path.push(place);
        at = ends.get(place).copied().flatten().and_then(|(_, before)| before);
    }
    path.reverse();
    path
}

/// A text within quotes of DOT and Mermaid.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "'").replace(['\n', '\r'], " ")
}

fn color(status: &str) -> &'static str {
    match status {
        "completed" => "#b7e4c7",
        "failed" | "undo_failed" => "#f4a6a6",
        "running" | "ready" | "waiting" | "delayed" => "#a6d0f4",
        "skipped" | "cancelled" | "undone" => "#d9d9d9",
        _ => "#ffffff",
    }
}

fn is_critical(path: &[usize], from: usize, to: usize) -> bool {
    path.windows(2).any(|pair| *pair == [from, to])
}

/// The graph in the language of Graphviz.
pub fn dot(name: &str, steps: &[Drawn]) -> String {
    let path = critical_path(steps);
    let mut text = format!("digraph \"{}\" {{\n  node [shape=box, style=filled];\n", quoted(name));
    for (place, step) in steps.iter().enumerate() {
        let width = if path.contains(&place) { 3 } else { 1 };
        let _never_fails = writeln!(
            text,
            "  \"{}\" [label=\"{}\\n{}\\n{}\", fillcolor=\"{}\", penwidth={width}];",
            quoted(&step.id),
            quoted(&step.id),
            quoted(&step.action),
            step.status,
            color(&step.status)
        );
    }
    for (to, step) in steps.iter().enumerate() {
        for from in &step.depends_on {
            let width = if is_critical(&path, *from, to) { 3 } else { 1 };
            let id = steps.get(*from).map_or("", |step| &step.id);
            let _never_fails = writeln!(text, "  \"{}\" -> \"{}\" [penwidth={width}];", quoted(id), quoted(&step.id));
        }
    }
    text.push_str("}\n");
    text
}

/// The graph as a flowchart of Mermaid.
pub fn mermaid(steps: &[Drawn]) -> String {
    let path = critical_path(steps);
    let mut text = "flowchart TD\n".to_owned();
    for (place, step) in steps.iter().enumerate() {
        let _never_fails = writeln!(
            text,
            "  s{place}[\"{}<br/>{}<br/>{}\"]\n  style s{place} fill:{}",
            quoted(&step.id),
            quoted(&step.action),
            step.status,
            color(&step.status)
        );
    }
    for (to, step) in steps.iter().enumerate() {
        for from in &step.depends_on {
            let arrow = if is_critical(&path, *from, to) { "==>" } else { "-->" };
            let _never_fails = writeln!(text, "  s{from} {arrow} s{to}");
        }
    }
    text
}

/// Each step with those that it waits for.
pub fn dag(steps: &[Drawn]) -> Value {
    let id = |place: &usize| steps.get(*place).map(|step| step.id.clone());
    let row = |step: &Drawn| (step.id.clone(), json!(step.depends_on.iter().filter_map(id).collect::<Vec<_>>()));
    Value::Object(steps.iter().map(row).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(id: &str, took_ms: Option<u64>, depends_on: &[usize]) -> Drawn {
        Drawn {
            id: id.into(),
            action: "tool".into(),
            status: "completed".into(),
            took_ms,
            depends_on: depends_on.into(),
        }
    }

    #[test]
    fn the_critical_path_takes_longest_or_has_most_steps() {
        let steps = |ms: [Option<u64>; 4]| {
            let [a, b, c, d] = ms;
            vec![drawn("d", d, &[1, 3]), drawn("b", b, &[2]), drawn("a", a, &[]), drawn("c", c, &[])]
        };
        assert_eq!(critical_path(&steps([Some(5), Some(5), Some(99), Some(1)])), [3, 0]);
        assert_eq!(critical_path(&steps([Some(5), Some(5), Some(9), Some(1)])), [2, 1, 0]);
        assert_eq!(critical_path(&steps([None; 4])), [2, 1, 0]);
        assert_eq!(critical_path(&[]), [0_usize; 0]);
        let long: Vec<Drawn> =
            (0..1_000).map(|n| drawn("x", None, &if n > 0 { vec![n - 1] } else { vec![] })).collect();
        assert_eq!(critical_path(&long).len(), 1_000);
    }

    #[test]
    fn a_graph_is_drawn() {
        let steps = [drawn("a", None, &[]), drawn("b\"]", None, &[0])];
        assert_eq!(dag(&steps), json!({ "a": [], "b\"]": ["a"] }));
        assert_eq!(
            dot("w", &steps),
            "digraph \"w\" {\n  node [shape=box, style=filled];\n  \"a\" [label=\"a\\ntool\\ncompleted\", fillcolor=\"#b7e4c7\", penwidth=3];\n  \
             \"b']\" [label=\"b']\\ntool\\ncompleted\", fillcolor=\"#b7e4c7\", penwidth=3];\n  \"a\" -> \"b']\" [penwidth=3];\n}\n"
        );
        assert_eq!(
            mermaid(&steps),
            "flowchart TD\n  s0[\"a<br/>tool<br/>completed\"]\n  style s0 fill:#b7e4c7\n  s1[\"b']<br/>tool<br/>completed\"]\n  style s1 fill:#b7e4c7\n  s0 ==> s1\n"
        );
    }
}
