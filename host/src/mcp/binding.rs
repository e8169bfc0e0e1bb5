//! The two bindings of MCP++ on one stream, and which of them a message belongs to (`transport-mcp-p2p`, `bindings/compatibility-matrix`).
//!
//! `initialize` opens the legacy binding. A message whose `_meta` names a protocol version belongs to the current one. Any other belongs to the legacy session, if one is open, and is
//! refused as ambiguous if none is. A client that has spoken the current binding cannot go back. What the binding demands of an `initialize` holds for clients that claim MCP++;
//! ordinary MCP clients negotiate as they do everywhere.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    envelope::{self, Envelope, INVALID_PARAMS, INVALID_REQUEST},
    straight::MODERN,
};

/// The id of the legacy binding.
pub(super) const LEGACY: &str = "mcp-binding/legacy-2024-11-05";
/// The id of the current binding.
pub(super) const CURRENT: &str = "mcp-binding/2026-07-28";
/// The one protocol version of the legacy binding.
pub(super) const LEGACY_VERSION: &str = "2024-11-05";
/// The profile of MCP++ that this host speaks: its transport.
pub(super) const PROFILE: &str = "mcp++/p2p-transport";
/// JSON-RPC code of a protocol version that is not spoken.
const UNSUPPORTED_VERSION: i64 = -32022;

/// A binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    Legacy,
    Current,
}

/// What one stream has spoken so far.
#[derive(Debug, Default)]
pub(super) struct Dual {
    spoke_current: bool,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct BindingMeta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.mcplusplus/bindingId")]
    binding: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct InitializeParams {
    #[serde(rename = "protocolVersion")]
    version: Option<Value>,
    #[serde(default)]
    capabilities: Value,
}

impl Dual {
    /// The binding of a message; the answer to one that has none.
    pub(super) fn choose(&mut self, envelope: &Envelope<'_>, has_session: bool) -> Result<Binding, Value> {
        let Some(method) = envelope.method.as_deref() else { return Ok(Binding::Legacy) };
        if method == "initialize" {
            if self.spoke_current {
                let reason = "silent_downgrade_rejected: this stream has spoken the current binding";
                return Err(refusal(envelope, INVALID_REQUEST, reason, Some(CURRENT)));
            }
            return check_initialize(envelope).map(|()| Binding::Legacy);
        }
        let params: Params<'_> = part(envelope.params);
        let meta: BindingMeta<'_> = part(params.meta);
        if let Some(version) = meta.version {
            if let Some(binding) = meta.binding
                && envelope::string(binding).as_deref() != Some(CURRENT)
            {
                let reason = "binding_id_mismatch: the message names another binding than its protocol version";
                return Err(refusal(envelope, INVALID_REQUEST, reason, Some(CURRENT)));
            }
            self.spoke_current |= envelope.id.is_some() && envelope::string(version).as_deref() == Some(MODERN);
            return Ok(Binding::Current);
        }
        if has_session || envelope.id.is_none() {
            return Ok(Binding::Legacy);
        }
        let reason = "path_ambiguous: open a session with `initialize`, or name the protocol version in `_meta`";
        Err(refusal(envelope, INVALID_REQUEST, reason, None))
    }
}

/// A part of a message; nothing if it is not what it should be, which its reader says later.
fn part<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// Holds the `initialize` of a client that claims MCP++ to the legacy binding.
fn check_initialize(envelope: &Envelope<'_>) -> Result<(), Value> {
    let InitializeParams { version, capabilities } = part(envelope.params);
    let claimed = capabilities.get("mcp++").map(|claim| claim.get("bindingId"));
    let experimental = capabilities.pointer("/experimental/mcp++~1bindingId").map(Some);
    let Some(binding) = claimed.or(experimental) else { return Ok(()) };
    let Some(version) = version else {
        let reason = "the legacy binding needs `protocolVersion`";
        return Err(refusal(envelope, INVALID_PARAMS, reason, Some(LEGACY)));
    };
    if version != LEGACY_VERSION {
        let mut refusal = refusal(envelope, UNSUPPORTED_VERSION, "unsupported protocol version", Some(LEGACY));
        if let Some(data) = refusal.pointer_mut("/error/data").and_then(Value::as_object_mut) {
            data.insert("supported".into(), json!([LEGACY_VERSION]));
            data.insert("requested".into(), version);
        }
        return Err(refusal);
    }
    match binding.and_then(|binding| binding.as_str().or_else(|| binding.get("id")?.as_str())) {
        Some(LEGACY) => Ok(()),
        _ => {
            let reason = "binding_id_mismatch: `initialize` belongs to the legacy binding";
            Err(refusal(envelope, INVALID_REQUEST, reason, Some(LEGACY)))
        }
    }
}

/// An error of the binding. Its reason begins with the name that programs read.
fn refusal(envelope: &Envelope<'_>, code: i64, reason: &str, active: Option<&str>) -> Value {
    let mut error = envelope::error(envelope.id.as_ref(), code, reason);
    let name = reason.split(':').next().filter(|name| !name.contains(' ')).map(Cow::Borrowed);
    if let Some(inside) = error.get_mut("error").and_then(Value::as_object_mut) {
        inside.insert(
            "data".into(),
            json!({
                "reason": name.unwrap_or(Cow::Borrowed("unsupported")),
                "activeBinding": active,
                "supportedVersions": [MODERN, LEGACY_VERSION],
                "supportedBindings": [CURRENT, LEGACY],
            }),
        );
    }
    error
}

/// Adds to the result of `initialize` or `server/discover` what a peer of the mesh wants to know: the bindings, and the door's limits.
pub(super) fn greet(result: &mut Value, active: &str, limits: &Value) {
    let Some(fields) = result.as_object_mut() else { return };
    fields.insert("supportedBindings".into(), json!([CURRENT, LEGACY]));
    fields.entry("supportedVersions").or_insert_with(|| json!([MODERN, LEGACY_VERSION]));
    fields.insert("limits".into(), limits.clone());
    let capabilities = fields.entry("capabilities").or_insert_with(|| json!({}));
    let Some(capabilities) = capabilities.as_object_mut() else { return };
    let about = json!({ "bindingId": active, "bindingIds": [CURRENT, LEGACY], "profiles": [PROFILE] });
    capabilities.insert("mcp++".into(), about);
    let extensions = capabilities.entry("extensions").or_insert_with(|| json!({}));
    if let Some(extensions) = extensions.as_object_mut() {
        extensions.insert("io.mcplusplus/profiles".into(), json!({ PROFILE: {} }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(dual: &mut Dual, message: &Value, has_session: bool) -> String {
        let text = message.to_string();
        let envelope = envelope::read(text.as_bytes(), 64).expect("a message");
        match dual.choose(&envelope, has_session) {
            Ok(binding) => format!("{binding:?}"),
            Err(refusal) => {
                format!("{} {}", refusal["error"]["code"], refusal["error"]["data"]["reason"].as_str().expect("named"))
            }
        }
    }

    fn initialize(params: Value) -> Value {
        json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params })
    }

    fn current(binding: Option<&str>) -> Value {
        let mut meta = json!({ "io.modelcontextprotocol/protocolVersion": MODERN });
        if let Some(binding) = binding {
            meta["io.mcplusplus/bindingId"] = json!(binding);
        }
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": { "_meta": meta } })
    }

    #[test]
    fn a_message_finds_its_binding_in_the_order_of_the_matrix() {
        let bare = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" });
        for (message, has_session, chosen) in [
            (initialize(json!({})), false, "Legacy"),
            (initialize(json!({ "protocolVersion": "2025-11-25", "capabilities": {} })), false, "Legacy"),
            (json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }), false, "Legacy"),
            (current(None), false, "Current"),
            (current(None), true, "Current"),
            (current(Some(CURRENT)), true, "Current"),
            (current(Some(LEGACY)), false, "-32600 binding_id_mismatch"),
            (current(Some("forged")), false, "-32600 binding_id_mismatch"),
            (bare.clone(), true, "Legacy"),
            (bare, false, "-32600 path_ambiguous"),
        ] {
            assert_eq!(choose(&mut Dual::default(), &message, has_session), chosen, "{message}");
        }
    }

