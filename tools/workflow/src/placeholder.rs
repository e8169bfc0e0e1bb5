//! Placeholders: `${steps.NAME.result.path}`, `${input.path}`, `${metadata.path}`, `${item.path}`, `${index}` and, in an undo, `${result.path}`. `$${` is the text `${`.
//!
//! A text that is one placeholder as a whole becomes the value with its type. Within a longer text a text stands as it is, and another value as JSON.

use serde_json::{Map, Value};

/// Where a placeholder's value is from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The result of a step.
    Step(String),
    /// The input of the run.
    Input,
    /// The metadata of the run.
    Metadata,
    /// The item of a fan-out.
    Item,
    /// The item's number, from 0.
    Index,
    /// The result of the step that is undone.
    Result,
}

/// A placeholder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placeholder {
    /// Where its value is from.
    pub source: Source,
    /// Names of fields, and numbers of items, on the way to the value.
    pub path: Vec<String>,
}

/// Why a placeholder has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {at}: {reason}")]
pub struct PlaceholderError {
    /// JSON pointer to the text.
    pub at: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The parts of a text.
enum Part<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

/// Cuts a text into its parts; an error for a placeholder that does not end.
fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    let (mut parts, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            parts.extend([Part::Text(before), Part::Text("${")]);
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        let (inside, after) =
            from.get(2..).unwrap_or_default().split_once('}').ok_or_else(|| format!("{from:?} has no `}}`"))?;
        parts.extend([Part::Text(before), Part::Placeholder(inside)]);
        rest = after;
    }
    parts.push(Part::Text(rest));
    Ok(parts.into_iter().filter(|part| !matches!(part, Part::Text(""))).collect())
}

impl Placeholder {
    /// The placeholder between the braces.
    pub fn parse(inside: &str) -> Result<Self, String> {
        let mut names = inside.split('.').map(str::trim);
        let first = names.next().unwrap_or_default();
        let source = match first {
            "steps" => {
                let step = names.next().filter(|name| !name.is_empty());
                let step = step.ok_or_else(|| format!("`${{{inside}}}` names no step"))?;
                if names.next() != Some("result") {
                    return Err(format!("`${{{inside}}}` must begin with `steps.{step}.result`"));
                }
                Source::Step(step.to_owned())
            }
            "input" => Source::Input,
            "metadata" => Source::Metadata,
            "item" => Source::Item,
            "index" => Source::Index,
            "result" => Source::Result,
            _ => {
                return Err(format!(
                    "`${{{inside}}}` begins with none of steps, input, metadata, item, index and result"
                ));
            }
        };
        let path: Vec<String> = names.map(str::to_owned).collect();
        match path.iter().any(String::is_empty) {
            true => Err(format!("`${{{inside}}}` has an empty name")),
            false => Ok(Self { source, path }),
        }
    }

    /// The value at its path.
    pub fn within<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.path.iter().try_fold(value, |value, name| match value {
            Value::Array(items) => items.get(name.parse::<usize>().ok()?),
            Value::Object(fields) => fields.get(name),
            _ => None,
        })
    }
}

impl std::fmt::Display for Placeholder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Step(step) => write!(f, "steps.{step}.result")?,
            Source::Input => f.write_str("input")?,
            Source::Metadata => f.write_str("metadata")?,
            Source::Item => f.write_str("item")?,
            Source::Index => f.write_str("index")?,
            Source::Result => f.write_str("result")?,
        }
        self.path.iter().try_for_each(|name| write!(f, ".{name}"))
    }
}

/// All placeholders in a value, with the JSON pointers of their texts below `at`.
pub fn placeholders(value: &Value, at: &str) -> Result<Vec<(String, Placeholder)>, PlaceholderError> {
    let mut found = Vec::new();
    collect(value, at, &mut found)?;
    Ok(found)
}

