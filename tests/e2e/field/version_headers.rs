//! Clients that send `MCP-Protocol-Version` with `initialize` already, where it means nothing yet: a server that reads it there refuses before anything is negotiated
//! (Graylog2/graylog2-server#25956, xpzouying/xiaohongshu-mcp#697). The negotiated version is one of this host's (pgEdge/pgedge-postgres-mcp#212).

use serde_json::json;

use super::request;
use crate::support::{TestHost, answer, initialize_message};

#[tokio::test(flavor = "multi_thread")]
async fn initialize_negotiates_by_its_params_whatever_the_header_says() {
    let host = TestHost::start(&[]).await;
    for (header, asked, given) in [
        ("2025-11-25", "2025-11-25", "2025-11-25"),
        ("2025-03-26", "2025-11-25", "2025-11-25"),
        ("2025-11-25", "2024-11-05", "2024-11-05"),
        ("2099-01-01", "2099-01-01", "2025-11-25"),
        ("2026-07-28", "2025-06-18", "2025-06-18"),
        ("1.0", "1.0", "2025-11-25"),
        ("", "2025-11-25", "2025-11-25"),
    ] {
        let mut message = initialize_message();
        message["params"]["protocolVersion"] = json!(asked);
        let opened = host.post(message.to_string()).header("mcp-protocol-version", header);
        let opened = opened.send().await.expect("an answer");
        let session = opened.headers().get("mcp-session-id").map(|id| id.to_str().expect("text").to_owned());
        let answered = answer(opened).await;
        assert_eq!(answered["result"]["protocolVersion"], given, "{header:?}, {asked:?}: {answered}");
        // From then on the header counts.
        let ping = request(1, "ping", json!({}));
        for (version, status) in [(given, 200), ("2099-01-01", 400)] {
            let sent = host.post(ping.to_string()).header("mcp-protocol-version", version);
            let sent = sent.header("mcp-session-id", session.as_deref().expect("a session")).send().await;
            assert_eq!(sent.expect("an answer").status(), status, "{version}");
        }
    }
}
