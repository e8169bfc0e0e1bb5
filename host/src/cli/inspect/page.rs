//! The page that `mcpp inspect` prints for a person. Every word of a component goes through `clean`, and none of them begins a line.

use super::schema;
use crate::{
    capability::{self, Access},
    cli::clean,
    inspect::{
        InspectedTool, Inspection,
        anatomy::{Anatomy, Size},
    },
};

/// Most lines of the world that are shown; `--wit` prints all.
const MAX_WORLD_LINES: usize = 80;
/// Most parameters of one tool that are shown.
const MAX_PARAMETERS: usize = 60;

/// Most resources, templates and prompts that are shown.
const MAX_LISTED: usize = 100;

/// The whole page, in sections.
pub(super) fn page(explanation: &Inspection) -> String {
    let mut sections = vec![head(explanation), asks(explanation), grant(explanation)];
    sections.push(world(explanation));
    if !explanation.tools.is_empty() {
        let tools = explanation.tools.iter().map(tool);
        sections.push(format!("Its tools:\n{}", tools.collect::<Vec<_>>().join("\n")));
    }
    if !explanation.listed.is_empty() {
        let listed = explanation.listed.iter().take(MAX_LISTED).map(|entry| {
            format!("  {} {}  {}", entry.kind, line(&entry.name), line(&entry.description)).trim_end().to_owned()
        });
        let more = explanation.listed.len().saturating_sub(MAX_LISTED);
        let more = (more > 0).then(|| format!("  and {more} more"));
        let listed = listed.chain(more).collect::<Vec<_>>().join("\n");
        sections.push(format!("Its resources and prompts:\n{listed}"));
    }
    if let Some(format) = explanation.data_format {
        sections.push(format!("Its data has format {format}; older data is migrated when it is loaded."));
    }
    sections.extend(explanation.notes.iter().map(|note| line(note)));
    sections.join("\n\n")
}

fn head(explanation: &Inspection) -> String {
    let Anatomy { size, language, processed_by, sdk } = &explanation.anatomy;
    let said = |what: &str, names: &[String]| match names {
        [] => format!("{what} not said"),
        names => format!("{what} {}", line(&names.join(", "))),
    };
    let mut lines = vec![
        format!("{}, revision {}", explanation.component, explanation.digest.get(..12).unwrap_or_default()),
        said("  language:", language),
        said("  made by: ", processed_by),
    ];
    if !sdk.is_empty() {
        lines.push(said("  SDK:     ", sdk));
    }
    let Size { total, code, data, custom, other, modules, custom_sections } = size;
    lines.push(format!(
        "  size:     {} bytes: code {}, data {}, custom sections {}, the rest {}; {modules} core module{}",
        grouped(*total),
        grouped(*code),
        grouped(*data),
        grouped(*custom),
        grouped(*other),
        if *modules == 1 { "" } else { "s" }
    ));
    let mut largest: Vec<_> = custom_sections.iter().collect();
    largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(**bytes));
    let largest: Vec<String> =
        largest.into_iter().take(4).map(|(name, bytes)| format!("{} {}", line(name), grouped(*bytes))).collect();
    if !largest.is_empty() {
        lines.push(format!("            largest custom sections: {}", largest.join(", ")));
    }
    lines.join("\n")
}

fn asks(explanation: &Inspection) -> String {
    let mut lines = vec!["It asks for:".to_owned()];
    for capability in capability::TABLE {
        if explanation.imports.iter().any(|import| import.capability == Some(capability.name)) {
            let access = match capability.access {
                Access::Everyone => "every component has this".to_owned(),
                Access::Granted { grant, .. } => format!("needs `{grant}` in grants/{}.toml", explanation.component),
                Access::Nobody => "no component has this, and the component loads all the same".to_owned(),
            };
            lines.push(format!("  {:<10} {} ({access})", capability.name, capability.meaning));
        }
    }
    for unknown in explanation.imports.iter().filter(|import| import.capability.is_none()) {
        lines.push(format!("  {:<10} unknown to this host: the component will not load", line(&unknown.interface)));
    }
    for import in &explanation.imports {
        if let Some(spoken) = &import.spoken {
            let interface = line(&import.interface);
            lines.push(format!("  {interface}: this host speaks version {spoken}: the component will not load"));
        }
    }
    for topic in &explanation.topics {
        let needs = match topic.split_once('/') {
            _ if topic == "*" || topic.ends_with("/*") => {
                format!(" (those that `subscribe` in grants/{}.toml names)", explanation.component)
            }
            Some((component, _)) if component != explanation.component => {
                format!(" (needs `subscribe = [{topic:?}]` in grants/{}.toml)", explanation.component)
            }
            _ => String::new(),
        };
        lines.push(format!("  to be told of {}{}", line(topic), line(&needs)));
    }
    if lines.len() == 1 {
        lines.push("  nothing".into());
    }
    lines.join("\n")
}

fn grant(explanation: &Inspection) -> String {
    match (&explanation.grant, explanation.loads()) {
        (_, false) => "No grant lets it load.".into(),
        (None, true) => "It loads without a grant.".into(),
        (Some(text), true) => {
            let text: Vec<String> =
                text.lines().map(|text| format!("  {}", clean(text)).trim_end().to_owned()).collect();
            format!("The least grant with which it loads:\n\n{}", text.join("\n"))
        }
    }
}

fn world(explanation: &Inspection) -> String {
    let world = match &explanation.world {
        Ok(world) => world,
        Err(reason) => return format!("Its world cannot be told in WIT: {}", line(reason)),
    };
    let mut lines: Vec<String> = world.own.lines().skip_while(|line| !line.starts_with("world ")).map(line).collect();
    if lines.len() > MAX_WORLD_LINES {
        lines.truncate(MAX_WORLD_LINES);
        lines.push("  …".into());
    }
    let lines: Vec<String> = lines.into_iter().map(|line| format!("  {line}")).collect();
    format!("Its world, in WIT (all of it: --wit):\n\n{}", lines.join("\n").trim_end())
}

fn tool(tool: &InspectedTool) -> String {
    let mut lines = vec![format!("  {}: {}", line(&tool.name), line(&schema::described(&tool.description)))];
    let parameters = schema::parameters(&tool.input_schema);
    let width = parameters.iter().map(|parameter| parameter.name.chars().count()).max().unwrap_or_default().min(24);
    for parameter in parameters.iter().take(MAX_PARAMETERS) {
        lines.push(format!("    {:<width$}  {}", line(&parameter.name), line(&parameter.words)));
    }
    if parameters.len() > MAX_PARAMETERS {
        lines.push("    …".into());
    }
    if let Some(output) = &tool.output_schema {
        lines.push(format!("    gives {}", line(&schema::words(output))));
    }
    lines.join("\n")
}

/// The words of a component, in one line.
fn line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, expected) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), expected);
        }
    }

    #[test]
    fn nothing_that_a_component_says_begins_a_line() {
        assert_eq!(line("a\nIt loads without a grant.\t\u{1b}[2J"), "a It loads without a grant. \u{fffd}[2J");
    }
}
