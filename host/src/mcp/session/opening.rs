//! The part of the parameters of `initialize` that the host keeps: a client may send a lot with them, and neither a worker nor a record needs more than this.

use rmcp::model::{Implementation, InitializeRequestParams};

use crate::mcp::inputs;

/// A client's name and its version are kept up to so many characters each; at most six bytes of JSON stand for one.
const MAX_NAME_CHARS: usize = 128;
/// The most that is kept, as JSON, in bytes.
pub(super) const MAX_KEPT_BYTES: usize = 2 << 10;

/// The protocol's version, who the client says that it is, and what it may be asked.
pub(in crate::mcp) fn reduced(params: &InitializeRequestParams) -> InitializeRequestParams {
    let cut = |text: &str| text.chars().take(MAX_NAME_CHARS).collect::<String>();
    let client = Implementation::new(cut(&params.client_info.name), cut(&params.client_info.version));
    InitializeRequestParams::new(inputs::reduced(&params.capabilities), client)
        .with_protocol_version(params.protocol_version.clone())
}

/// As JSON; none if it is too much to keep, for what would have to be a version of no protocol.
pub(super) fn to_json(params: &InitializeRequestParams) -> Result<Option<Box<[u8]>>, serde_json::Error> {
    let json = serde_json::to_vec(&reduced(params))?;
    Ok((json.len() <= MAX_KEPT_BYTES).then(|| json.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_of_a_client_is_bounded_whatever_it_says_of_itself() {
        let params = json!({
            "protocolVersion": "2025-11-25",
            "_meta": { "a": "x".repeat(10_000) },
            "capabilities": { "experimental": { "a": { "b": "x".repeat(10_000) } }, "sampling": {} },
            "clientInfo": { "name": "\u{1}".repeat(10_000), "version": "\u{1F600}".repeat(10_000), "title": "x".repeat(10_000) },
        });
        let params = serde_json::from_value(params).expect("parameters");
        let json = to_json(&params).expect("JSON").expect("small");
        let kept: InitializeRequestParams = serde_json::from_slice(&json).expect("as it was written");
        assert_eq!(kept.protocol_version.as_str(), "2025-11-25");
        assert_eq!(kept.client_info.name.chars().count(), MAX_NAME_CHARS);
        assert_eq!(reduced(&kept), kept);
    }
}
