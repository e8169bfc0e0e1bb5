//! A client that keeps the id of a session that is gone, and sends it with `initialize` too: 404 says "open a new one", and it just tried (diegosouzapw/OmniRoute#5957,
//! anthropics/claude-code#55970). Everything else of such a session is 404, by which clients know that they have to initialize (DAWNCR0W/affine-mcp-server#301).

use serde_json::json;

use super::request;
use crate::support::{TestHost, answer, initialize_message};

#[tokio::test(flavor = "multi_thread")]
async fn initialize_opens_a_new_session_whatever_session_it_names() {
    let host = TestHost::start(&[]).await;
    let ended = host.initialize().await;
    host.http.delete(host.host.url()).header("mcp-session-id", &ended).send().await.expect("ended");
    for stale in [ended.as_str(), "", "undefined", "0d2991da-d05a-410d-b094-ede02365ef2c", "\u{e9}"] {
        let late = host.post(request(1, "ping", json!({})).to_string()).header("mcp-session-id", stale);
        let late = late.send().await.expect("an answer");
        assert_eq!(late.status(), 404, "{stale:?}");
        assert_eq!(answer(late).await["error"]["code"], -32001, "{stale:?}");
        let opened = host.post(initialize_message().to_string()).header("mcp-session-id", stale);
        let opened = opened.send().await.expect("an answer");
        assert_eq!(opened.status(), 200, "{stale:?}");
        let session = opened.headers()["mcp-session-id"].to_str().expect("text").to_owned();
        assert_ne!(session, stale);
        assert_eq!(answer(opened).await["result"]["serverInfo"]["name"], "mcpp");
        let ping = host.legacy(&session, &request(2, "ping", json!({}))).send().await.expect("an answer");
        assert_eq!(answer(ping).await["result"], json!({}));
    }
}
