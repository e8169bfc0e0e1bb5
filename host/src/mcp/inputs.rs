//! Questions of a guest in MCP's words, and the client's replies in ours. In the legacy era the host asks the client itself, beside the call that the question belongs to.

use std::sync::{Mutex, PoisonError};

use futures::future::join_all;
use rmcp::{
    RoleServer,
    model::{ClientCapabilities, ContentBlock, ElicitRequest, ErrorData, InputRequest, ServerRequest},
    service::{Peer, ServiceError},
};
use serde_json::{Map, Value, json};

use super::convert;
use crate::{
    call::{
        Content,
        inputs::{Abilities, Ability, AskError, InputQuestion, ModelMessage, Reply, Round, Sample},
    },
    memory::{NoMemory, Reservation, json_bytes},
    schema::{STEPS_PER_MS, Schema},
};

/// Steps that the check of one reply may take: less than ten milliseconds.
const MAX_REPLY_STEPS: u64 = 10 * STEPS_PER_MS;
/// Most roots of a client.
const MAX_ROOTS: usize = 1_000;
/// The longest part of a client's error that a guest sees, in bytes.
const MAX_REASON_BYTES: usize = 1 << 10;

/// What a client declares that it may be asked. Elicitation without a mode means forms.
pub(super) fn abilities(declared: &ClientCapabilities) -> Abilities {
    let elicitation = declared.elicitation.as_ref();
    Abilities {
        form: elicitation.is_some_and(|modes| modes.form.is_some() || modes.url.is_none()),
        url: elicitation.is_some_and(|modes| modes.url.is_some()),
        sampling: declared.sampling.is_some(),
        roots: declared.roots.is_some(),
    }
}

/// The part of a client's capabilities that [`abilities`] reads, and no more.
pub(super) fn reduced(declared: &ClientCapabilities) -> ClientCapabilities {
    let has = abilities(declared);
    let mut kept = Map::new();
    let modes = [("form", has.form), ("url", has.url)].into_iter().filter(|(_, is_there)| *is_there);
    let modes: Map<String, Value> = modes.map(|(mode, _)| (mode.to_owned(), json!({}))).collect();
    if !modes.is_empty() {
        kept.insert("elicitation".into(), Value::Object(modes));
    }
    for (name, is_there) in [("sampling", has.sampling), ("roots", has.roots)] {
        if is_there {
            kept.insert(name.into(), json!({}));
        }
    }
    serde_json::from_value(Value::Object(kept)).unwrap_or_default()
}

/// The error for a call that failed because its client had not declared an ability.
pub(super) fn undeclared(ability: Ability) -> ErrorData {
    let required = match ability {
        Ability::Form => json!({ "elicitation": { "form": {} } }),
        Ability::Url => json!({ "elicitation": { "url": {} } }),
        Ability::Sampling => json!({ "sampling": {} }),
        Ability::Roots => json!({ "roots": {} }),
    };
    ErrorData::missing_required_client_capability(serde_json::from_value(required).unwrap_or_default())
}

/// A question as the client reads it. Fails if MCP does not allow it.
pub(super) fn request(question: &InputQuestion) -> Result<InputRequest, AskError> {
    let invalid = |error: serde_json::Error| AskError::Invalid(error.to_string());
    Ok(match question {
        InputQuestion::Form { message, schema } => {
            let params = json!({ "mode": "form", "message": message, "requestedSchema": &*schema.json });
            InputRequest::Elicitation(ElicitRequest::new(serde_json::from_value(params).map_err(invalid)?))
        }
        InputQuestion::Url { message, url } => {
            let params = json!({ "mode": "url", "message": message, "url": url, "elicitationId": "" });
            InputRequest::Elicitation(ElicitRequest::new(serde_json::from_value(params).map_err(invalid)?))
        }
        InputQuestion::Sample(sample) => {
            let request = json!({ "method": "sampling/createMessage", "params": sample_params(sample) });
            InputRequest::CreateMessage(serde_json::from_value(request).map_err(invalid)?)
        }
        InputQuestion::Roots => {
            InputRequest::ListRoots(serde_json::from_value(json!({ "method": "roots/list" })).map_err(invalid)?)
        }
    })
}

