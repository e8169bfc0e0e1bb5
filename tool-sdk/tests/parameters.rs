//! The parameters of a tool as arguments: defaults and shared fields.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use mcpp_tool::{Error, tool};
use serde_json::{Value, json};

/// Arguments that several tools have.
#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Range {
    /// Passed over.
    #[serde(default)]
    offset: u32,
    /// Most.
    limit: u32,
}

/// Shows its arguments.
#[tool]
fn show(
    /// A text.
    #[arg(default = "none")]
    text: String,
    /// A number.
    #[arg(default = 2.5)]
    factor: f64,
    /// A flag.
    #[arg(default)]
    flag: bool,
    #[arg(flatten)] range: Range,
) -> Result<String, Error> {
    Ok(format!("{text} {factor} {flag} {} {}", range.offset, range.limit))
}

fn call(arguments: Value) -> Result<Value, Error> {
    let output = (MCPP_TOOL_SHOW.call)(arguments)?;
    Ok(output.structured.expect("a value")["result"].clone())
}

#[test]
fn absent_arguments_have_their_defaults_and_shared_ones_are_fields() {
    assert_eq!(call(json!({ "limit": 5 })), Ok(json!("none 2.5 false 0 5")));
    let all = json!({ "text": "x", "factor": 1, "flag": true, "offset": 3.0, "limit": 9 });
    assert_eq!(call(all), Ok(json!("x 1 true 3 9")));
}

#[test]
fn a_wrong_or_unknown_argument_is_refused_also_beside_shared_ones() {
    for (wrong, says) in
        [(json!({ "limit": 5, "range": {} }), "range"), (json!({}), "limit"), (json!({ "limit": "many" }), "u32")]
    {
        let error = call(wrong.clone()).expect_err("refused");
        assert!(format!("{error:?}").contains(says), "{wrong}: {error:?}");
    }
}

#[test]
fn the_schema_has_defaults_and_the_shared_fields() {
    let schema = (MCPP_TOOL_SHOW.input_schema)();
    let field = |name: &str| schema["properties"][name].clone();
    assert_eq!(field("text"), json!({ "type": "string", "description": "A text.", "default": "none" }));
    assert_eq!((field("factor")["default"].clone(), field("flag")["default"].clone()), (json!(2.5), json!(false)));
    assert_eq!(field("offset")["description"], "Passed over.");
    assert_eq!(schema["required"], json!(["limit"]));
    let closed = ["additionalProperties", "unevaluatedProperties"].into_iter().any(|word| schema[word] == json!(false));
    assert!(closed, "{schema}");
}
