//! A record of a peer, and the comment that carries it.

use mcpp_tool::environment::parse_rfc3339;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The largest comment that is read, in bytes; GitHub takes 65,536 characters.
pub const MAX_BODY_BYTES: usize = 256 << 10;

/// A record of a peer. Its fields stand in the order of their names, as the other programs write them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// When its host last wrote it, as ISO 8601; without an offset it is UTC.
    pub last_seen: String,
    /// The port at which it listens.
    #[serde(default)]
    pub listen_port: u16,
    /// More of it, as its host says.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Where it is.
    pub multiaddr: String,
    /// Its id.
    pub peer_id: String,
    /// Its public address, if it knows one.
    #[serde(default)]
    pub public_ip: Option<String>,
    /// The name of its host.
    pub runner_name: String,
}

impl PeerRecord {
    /// When its host last wrote it, in milliseconds since 1970-01-01 UTC; none if that cannot be read.
    pub fn seen_ms(&self) -> Option<u64> {
        parse_rfc3339(&self.last_seen).or_else(|| parse_rfc3339(&format!("{}Z", self.last_seen)))
    }

    /// The comment that carries it.
    pub fn to_comment(&self, prefix: &str) -> String {
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        format!("{}\n```json\n{json}\n```\n", marker(prefix, &self.runner_name))
    }
}

/// The first line of the comment of a host.
pub fn marker(prefix: &str, runner: &str) -> String {
    format!("<!-- {prefix}:{runner} -->")
}

/// The record in a comment; none if it is another comment, or a broken one.
pub fn read(prefix: &str, body: &str) -> Option<PeerRecord> {
    let body = body.trim();
    if body.len() > MAX_BODY_BYTES || !body.starts_with(&format!("<!-- {prefix}:")) {
        return None;
    }
    let (_, fenced) = body.split_once("```json")?;
    let (_, json) = fenced.split_once('\n')?;
    let (json, _) = json.rsplit_once("```")?;
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> PeerRecord {
        PeerRecord {
            last_seen: "2026-11-27T13:00:00Z".into(),
            listen_port: 9100,
            metadata: Map::new(),
            multiaddr: "/ip4/192.0.2.1/tcp/9100/p2p/12D3".into(),
            peer_id: "12D3".into(),
            public_ip: None,
            runner_name: "one".into(),
        }
    }

    #[test]
    fn a_comment_has_the_form_of_the_other_programs() {
        let comment = record().to_comment("p2p-peer-registry");
        assert_eq!(
            comment,
            "<!-- p2p-peer-registry:one -->\n```json\n{\n  \"last_seen\": \"2026-11-27T13:00:00Z\",\n  \"listen_port\": 9100,\n  \
             \"metadata\": {},\n  \"multiaddr\": \"/ip4/192.0.2.1/tcp/9100/p2p/12D3\",\n  \"peer_id\": \"12D3\",\n  \
             \"public_ip\": null,\n  \"runner_name\": \"one\"\n}\n```\n"
        );
        assert_eq!(read("p2p-peer-registry", &comment), Some(record()));
        assert_eq!(read("p2p-peer-registry", &format!("\n  {}\n\n", comment.replace('\n', "\r\n"))), Some(record()));
        assert_eq!(read("other", &comment), None);
    }

    #[test]
    fn both_forms_of_time_are_read_and_other_comments_are_none() {
        let at = |text: &str| PeerRecord { last_seen: text.into(), ..record() }.seen_ms();
        let ms = at("2026-11-27T13:00:00Z");
        assert!(ms.is_some());
        assert_eq!(
            (at("2026-11-27T13:00:00"), at("2026-11-27T13:00:00+00:00"), at("2026-11-27T14:00:00.000000+01:00")),
            (ms, ms, ms)
        );
        assert_eq!((at("2026-11-27T13:00:00.123456"), at("yesterday"), at("")), (ms.map(|ms| ms + 123), None, None));
        for other in [
            "",
            "hello",
            "<!-- p:one -->",
            "<!-- p:one -->\n```json\n{]\n```",
            "<!-- p:one -->\n```json",
            "<!-- p:one --> ``` ```json x",
        ] {
            assert_eq!(read("p", other), None, "{other:?}");
        }
        let large = format!("<!-- p:one -->\n```json\n{}\n```", " ".repeat(MAX_BODY_BYTES));
        assert_eq!(read("p", &large), None);
    }
}