fn sample_params(sample: &Sample) -> Value {
    let mut params = Map::new();
    params.insert("messages".into(), sample.messages.iter().map(message_json).collect());
    params.insert("maxTokens".into(), sample.max_tokens.into());
    if let Some(prompt) = &sample.system_prompt {
        params.insert("systemPrompt".into(), prompt.as_str().into());
    }
    if let Some(temperature) = sample.temperature {
        params.insert("temperature".into(), temperature.into());
    }
    if !sample.stop_sequences.is_empty() {
        params.insert("stopSequences".into(), sample.stop_sequences.clone().into());
    }
    if let Some(wanted) = &sample.preferences {
        let hints: Vec<Value> = wanted.hints.iter().map(|name| json!({ "name": name })).collect();
        let mut preferences = Map::from_iter([("hints".to_owned(), Value::Array(hints))]);
        for (name, weight) in [
            ("costPriority", wanted.cost),
            ("speedPriority", wanted.speed),
            ("intelligencePriority", wanted.intelligence),
        ] {
            if let Some(weight) = weight {
                preferences.insert(name.into(), weight.into());
            }
        }
        params.insert("modelPreferences".into(), Value::Object(preferences));
    }
    Value::Object(params)
}

/// A message with one block has it plain, since clients of the older versions know no lists.
fn message_json(message: &ModelMessage) -> Value {
    let role = if message.is_of_model { "assistant" } else { "user" };
    let mut blocks: Vec<Value> = message.content.iter().map(|block| json!(convert::block(block.clone()))).collect();
    let content = if blocks.len() == 1 { blocks.swap_remove(0) } else { Value::Array(blocks) };
    json!({ "role": role, "content": content })
}

/// A client's reply in our words; else why it is none. The check of a form may take milliseconds.
pub(super) fn reply(question: &InputQuestion, reply: &Value) -> Result<Reply, String> {
    match question {
        InputQuestion::Form { schema, .. } => elicited(reply, |content| match content {
            Some(values) => matching(schema, values).map(Some),
            None => Err("the form was accepted without values".into()),
        }),
        InputQuestion::Url { .. } => elicited(reply, |_| Ok(None)),
        InputQuestion::Sample(_) => sampled(reply.clone()),
        InputQuestion::Roots => roots(reply),
    }
}

/// The same, kept in the memory of its round until the others have come. Fails if there is none: a client may send replies, and never the last one.
pub(super) fn kept_reply(
    question: &InputQuestion,
    given: &Value,
    memory: &mut Reservation,
) -> Result<Result<Reply, String>, NoMemory> {
    let before = memory.bytes();
    memory.grow_for_long(json_bytes(&given.to_string()))?;
    let reply = reply(question, given);
    if reply.is_err() {
        memory.shrink_to(before);
    }
    Ok(reply)
}

fn elicited(
    reply: &Value,
    values: impl FnOnce(Option<&Value>) -> Result<Option<Value>, String>,
) -> Result<Reply, String> {
    match reply.get("action").and_then(Value::as_str) {
        Some("accept") => values(reply.get("content")).map(Reply::Accepted),
        Some("decline") => Ok(Reply::Declined),
        Some("cancel") => Ok(Reply::Cancelled),
        _ => Err("the reply has no action `accept`, `decline` or `cancel`".into()),
    }
}

/// The values of a form, held to its schema.
fn matching(schema: &Schema, values: &Value) -> Result<Value, String> {
    let mismatch = schema.check(values, MAX_REPLY_STEPS).err();
    mismatch.map_or_else(
        || Ok(values.clone()),
        |wrong| Err(format!("the values do not match the form at {:?}: {}", wrong.path, wrong.reason)),
    )
}

fn sampled(mut reply: Value) -> Result<Reply, String> {
    let is_of_model = match reply.get("role").and_then(Value::as_str) {
        Some("assistant") => true,
        Some("user") => false,
        _ => return Err("the message has no role".into()),
    };
    let model = reply.get("model").and_then(Value::as_str).ok_or("the message names no model")?.to_owned();
    let stop_reason = reply.get("stopReason").and_then(Value::as_str).map(str::to_owned);
    let blocks = match reply.get_mut("content").map(Value::take) {
        Some(Value::Array(blocks)) => blocks,
        Some(block) => vec![block],
        None => return Err("the message has no content".into()),
    };
    let content = blocks.into_iter().map(|block| {
        let block = serde_json::from_value::<ContentBlock>(block).map_err(|error| error.to_string())?;
        match convert::from_block(block) {
            block @ (Content::Text(_) | Content::Image(_) | Content::Audio(_)) => Ok(block),
            _ => Err("the message has a block that is no text, picture or sound".to_owned()),
        }
    });
    let content = content.collect::<Result<_, String>>()?;
    Ok(Reply::Sampled { message: ModelMessage { is_of_model, content }, model, stop_reason })
}

