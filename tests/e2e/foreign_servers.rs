//! The commands' client against servers that are not ours, as they are seen in the field.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use serde_json::{Value, json};

use crate::command_line::{run, stderr, stdout};

/// A server of the legacy era that says some things on the session's own stream alone.
#[derive(Clone, Default)]
struct StreamFirst {
    is_open: Arc<AtomicBool>,
    /// Whether it refuses the stream.
    has_none: bool,
}

const SLOW: Duration = Duration::from_millis(300);

async fn stream_first(State(server): State<StreamFirst>, method: Method, body: String) -> Response {
    match method {
        Method::GET => {
            tokio::time::sleep(SLOW).await;
            server.is_open.store(true, SeqCst);
            if server.has_none {
                return StatusCode::METHOD_NOT_ALLOWED.into_response();
            }
            let quiet = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
            ([("content-type", "text/event-stream")], quiet).into_response()
        }
        Method::POST => {
            let request: Value = serde_json::from_str(&body).expect("JSON");
            let Some(id) = request.get("id") else { return StatusCode::ACCEPTED.into_response() };
            let result = match request["method"].as_str().expect("a method") {
                "initialize" => json!({
                    "protocolVersion": "2025-11-25",
                    "serverInfo": { "name": "stream-first", "version": "1" },
                    "capabilities": { "tools": {} },
                }),
                "tools/call" => {
                    let said = if server.is_open.load(SeqCst) { "after the stream" } else { "before the stream" };
                    json!({ "content": [{ "type": "text", "text": said }] })
                }
                _ => {
                    let error = json!({ "code": -32601, "message": "unknown method" });
                    return Json(json!({ "jsonrpc": "2.0", "id": id, "error": error })).into_response();
                }
            };
            ([("mcp-session-id", "one")], Json(json!({ "jsonrpc": "2.0", "id": id, "result": result }))).into_response()
        }
        _ => StatusCode::OK.into_response(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_out_when_the_sessions_stream_stands() {
    for has_none in [false, true] {
        let server = StreamFirst { has_none, ..StreamFirst::default() };
        let app = Router::new().route("/mcp", any(stream_first)).with_state(server);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let called = tokio::task::block_in_place(|| run(&["call", "anything", "{}", "--url", &url], &[]));
        assert_eq!(stdout(&called).trim(), "after the stream", "{}", stderr(&called));
    }
}
