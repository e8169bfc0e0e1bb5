//! A client whose stream broke on the way opens another, while the server still holds the first: 409, 400, or a stream that is dead (modelcontextprotocol/kotlin-sdk#715,
//! render-oss/render-mcp-server#26, leehack/mcp_dart#126).

use serde_json::Value;

use crate::support::{PATIENCE, TestHost, number};

/// Reads events until one says that the tools have changed.
async fn is_told(stream: &mut reqwest::Response) {
    let mut text = String::new();
    let waiting = async {
        loop {
            let messages = text.lines().filter_map(|line| line.strip_prefix("data:"));
            let mut messages = messages.filter_map(|data| serde_json::from_str::<Value>(data).ok());
            if messages.any(|message| message["method"] == "notifications/tools/list_changed") {
                return;
            }
            let chunk = stream.chunk().await.expect("read").expect("the stream goes on");
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("told in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_stream_of_a_session_lives_whatever_became_of_the_others() {
    let host = TestHost::start(&[]).await;
    let session = host.initialize().await;
    let open = async || {
        let stream = host.stream(&session).send().await.expect("an answer");
        assert_eq!(stream.status(), 200);
        stream
    };
    // The client reads this stream no more, and the host cannot know.
    let silent = open().await;
    let mut second = open().await;
    host.write("a", &number("a", "i32.const 1"));
    is_told(&mut second).await;
    // Nor this one: the client comes back for what was after the first event.
    let resumed = host.stream(&session).header("last-event-id", "0").send();
    let mut resumed = resumed.await.expect("an answer");
    host.write("b", &number("b", "i32.const 1"));
    is_told(&mut resumed).await;
    drop((silent, second, resumed));
    is_told(&mut open().await).await;
}
