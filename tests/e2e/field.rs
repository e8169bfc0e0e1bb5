//! Behavior of other people's clients, as they reported it to other servers: one file a kind, named after it.

mod arguments_left_out;
mod before_initialize;
mod byte_order_marks;
mod content_types;
mod cursors_of_a_wrong_type;
mod due_times;
mod duplicate_ids;
mod editors_saves;
mod eras_on_one_process;
mod errors_of_tools;
mod integers;
mod late_cancellations;
mod late_workers;
mod parked_sessions;
mod paused_machines;
mod priming_events;
mod progress_tokens;
mod queue_long;
mod queue_values;
mod silence;
mod stale_sessions;
mod streams_opened_again;
mod unreadable_requests;
mod version_headers;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, TestHost};

/// A client on the standard input and output of a host.
pub struct Pipe {
    input: WriteHalf<DuplexStream>,
    output: Lines<BufReader<ReadHalf<DuplexStream>>>,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Pipe {
    pub fn open(host: &TestHost) -> Self {
        let (near, far) = tokio::io::duplex(4 << 10);
        let (from, to) = tokio::io::split(far);
        let endpoint = mcpp::mcp::Endpoint::new(host.host.registry().clone(), "test".into(), 200);
        let limits = mcpp::mcp::stdio::LineLimits { max_bytes: 4 << 20, max_depth: 64 };
        let served = tokio::spawn(async move {
            let user = mcpp::tenant::Principal::local_user();
            mcpp::mcp::stdio::serve(&endpoint, user, limits, from, to, CancellationToken::new()).await
        });
        let (output, input) = tokio::io::split(near);
        Self { input, output: BufReader::new(output).lines(), served }
    }

    pub async fn send(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).await.expect("sent");
    }

    pub async fn receive(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line()).await.expect("in time").expect("read");
        let line = line.expect("the host lives");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not MCP: {line:?}"))
    }

    pub async fn ask(&mut self, message: &Value) -> Value {
        self.send(&message.to_string()).await;
        self.receive().await
    }

    /// Opens the legacy session.
    pub async fn initialize(&mut self) {
        let answer = self.ask(&crate::support::initialize_message()).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    }

    /// Closes the client's end; the host must end by itself.
    pub async fn leave(mut self) {
        self.input.shutdown().await.expect("closed");
        let ended = tokio::time::timeout(PATIENCE, self.served).await.expect("it ends when its client leaves");
        ended.expect("no panic").expect("no error");
    }
}

/// A request of the legacy era.
pub fn request(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id.into(), "method": method, "params": params })
}

/// A call in the legacy era.
pub fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    request(id, "tools/call", json!({ "name": tool, "arguments": arguments }))
}
