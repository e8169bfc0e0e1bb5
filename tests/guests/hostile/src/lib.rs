//! A component that harms its host as far as it may: the bench `tenants` and the tests of bounds load it.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a guest has its thread and its output to itself"
)]

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use mcpp_tool::{
    Content, Error, Output,
    bindings::wasi::http::{
        outgoing_handler,
        types::{Fields, OutgoingRequest, Scheme},
    },
    changed, environment,
    events::Event,
    internal::{
        schemars::{JsonSchema, Schema, SchemaGenerator},
        serde::Deserialize,
    },
    log, progress, resource,
    resources::Resource,
    store::{Map, transact},
    tool,
};
use serde_json::Value;

/// Bytes of the schema that a test may write into the component, over [`SCHEMA`].
const SCHEMA_BYTES: usize = 64 << 10;
/// The input schema of `hostile_checked`. A test finds it by its first bytes and puts another in its place, filled up with spaces.
static SCHEMA: [u8; SCHEMA_BYTES] = placeholder();

const fn placeholder() -> [u8; SCHEMA_BYTES] {
    const TEXT: &[u8] = br#"{"title":"the schema that a test replaces","type":"object"}"#;
    let mut bytes = [b' '; SCHEMA_BYTES];
    let mut at = 0;
    while at < TEXT.len() {
        #[allow(clippy::indexing_slicing, reason = "at compile time, and below both lengths")]
        {
            bytes[at] = TEXT[at];
        }
        at += 1;
    }
    bytes
}

/// Arguments of whatever form the schema allows.
#[derive(Deserialize)]
#[serde(crate = "mcpp_tool::internal::serde", transparent)]
struct Checked(Value);

impl JsonSchema for Checked {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Checked".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text = black_box(&SCHEMA).as_slice();
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        Schema::try_from(value).unwrap_or_default()
    }
}

/// Takes what its schema allows.
#[tool]
fn hostile_checked(args: Checked) -> Output {
    Output::text(format!("{} bytes", args.0.to_string().len()))
}

/// Reports progress again and again, with long messages.
#[tool]
fn hostile_progress(bytes: usize, times: u32) -> Output {
    let message = "x".repeat(bytes);
    for step in 0..times {
        progress::report(f64::from(step) + 1.0, None, Some(&message));
    }
    Output::text("reported")
}

/// Writes long records to the log, again and again.
#[tool]
fn hostile_log(bytes: usize, times: u32) -> Output {
    let message = "x".repeat(bytes);
    for _ in 0..times {
        log::info(&message);
    }
    Output::text("logged")
}

/// Touches so much memory, and waits.
#[tool]
fn hostile_hold(bytes: usize, ms: u64) -> Output {
    let held = black_box(vec![1_u8; bytes]);
    std::thread::sleep(Duration::from_millis(ms));
    Output::text(format!("held {} bytes", held.len()))
}

/// Answers with so many bytes, as text or as a picture.
#[tool]
fn hostile_answer(bytes: usize, #[serde(default)] picture: bool) -> Output {
    if picture {
        return Content::Image { data: vec![1; bytes], mime_type: "image/png".into() }.into();
    }
    Output::text("\u{1}".repeat(bytes / 6) + &"x".repeat(bytes % 6))
}

/// Refuses its argument with a reason and a path of so many bytes.
#[tool]
fn hostile_refuse(bytes: usize) -> Result<Output, Error> {
    Err(Error::invalid_argument("/".repeat(bytes), "é".repeat(bytes / 2)))
}

/// Has an effect and then waits: for a timer, or in what the host makes of it.
#[tool]
fn hostile_effect(key: String, ms: u64) -> Result<Output, Error> {
    let count = transact(|t| {
        let count = EFFECTS.get(t, &key)?.unwrap_or_default() + 1;
        EFFECTS.set(t, &key, &count)?;
        Ok::<_, Error>(count)
    })?;
    std::thread::sleep(Duration::from_millis(ms));
    Ok(Output::text(count.to_string()))
}

const EFFECTS: Map<String, u64> = Map::new("effects");

/// Begins so many requests at once and waits for the first.
#[tool]
fn hostile_requests(authority: String, at_once: u32) -> Result<Output, Error> {
    let mut begun = Vec::new();
    for _ in 0..at_once {
        let request = OutgoingRequest::new(Fields::new());
        let set = [
            request.set_scheme(Some(&Scheme::Http)),
            request.set_authority(Some(&authority)),
            request.set_path_with_query(Some("/")),
        ];
        if set.iter().any(Result::is_err) {
            return Err(Error::invalid_argument("/authority", "is not one"));
        }
        begun.push(outgoing_handler::handle(request, None).map_err(|error| Error::failed(format!("{error:?}")))?);
    }
    if let Some(first) = begun.first() {
        first.subscribe().block();
    }
    Ok(Output::text(format!("began {}", begun.len())))
}

/// Emits the first event of a chain that doubles for ever.
#[tool]
fn hostile_loop() -> Result<Output, Error> {
    transact(|t| {
        t.emit("again", "first", b"")?;
        Ok::<_, Error>(())
    })?;
    Ok(Output::text("begun"))
}

/// Two for each.
fn again(event: Event) -> Result<(), Error> {
    transact(|t| {
        for branch in ["a", "b"] {
            let mut key = format!("{}{branch}", event.key);
            // A key has a bound; the chain has none.
            key.truncate(64);
            t.emit("again", &key, &event.payload)?;
        }
        Ok(())
    })
}

/// A resource whose list is another one at every look, and says so.
#[resource("loop://{id}", list = always_another)]
fn hostile_list(id: String) -> String {
    id
}

fn always_another() -> Result<Vec<Resource>, Error> {
    changed::resource_list();
    Ok(vec![Resource::new(format!("loop://{}", environment::now_ms()), "another")])
}

/// Has a result of so many small objects, which take a hundred times their text in memory.
#[tool(task = "must")]
fn hostile_objects(count: usize) -> Vec<BTreeMap<String, u8>> {
    vec![BTreeMap::from([(String::new(), 1)]); count]
}

/// A resource of so many characters, each of which is six bytes of JSON.
#[resource("large://{characters}")]
fn hostile_large(characters: String) -> Result<String, Error> {
    let count = characters.parse().map_err(|_| Error::invalid_argument("/characters", "is no number"))?;
    Ok("\u{1}".repeat(count))
}

/// Says again and again, with pauses of 10 ms, that each of so many resources `large://N` has changed.
#[tool]
fn hostile_updates(resources: usize, times: u32) -> Output {
    for _ in 0..times {
        (0..resources).for_each(|number| changed::updated(&format!("large://{number}")));
        std::thread::sleep(Duration::from_millis(10));
    }
    Output::text("said")
}

/// Says that the list of resources has changed.
#[tool]
fn hostile_change() -> Output {
    changed::resource_list();
    Output::text("said")
}

mcpp_tool::export! {
    tools: [
        hostile_checked,
        hostile_progress,
        hostile_log,
        hostile_hold,
        hostile_answer,
        hostile_refuse,
        hostile_effect,
        hostile_requests,
        hostile_loop,
        hostile_change,
        hostile_objects,
        hostile_updates,
    ],
    resources: [hostile_list, hostile_large],
    events: { "again" => again },
}