fn roots(reply: &Value) -> Result<Reply, String> {
    let roots = reply.get("roots").and_then(Value::as_array).ok_or("the reply has no list of roots")?;
    if roots.len() > MAX_ROOTS {
        return Err(format!("the client has {} roots; at most {MAX_ROOTS} are taken", roots.len()));
    }
    let text = |root: &Value, key: &str| root.get(key).and_then(Value::as_str).map(str::to_owned);
    let named = |root: &Value| Ok((text(root, "uri").ok_or("a root has no URI")?, text(root, "name")));
    Ok(Reply::Roots(roots.iter().map(named).collect::<Result<_, String>>()?))
}

/// Asks a legacy client a round of questions, each as a request on the stream of the call that is being handled, and hands the replies to the guest. Gives up when the guest does.
pub(super) async fn ask(peer: &Peer<RoleServer>, round: Round) {
    let Round { questions, mut replies, memory, until: _ } = round;
    let memory = Mutex::new(memory);
    let asking = join_all(questions.iter().map(|(_, question)| ask_one(peer, question, &memory)));
    let replied = tokio::select! {
        replied = asking => replied.into_iter().collect(),
        () = replies.closed() => return,
    };
    let _the_guest_may_be_gone = replies.send(replied);
    drop(memory);
}

async fn ask_one(
    peer: &Peer<RoleServer>,
    question: &InputQuestion,
    memory: &Mutex<Reservation>,
) -> Result<Reply, AskError> {
    let request = match request(question)? {
        InputRequest::Elicitation(mut request) => {
            if let rmcp::model::ElicitRequestParams::UrlElicitationParams { elicitation_id, .. } = &mut request.params {
                *elicitation_id = random_id();
            }
            ServerRequest::ElicitRequest(request)
        }
        InputRequest::CreateMessage(request) => ServerRequest::CreateMessageRequest(request),
        InputRequest::ListRoots(request) => ServerRequest::ListRootsRequest(request),
        _ => return Err(AskError::NoClient),
    };
    let result = peer.send_request(request).await.map_err(|error| match error {
        ServiceError::McpError(error) => AskError::Refused(short(error.message.into_owned())),
        _ => AskError::NoClient,
    })?;
    let json = serde_json::to_value(result).map_err(|error| AskError::Refused(error.to_string()))?;
    let mut memory = memory.lock().unwrap_or_else(PoisonError::into_inner);
    let kept = kept_reply(question, &json, &mut memory).map_err(|_| AskError::Busy)?;
    kept.map_err(|reason| AskError::Refused(short(reason)))
}

fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    let _names_only_this_question = getrandom::fill(&mut bytes);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_and_age() -> InputQuestion {
        let schema = json!({
            "type": "object",
            "properties": { "name": { "type": "string", "minLength": 2 }, "age": { "type": "integer" } },
            "required": ["name"],
        });
        form(schema)
    }

    fn form(schema: Value) -> InputQuestion {
        InputQuestion::Form { message: "Who?".into(), schema: Schema::compile(schema).expect("a schema") }
    }

    #[test]
    fn a_form_is_held_to_its_schema() {
        for (given, expected) in [
            (
                json!({ "action": "accept", "content": { "name": "Ada" } }),
                Ok(Reply::Accepted(Some(json!({ "name": "Ada" })))),
            ),
            (json!({ "action": "decline" }), Ok(Reply::Declined)),
            (json!({ "action": "cancel", "content": 1 }), Ok(Reply::Cancelled)),
            (json!({ "action": "accept", "content": { "name": "A" } }), Err(())),
            (json!({ "action": "accept", "content": { "age": 3 } }), Err(())),
            (json!({ "action": "accept" }), Err(())),
            (json!({ "action": "maybe" }), Err(())),
            (json!([]), Err(())),
        ] {
            assert_eq!(reply(&name_and_age(), &given).map_err(drop), expected, "{given}");
        }
    }

    #[test]
    fn a_nested_form_is_no_form() {
        let nested = json!({ "type": "object", "properties": { "a": { "type": "object", "properties": {} } } });
        let asked = request(&form(nested));
        assert!(matches!(asked, Err(AskError::Invalid(_))), "{asked:?}");
        assert!(request(&name_and_age()).is_ok());
    }

    #[test]
    fn abilities_survive_the_reduction_and_nothing_else_does() {
        for (declared, form, url) in [
            (json!({}), false, false),
            (json!({ "elicitation": {} }), true, false),
            (json!({ "elicitation": { "url": {} } }), false, true),
            (json!({ "elicitation": { "form": {}, "url": {} }, "experimental": { "x": { "y": 1 } } }), true, true),
        ] {
            let declared: ClientCapabilities = serde_json::from_value(declared).expect("capabilities");
            let kept = reduced(&declared);
            assert_eq!(abilities(&kept), Abilities { form, url, ..Abilities::default() });
            assert_eq!(abilities(&kept), abilities(&declared));
            assert!(kept.experimental.is_none());
        }
    }
}
