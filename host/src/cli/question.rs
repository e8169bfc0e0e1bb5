//! A tool's question to its user, answered at the terminal: a form line by line, or the consent to a page.

use std::io::{self, BufRead, Write};

use serde_json::{Map, Number, Value};

use super::clean;
use crate::call::inputs::{InputQuestion, Reply};

/// Asks on standard error and reads from standard input. What ends or breaks the input cancels.
pub(super) fn at_terminal(question: &InputQuestion) -> Reply {
    ask(question, &mut io::stdin().lock(), &mut io::stderr().lock()).unwrap_or(Reply::Cancelled)
}

fn ask(question: &InputQuestion, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Reply> {
    match question {
        InputQuestion::Form { message, schema } => {
            writeln!(output, "The tool asks: {}", clean(message))?;
            let Some(values) = fill(&schema.json, input, output)? else { return Ok(Reply::Cancelled) };
            consent("Send this?", Reply::Accepted(Some(Value::Object(values))), input, output)
        }
        InputQuestion::Url { message, url } => {
            writeln!(output, "The tool asks you to open a page: {}\n  {}", clean(message), clean(url))?;
            consent("Do you open it?", Reply::Accepted(None), input, output)
        }
        InputQuestion::Sample(_) | InputQuestion::Roots => Ok(Reply::Declined),
    }
}

fn consent(question: &str, yes: Reply, input: &mut impl BufRead, output: &mut impl Write) -> io::Result<Reply> {
    loop {
        write!(output, "{question} [Y]es, [n]o, [c]ancel: ")?;
        output.flush()?;
        match line(input)?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("c" | "cancel") => return Ok(Reply::Cancelled),
            Some("" | "y" | "yes") => return Ok(yes),
            Some("n" | "no") => return Ok(Reply::Declined),
            Some(_) => {}
        }
    }
}

/// The values of a form; none if the input ends before.
fn fill(
    schema: &Map<String, Value>,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Option<Map<String, Value>>> {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut values = Map::new();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let text = |key: &str| field.get(key).and_then(Value::as_str).map(clean);
        let title = text("title").unwrap_or_else(|| clean(name));
        let about = text("description").map(|about| format!(" ({about})")).unwrap_or_default();
        let choices = choices(field.get("items").unwrap_or(field));
        let among: String =
            choices.iter().map(|(value, title)| format!("\n  {}  {}", clean(value), clean(title))).collect();
        let default = field.get("default").filter(|default| !default.is_null());
        let or = default.map(|default| format!(" [{}]", clean(&plain(default)))).unwrap_or_default();
        loop {
            write!(output, "{title}{about}{among}{or}: ")?;
            output.flush()?;
            let Some(given) = line(input)? else { return Ok(None) };
            if given.is_empty() {
                if let Some(default) = default {
                    values.insert(name.clone(), default.clone());
                    break;
                }
                if !required.contains(&name.as_str()) {
                    break;
                }
                writeln!(output, "  an answer, please")?;
                continue;
            }
            match read(field, &choices, &given) {
                Ok(value) => {
                    values.insert(name.clone(), value);
                    break;
                }
                Err(reason) => writeln!(output, "  {reason}")?,
            }
        }
    }
    Ok(Some(values))
}

/// The values among which a field lets choose, with their titles.
fn choices(field: &Value) -> Vec<(String, String)> {
    let list = |key: &str| field.get(key).and_then(Value::as_array);
    if let Some(titled) = list("oneOf").or_else(|| list("anyOf")) {
        let text = |choice: &Value, key: &str| choice.get(key).and_then(Value::as_str).map(str::to_owned);
        let choice = |choice: &Value| Some((text(choice, "const")?, text(choice, "title").unwrap_or_default()));
        return titled.iter().filter_map(choice).collect();
    }
    let titles = list("enumNames");
    let title = |at: usize| titles.and_then(|titles| titles.get(at)?.as_str()).unwrap_or_default().to_owned();
    let values = list("enum").into_iter().flatten().enumerate();
    values.filter_map(|(at, value)| Some((value.as_str()?.to_owned(), title(at)))).collect()
}

fn read(field: &Value, choices: &[(String, String)], given: &str) -> Result<Value, String> {
    let chosen = |given: &str| match choices.iter().any(|(value, _)| value == given) || choices.is_empty() {
        true => Ok(Value::from(given)),
        false => Err(format!("{given:?} is none of the choices")),
    };
    match field.get("type").and_then(Value::as_str) {
        Some("integer") => given.parse::<i64>().map(Value::from).map_err(|_| "a whole number, please".into()),
        Some("number") => {
            let number = given.parse::<f64>().ok().and_then(Number::from_f64);
            number.map(Value::Number).ok_or_else(|| "a number, please".into())
        }
        Some("boolean") => match given.to_ascii_lowercase().as_str() {
            "y" | "yes" | "true" => Ok(Value::Bool(true)),
            "n" | "no" | "false" => Ok(Value::Bool(false)),
            _ => Err("`yes` or `no`, please".into()),
        },
        Some("array") => {
            let parts = given.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(chosen).collect::<Result<Vec<_>, _>>().map(Value::Array)
        }
        _ => chosen(given),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A line without its end; none if the input has ended.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    Ok((input.read_line(&mut line)? > 0).then(|| line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Schema;

    fn form() -> InputQuestion {
        let schema = json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "description": "Who\u{1b}[2J?" },
                "age": { "type": "integer" },
                "paid": { "type": "boolean", "default": true },
                "size": { "type": "string", "oneOf": [{ "const": "s", "title": "Small" }, { "const": "l", "title": "Large" }] },
                "colors": { "type": "array", "items": { "type": "string", "enum": ["red", "blue"] } },
            },
            "required": ["name", "size"],
        });
        InputQuestion::Form { message: "An order".into(), schema: Schema::compile(schema).expect("a schema") }
    }

    fn answered(question: &InputQuestion, lines: &str) -> (Reply, String) {
        let mut output = Vec::new();
        let reply = ask(question, &mut lines.as_bytes(), &mut output).expect("memory does not fail");
        (reply, String::from_utf8(output).expect("text"))
    }

    #[test]
    fn a_form_is_filled_line_by_line_and_asks_again_for_what_is_wrong() {
        let (reply, shown) = answered(&form(), "\nAda\nx\n7\n\nm\nl\nred, green\nred, blue\n\n");
        let values = json!({ "name": "Ada", "age": 7, "paid": true, "size": "l", "colors": ["red", "blue"] });
        assert_eq!(reply, Reply::Accepted(Some(values)));
        assert!(
            shown.contains("a whole number, please") && shown.contains("\"green\" is none of the choices"),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}'), "nothing moves the cursor");
    }

    #[test]
    fn a_user_may_decline_or_leave() {
        let lines = "Ada\n7\nno\ns\n\n";
        assert_eq!(answered(&form(), &format!("{lines}n\n")).0, Reply::Declined);
        assert_eq!(answered(&form(), &format!("{lines}c\n")).0, Reply::Cancelled);
        assert_eq!(answered(&form(), "Ada\n").0, Reply::Cancelled);
        let page = InputQuestion::Url { message: "Log in".into(), url: "https://example.com/".into() };
        assert_eq!(answered(&page, "what?\nyes\n").0, Reply::Accepted(None));
        assert_eq!(answered(&page, "").0, Reply::Cancelled);
    }
}
