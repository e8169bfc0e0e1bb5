//! SDKs from before 2025-11-25 throw at an event with empty data (modelcontextprotocol/python-sdk#1672, leehack/mcp_dart#126): only clients of the version that introduced
//! priming get it.

use serde_json::json;

use crate::support::{TestHost, add, answer, initialize_message};

async fn open(host: &TestHost, version: &str) -> (String, String) {
    let mut message = initialize_message();
    message["params"]["protocolVersion"] = json!(version);
    let response = host.post(message.to_string()).send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("text").to_owned();
    (session, response.text().await.expect("text"))
}

fn has_empty_event(text: &str) -> bool {
    text.split("\n\n").any(|event| event.lines().any(|line| matches!(line.trim_end(), "data:" | "data")))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_of_the_version_that_introduced_it_are_told_where_to_resume() {
    for (version, primed) in [("2024-11-05", false), ("2025-03-26", false), ("2025-06-18", false), ("2025-11-25", true)]
    {
        let host =
            TestHost::start_with(crate::support::folder(&[("add", &add())]), |config| config.sessions.park_ms = 20)
                .await;
        let (session, opened) = open(&host, version).await;
        assert!(!has_empty_event(&opened), "{version}: {opened}");
        for restored in [false, true] {
            if restored {
                host.until("it is parked", async |host| {
                    host.metric("mcpp_session_workers").await == ["mcpp_session_workers 0"]
                })
                .await;
            }
            let list = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {} });
            let request =
                host.post(list.to_string()).header("mcp-session-id", &session).header("mcp-protocol-version", version);
            let text = request.send().await.expect("an answer").text().await.expect("text");
            assert_eq!(has_empty_event(&text), primed, "{version}, restored {restored}: {text}");
            assert!(text.contains(r#""name":"add""#), "{text}");
        }
        let mut stream = host.stream(&session).header("mcp-protocol-version", version).send().await.expect("a stream");
        assert_eq!(stream.status(), 200);
        // A change of the tools is the first thing that an old client is told.
        host.write("other", &add_as("other"));
        host.host.reload().await.expect("looked");
        let mut told = String::new();
        while !told.contains("list_changed") {
            let chunk = tokio::time::timeout(crate::support::PATIENCE, stream.chunk()).await.expect("in time");
            told.push_str(&String::from_utf8_lossy(&chunk.expect("read").expect("an event")));
        }
        assert_eq!(has_empty_event(&told), primed, "{version}: {told}");
    }
}

fn add_as(name: &str) -> Vec<u8> {
    crate::support::binary(name, "local.get 0 local.get 1 i32.add")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_told_where_to_resume_finds_its_answer() {
    let host = TestHost::start(&[("add", &add())]).await;
    let (session, _) = open(&host, "2025-11-25").await;
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(answer(host.legacy(&session, &ping).send().await.expect("an answer")).await["result"], json!({}));
}
