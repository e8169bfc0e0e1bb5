//! The tools that the official conformance suite expects of a server under test, loaded for its runs only: the suite then tests the real path.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a guest has its thread and its output to itself")]

mod asking;
mod working;

use std::time::Duration;

use mcpp_tool::{
    Content, Error, Output, changed, log, progress, prompt,
    prompts::{Block, Filled, Message},
    resource,
    resources::{Contents, Icon, Role},
    tool,
};
use serde_json::{Value, json};

/// A PNG of one red pixel.
const PIXEL: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, b'I', b'H', b'D', b'R', 0, 0, 0, 1, 0, 0, 0, 1, 8,
    2, 0, 0, 0, 0x90, 0x77, 0x53, 0xde, 0, 0, 0, 0x0c, b'I', b'D', b'A', b'T', 0x08, 0xd7, 0x63, 0xf8, 0xcf, 0xc0, 0,
    0, 0x03, 0x01, 0x01, 0, 0x18, 0xdd, 0x8d, 0xb0, 0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];
/// A WAV of no samples.
const SILENCE: &[u8] = &[
    b'R', b'I', b'F', b'F', 36, 0, 0, 0, b'W', b'A', b'V', b'E', b'f', b'm', b't', b' ', 16, 0, 0, 0, 1, 0, 1, 0, 0x40,
    0x1f, 0, 0, 0x80, 0x3e, 0, 0, 2, 0, 16, 0, b'd', b'a', b't', b'a', 0, 0, 0, 0,
];
/// The pause between records and reports.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers with one text.
#[tool]
fn test_simple_text() -> Output {
    Output::text("This is a simple text response for testing.")
}

fn image() -> Content {
    Content::Image { data: PIXEL.to_vec(), mime_type: "image/png".into() }
}

/// Answers with a picture.
#[tool]
fn test_image_content() -> Output {
    image().into()
}

/// Answers with a sound.
#[tool]
fn test_audio_content() -> Output {
    Content::Audio { data: SILENCE.to_vec(), mime_type: "audio/wav".into() }.into()
}

/// Answers with a resource.
#[tool]
fn test_embedded_resource() -> Output {
    Content::TextResource {
        uri: "test://embedded-resource".into(),
        mime_type: Some("text/plain".into()),
        text: "This is an embedded resource content.".into(),
    }
    .into()
}

/// Answers with text, a picture and a resource.
#[tool]
fn test_multiple_content_types() -> Output {
    let resource = Content::TextResource {
        uri: "test://mixed-content-resource".into(),
        mime_type: Some("application/json".into()),
        text: r#"{"test":"data","value":123}"#.into(),
    };
    [Content::Text("Multiple content types test:".into()), image(), resource].into_iter().collect()
}

/// Writes three records while it runs.
#[tool]
fn test_tool_with_logging() -> Output {
    for message in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
        log::info(message);
        std::thread::sleep(PAUSE);
    }
    Output::text("Tool with logging executed successfully")
}

/// Writes records of its own.
#[tool]
fn test_logging_tool() -> Output {
    log::info("a record of the call");
    log::error("a grave record of the call");
    Output::text("logged")
}

/// Fails on purpose.
#[tool]
fn test_error_handling() -> Result<Output, Error> {
    Err(Error::failed("This tool intentionally returns an error for testing"))
}

/// Reports progress while it runs.
#[tool]
fn test_tool_with_progress() -> Output {
    for done in [0.0, 50.0, 100.0] {
        progress::report(done, Some(100.0), None);
        std::thread::sleep(PAUSE);
    }
    Output::text("Tool with progress executed successfully")
}

fn rich_schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": { "address": { "$anchor": "addressDef", "type": "object", "properties": { "street": { "type": "string" }, "city": { "type": "string" } } } },
        "properties": {
            "name": { "type": "string" },
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": { "type": "string" },
            "email": { "type": "string" }
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false
    })
}

/// Has a schema with many of JSON Schema's words.
#[tool(input_schema = rich_schema())]
fn json_schema_2020_12_tool(args: Value) -> Output {
    Output::text(format!("JSON Schema 2020-12 tool called with: {args}"))
}

/// Takes an argument that HTTP clients repeat in a header.
#[tool]
fn test_custom_header(
    /// The region.
    #[schemars(extend("x-mcp-header" = "Region"))]
    region: String,
) -> Output {
    Output::text(format!("Region: {region}"))
}

