//! A peer's list of tools as it wrote it: bounded in bytes, pages and tools before anything of it is kept, and parsed where no request waits.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::{json, value::RawValue};
use tokio::time::timeout;

use super::{
    super::line::Broken,
    DIAL_TIME, MAX_PAGES, MAX_TOOLS, Remotes,
    message::{meta, read_result},
};
use crate::{
    call::{CallError, Observer},
    mcp::apart::read_apart,
    mesh::PeerId,
};

/// All pages of a list together, in bytes.
pub const MAX_LIST_BYTES: usize = 8 << 20;
/// One tool of a list, in bytes: two of the largest schemas, and its texts.
pub const MAX_LISTED_TOOL_BYTES: usize = 640 << 10;

/// A tool as a peer lists it. Nothing in it is checked but its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerTool {
    /// Its name there.
    pub name: String,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// A description of the tool.
    pub description: String,
    /// The schema of its arguments, as JSON.
    pub input_schema: String,
    /// The schema of its result, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<String>,
    /// Hints to clients.
    #[serde(default)]
    pub hints: PeerHints,
}

/// Hints of a tool to clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerHints {
    /// It changes nothing.
    pub read_only_hint: Option<bool>,
    /// It may destroy something.
    pub destructive_hint: Option<bool>,
    /// To call it again changes nothing more.
    pub idempotent_hint: Option<bool>,
    /// It reaches beyond its host.
    pub open_world_hint: Option<bool>,
}

/// Why a peer's list of tools is not used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListError {
    /// The peer gave none.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The list breaks a bound, or is none.
    #[error("its list of tools is refused: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedPage {
    tools: FewTools,
    #[serde(default)]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedTool {
    name: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    input_schema: Box<RawValue>,
    #[serde(default)]
    output_schema: Option<Box<RawValue>>,
    #[serde(default)]
    annotations: Option<PeerHints>,
}

/// The tools of a page, as long as they are not too many: each takes memory, however short it is.
struct FewTools(Vec<Box<RawValue>>);

impl<'de> Deserialize<'de> for FewTools {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneByOne;
        impl<'de> Visitor<'de> for OneByOne {
            type Value = FewTools;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tools")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tools: A) -> Result<FewTools, A::Error> {
                let mut read = Vec::new();
                while let Some(tool) = tools.next_element()? {
                    if read.len() >= MAX_TOOLS {
                        return Err(A::Error::custom(too_many()));
                    }
                    read.push(tool);
                }
                Ok(FewTools(read))
            }
        }
        deserializer.deserialize_seq(OneByOne)
    }
}

fn too_many() -> String {
    format!("it has more than {MAX_TOOLS} tools")
}

impl Remotes {
    /// All tools that a peer lets this host see, as the peer wrote them.
    pub async fn list(&self, peer: &PeerId) -> Result<Vec<PeerTool>, ListError> {
        let listed = self.read_list(peer).await;
        let outcome = match &listed {
            Ok(_) => "ok",
            Err(ListError::Call(_)) => "failed",
            Err(ListError::Refused(_)) => "refused",
        };
        metrics::counter!("mcpp_mesh_lists_total", "outcome" => outcome).increment(1);
        listed
    }