    #[test]
    fn a_client_that_claims_the_legacy_binding_is_held_to_it() {
        let claim = |version: Option<&str>, binding: &str| {
            let mut params = json!({ "capabilities": { "mcp++": { "bindingId": binding } } });
            if let Some(version) = version {
                params["protocolVersion"] = json!(version);
            }
            initialize(params)
        };
        let other = |binding: &str| {
            initialize(
                json!({ "protocolVersion": LEGACY_VERSION, "capabilities": { "experimental": { "mcp++/bindingId": { "id": binding } } } }),
            )
        };
        for (message, chosen) in [
            (claim(Some(LEGACY_VERSION), LEGACY), "Legacy"),
            (other(LEGACY), "Legacy"),
            (other(CURRENT), "-32600 binding_id_mismatch"),
            (claim(None, LEGACY), "-32602 unsupported"),
            (claim(Some("2025-11-25"), LEGACY), "-32022 unsupported"),
            (claim(Some(MODERN), LEGACY), "-32022 unsupported"),
            (claim(Some(LEGACY_VERSION), CURRENT), "-32600 binding_id_mismatch"),
        ] {
            assert_eq!(choose(&mut Dual::default(), &message, false), chosen, "{message}");
        }
    }

    #[test]
    fn nobody_goes_back_from_the_current_binding() {
        let mut dual = Dual::default();
        assert_eq!(choose(&mut dual, &current(None), false), "Current");
        assert_eq!(choose(&mut dual, &initialize(json!({})), false), "-32600 silent_downgrade_rejected");
    }
}