/// A text that never changes.
#[resource("test://static-text", mime_type = "text/plain")]
fn static_text() -> &'static str {
    "This is the content of the static text resource."
}

/// A picture that never changes.
#[resource("test://static-binary", mime_type = "image/png")]
fn static_binary() -> Vec<u8> {
    PIXEL.to_vec()
}

/// Data by their id.
#[resource("test://template/{id}/data", mime_type = "application/json")]
fn template_data(#[arg(complete = ids)] id: String) -> Value {
    json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") })
}

fn ids(typed: &str) -> Vec<String> {
    ["123", "124", "200"].into_iter().filter(|id| id.starts_with(typed)).map(str::to_owned).collect()
}

/// A resource that clients subscribe to.
#[resource("test://watched-resource", mime_type = "text/plain")]
fn watched_resource() -> &'static str {
    "Watched resource content"
}

/// Changes the watched resource.
#[tool]
fn test_change_resource() -> Output {
    changed::updated("test://watched-resource");
    Output::text("changed")
}

/// A prompt without arguments.
#[prompt]
fn test_simple_prompt() -> &'static str {
    "This is a simple prompt for testing."
}

/// A prompt with two arguments.
#[prompt]
fn test_prompt_with_arguments(
    /// The first argument.
    #[arg(complete = places)]
    arg1: String,
    /// The second argument.
    arg2: String,
) -> String {
    format!("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'")
}

fn places(typed: &str) -> Vec<String> {
    ["paris", "park", "party"].into_iter().filter(|place| place.starts_with(typed)).map(str::to_owned).collect()
}

/// A prompt that includes a resource.
#[prompt]
#[allow(non_snake_case, reason = "the suite's name")]
fn test_prompt_with_embedded_resource(
    /// The resource to include.
    resourceUri: String,
) -> Filled {
    let contents = Contents::text(resourceUri, "Embedded resource content for testing.").with_mime_type("text/plain");
    [Message::new(Role::User, Block::Resource(contents)), Message::user("Please process the embedded resource above.")]
        .into()
}

/// A prompt with a picture.
#[prompt]
fn test_prompt_with_image() -> Filled {
    let image = Block::Image { data: PIXEL.to_vec(), mime_type: "image/png".into() };
    [Message::new(Role::User, image), Message::user("Please analyze the image above.")].into()
}

/// A prompt whose icon is another one at every look.
#[prompt(icons = dated)]
fn test_dynamic_prompt() -> &'static str {
    "This prompt changes."
}

fn dated() -> Vec<Icon> {
    vec![Icon { src: format!("https://example.com/{}.png", mcpp_tool::environment::now_ms()), ..Icon::default() }]
}

/// Changes the list of prompts.
#[tool]
fn test_trigger_prompt_change() -> Output {
    changed::prompt_list();
    Output::text("changed")
}

mcpp_tool::export! {
    tools: [
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_tool_with_logging,
        test_logging_tool,
        test_error_handling,
        test_tool_with_progress,
        json_schema_2020_12_tool,
        test_custom_header,
        asking::test_sampling,
        asking::test_elicitation,
        asking::test_elicitation_sep1034_defaults,
        asking::test_elicitation_sep1330_enums,
        asking::test_input_required_result_elicitation,
        asking::test_input_required_result_sampling,
        asking::test_input_required_result_list_roots,
        asking::test_input_required_result_request_state,
        asking::test_input_required_result_tampered_state,
        asking::test_input_required_result_multiple_inputs,
        asking::test_input_required_result_multi_round,
        asking::test_input_required_result_capabilities,
        asking::test_missing_capability,
        asking::test_streaming_elicitation,
        test_change_resource,
        test_trigger_prompt_change,
        working::greet,
        working::slow_compute,
        working::slow_structured,
        working::failing_job,
        working::protocol_error_job,
        working::large_job,
        working::confirm_delete,
        working::multi_input,
        working::test_tool_with_task,
    ],
    resources: [static_text, static_binary, template_data, watched_resource, asking::asks_first],
    prompts: [
        test_simple_prompt,
        test_prompt_with_arguments,
        test_prompt_with_embedded_resource,
        test_prompt_with_image,
        test_dynamic_prompt,
        asking::test_input_required_result_prompt,
        asking::test_sampling_prompt,
    ],
}