    async fn read_list(&self, peer: &PeerId) -> Result<Vec<PeerTool>, ListError> {
        let (mut tools, mut bytes) = (Vec::new(), 0_usize);
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let answer = self.page(peer, cursor.as_deref()).await?;
            bytes = bytes.saturating_add(answer.len());
            if bytes > MAX_LIST_BYTES {
                return Err(ListError::Refused(format!("it has more than {MAX_LIST_BYTES} bytes")));
            }
            let asked = peer.clone();
            let parsed = read_apart(self.0.registry.engine(), answer.len(), move || parse(&asked, &answer)).await;
            let (page, next) = parsed.ok_or_else(|| ListError::Refused("it cannot be read".to_owned()))??;
            tools.extend(page);
            if tools.len() > MAX_TOOLS {
                return Err(ListError::Refused(too_many()));
            }
            match next {
                None => return Ok(tools),
                Some(next) => cursor = Some(next),
            }
        }
        Err(ListError::Refused(format!("it has more than {MAX_PAGES} pages")))
    }

    async fn page(&self, peer: &PeerId, cursor: Option<&str>) -> Result<Vec<u8>, CallError> {
        let params = |_| {
            let mut params = json!({ "_meta": meta() });
            if let (Some(cursor), Some(params)) = (cursor, params.as_object_mut()) {
                params.insert("cursor".into(), cursor.into());
            }
            params.to_string()
        };
        let unreachable = |reason: String| CallError::Unreachable { peer: peer.to_string(), reason };
        let remote = self.remote(peer);
        let asking = async {
            let (_line, mut asked) = self.ask(peer, &remote, "tools/list", params, &Observer::default()).await?;
            asked.answer().await.map(|answer| answer.json).map_err(|Broken(reason)| unreachable(reason))
        };
        timeout(DIAL_TIME, asking).await.map_err(|_| unreachable("it does not list its tools".to_owned()))?
    }
}

fn parse(peer: &PeerId, answer: &[u8]) -> Result<(Vec<PeerTool>, Option<String>), ListError> {
    let page: ListedPage = read_result(peer, answer).map_err(|error| match error {
        CallError::InvalidResult { reason, .. } => ListError::Refused(reason.chars().take(200).collect()),
        other => other.into(),
    })?;
    let tools = page.tools.0.iter().map(|tool| read_tool(tool.get())).collect::<Result<_, _>>()?;
    Ok((tools, page.next_cursor))
}

fn read_tool(text: &str) -> Result<PeerTool, ListError> {
    if text.len() > MAX_LISTED_TOOL_BYTES {
        return Err(ListError::Refused(format!("a tool of it has more than {MAX_LISTED_TOOL_BYTES} bytes")));
    }
    let tool: ListedTool = serde_json::from_str(text).map_err(|error| {
        ListError::Refused(format!("a tool of it cannot be read: {error}").chars().take(200).collect())
    })?;
    Ok(PeerTool {
        name: tool.name,
        title: tool.title,
        description: tool.description.unwrap_or_default(),
        input_schema: tool.input_schema.get().to_owned(),
        output_schema: tool.output_schema.map(|schema| schema.get().to_owned()),
        hints: tool.annotations.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer")
    }

    fn read(result: &serde_json::Value) -> Result<(Vec<PeerTool>, Option<String>), ListError> {
        parse(&peer(), json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string().as_bytes())
    }

    #[test]
    fn a_list_is_read_and_comes_back_from_a_file() {
        let tool = json!({
            "name": "t", "inputSchema": { "type": "object" }, "annotations": { "readOnlyHint": true, "title": "T" }
        });
        let (tools, next) = read(&json!({ "tools": [tool], "nextCursor": "n" })).expect("a list");
        assert_eq!((tools.len(), next.as_deref()), (1, Some("n")));
        assert_eq!(
            (tools[0].hints.read_only_hint, tools[0].input_schema.as_str()),
            (Some(true), r#"{"type":"object"}"#)
        );
        let text = serde_json::to_string(&tools[0]).expect("text");
        assert_eq!(serde_json::from_str::<PeerTool>(&text).expect("read"), tools[0], "{text}");
    }

    #[test]
    fn a_list_beyond_its_bounds_is_refused() {
        let tool = |description: &str| json!({ "name": "t", "description": description, "inputSchema": {} });
        for bad in [
            json!({ "tools": vec![tool(""); MAX_TOOLS + 1] }),
            json!({ "tools": [tool(&"x".repeat(MAX_LISTED_TOOL_BYTES))] }),
            json!({ "tools": [{ "name": 1 }] }),
            json!({ "tools": 5 }),
        ] {
            assert!(matches!(read(&bad), Err(ListError::Refused(_))));
        }
        assert_eq!(read(&json!({ "tools": vec![tool(""); MAX_TOOLS] })).expect("as many as may be").0.len(), MAX_TOOLS);
    }
}