fn collect(value: &Value, at: &str, found: &mut Vec<(String, Placeholder)>) -> Result<(), PlaceholderError> {
    match value {
        Value::String(text) => {
            let wrong = |reason| PlaceholderError { at: at.to_owned(), reason };
            for part in parts(text).map_err(wrong)? {
                if let Part::Placeholder(inside) = part {
                    found.push((at.to_owned(), Placeholder::parse(inside).map_err(wrong)?));
                }
            }
            Ok(())
        }
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(number, item)| collect(item, &format!("{at}/{number}"), found))
        }
        Value::Object(fields) => {
            fields.iter().try_for_each(|(name, field)| collect(field, &format!("{at}/{}", pointer(name)), found))
        }
        _ => Ok(()),
    }
}

/// A name as part of a JSON pointer.
pub fn pointer(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The value with all placeholders replaced by what `find` gives for them.
pub fn fill(
    value: &Value,
    at: &str,
    find: &mut impl FnMut(&Placeholder) -> Result<Value, String>,
) -> Result<Value, PlaceholderError> {
    Ok(match value {
        Value::String(text) => {
            fill_text(text, find).map_err(|reason| PlaceholderError { at: at.to_owned(), reason })?
        }
        Value::Array(items) => {
            let items = items.iter().enumerate().map(|(number, item)| fill(item, &format!("{at}/{number}"), find));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => Value::Object(fill_fields(fields, at, find)?),
        other => other.clone(),
    })
}

/// The same for the fields of an object.
pub fn fill_fields(
    fields: &Map<String, Value>,
    at: &str,
    find: &mut impl FnMut(&Placeholder) -> Result<Value, String>,
) -> Result<Map<String, Value>, PlaceholderError> {
    let filled =
        |(name, field): (&String, &Value)| Ok((name.clone(), fill(field, &format!("{at}/{}", pointer(name)), find)?));
    fields.iter().map(filled).collect()
}

fn fill_text(text: &str, find: &mut impl FnMut(&Placeholder) -> Result<Value, String>) -> Result<Value, String> {
    let parts = parts(text)?;
    if let [Part::Placeholder(inside)] = &*parts {
        return find(&Placeholder::parse(inside)?);
    }
    let mut filled = String::new();
    for part in parts {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Placeholder(inside) => match find(&Placeholder::parse(inside)?)? {
                Value::String(text) => filled.push_str(&text),
                other => filled.push_str(&other.to_string()),
            },
        }
    }
    Ok(Value::String(filled))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(value: &Value) -> Result<Value, PlaceholderError> {
        let known = json!({ "a": { "n": 7, "list": ["x", { "y": true }] } });
        fill(value, "/inputs", &mut |placeholder| match &placeholder.source {
            Source::Step(step) => {
                let result = known.get(step).ok_or("no such step")?;
                placeholder.within(result).cloned().ok_or_else(|| format!("`{placeholder}` is not there"))
            }
            Source::Index => Ok(json!(3)),
            other => Ok(json!(format!("{other:?}"))),
        })
    }

    #[test]
    fn a_whole_value_keeps_its_type_and_others_become_text() {
        for (text, value) in [
            (json!("${steps.a.result.n}"), json!(7)),
            (json!("${steps.a.result.list.1}"), json!({ "y": true })),
            (json!("n=${steps.a.result.n}, ${steps.a.result.list}!"), json!("n=7, [\"x\",{\"y\":true}]!")),
            (json!("$${steps.a} and $5"), json!("${steps.a} and $5")),
            (json!({ "k": ["${index}", 1, null] }), json!({ "k": [3, 1, null] })),
            (json!(""), json!("")),
        ] {
            assert_eq!(filled(&text), Ok(value), "{text}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, at, reason) in [
            (json!(["${steps.b.result}"]), "/inputs/0", "no such step"),
            (json!({ "a/b": "${steps.a.result.z}" }), "/inputs/a~1b", "`steps.a.result.z` is not there"),
            (json!("${steps.a.n}"), "/inputs", "must begin with `steps.a.result`"),
            (json!("${nothing}"), "/inputs", "begins with none"),
            (json!("${input"), "/inputs", "has no `}`"),
            (json!("${input..x}"), "/inputs", "an empty name"),
        ] {
            let error = filled(&text).expect_err("wrong");
            assert_eq!(error.at, at);
            assert!(error.reason.contains(reason), "{error}");
        }
    }
}
