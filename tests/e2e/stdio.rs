//! The stdio door, as clients use it: the program itself, one message a line.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::support::{PATIENCE, guest, initialize_message, modern_message, text_of};

struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Client {
    fn start() -> Self {
        Self::start_on(crate::support::folder(&[("probe", &guest("probe"))]))
    }

    fn start_on(folder: tempfile::TempDir) -> Self {
        crate::precompiled::give(&folder.path().join("data"));
        let mut child = Command::new(crate::command_line::mcpp())
            .args(["serve", "--stdio", "--tools"])
            .arg(folder.path().join("tools"))
            .arg("--data")
            .arg(folder.path().join("data"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, output, _folder: folder }
    }

    async fn send(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("sent");
    }

    async fn receive(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.output.next_line())
            .await
            .expect("in time")
            .expect("read")
            .expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("not MCP on standard output: {line:?}"))
    }

    async fn ask(&mut self, message: &Value) -> Value {
        self.send(&message.to_string()).await;
        self.receive().await
    }

    async fn leave(mut self) -> std::process::ExitStatus {
        drop(self.input.take());
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends when its client leaves")
            .expect("waited")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_eras_and_malformed_lines() {
    let mut client = Client::start();
    let discovered = client.ask(&modern_message("server/discover", json!({}))).await;
    assert!(
        discovered["result"]["supportedVersions"].as_array().expect("versions").contains(&json!("2026-07-28")),
        "{discovered}"
    );
    for (line, code) in [("{", -32700), ("[]", -32600), ("7", -32600), (r#"{"jsonrpc":"2.0","id":1}"#, -32600)] {
        client.send(line).await;
        assert_eq!(client.receive().await["error"]["code"], code, "{line}");
    }
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(5 << 20));
    client.send(&long).await;
    assert_eq!(client.receive().await["error"]["message"], "the line has more than 4194304 bytes");
    let answer = client
        .ask(&modern_message("tools/call", json!({ "name": "probe_add", "arguments": { "a": 40, "b": 2 } })))
        .await;
    assert_eq!(text_of(&answer), r#"{"result":42}"#);
    assert!(client.leave().await.success());
}

/// Whether a message says that a list has changed.
fn is_of_lists(message: &Value) -> bool {
    message["method"].as_str().is_some_and(|method| method.ends_with("/list_changed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_prints_does_not_disturb_the_protocol() {
    let mut client = Client::start();
    let initialized = client.ask(&initialize_message()).await;
    assert_eq!(initialized["result"]["protocolVersion"], "2025-11-25");
    client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    let call = json!({ "jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": { "name": "probe_print", "arguments": { "text": "{\"jsonrpc\":\"2.0\"}" } } });
    client.send(&call.to_string()).await;
    loop {
        let message = client.receive().await;
        if message["id"] == 3 {
            assert_eq!(text_of(&message), "printed");
            break;
        }
        // Tools are loaded behind the door, and so are resources.
        if !is_of_lists(&message) {
            assert_eq!(message["method"], "notifications/message", "{message}");
        }
    }
    let spin = json!({ "jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": { "name": "probe_spin" } });
    client.send(&spin.to_string()).await;
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 4 } });
    client.send(&cancel.to_string()).await;
    let ping = json!({ "jsonrpc": "2.0", "id": 5, "method": "ping" });
    client.send(&ping.to_string()).await;
    let mut answer = client.receive().await;
    while is_of_lists(&answer) {
        answer = client.receive().await;
    }
    assert_eq!(answer["id"], 5, "a cancelled request has no answer: {answer}");
    assert!(client.leave().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_call_over_standard_input_is_waited_for_in_both_eras() {
    for is_legacy in [false, true] {
        let folder = crate::support::folder(&[("conformance", &guest("conformance"))]);
        let limits = "deadline_ms = 600000\nlong_call_s = 1";
        crate::support::grant(&folder, &format!("[components.conformance.limits]\n{limits}\n"));
        let mut client = Client::start_on(folder);
        if is_legacy {
            client.ask(&initialize_message()).await;
            client.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
        }
        let mut id = 100;
        let mut call = async |client: &mut Client, tool: &str, arguments: Value| {
            id += 1;
            let mut message = modern_message("tools/call", json!({ "name": tool, "arguments": arguments }));
            message["id"] = json!(id);
            if is_legacy {
                message["params"].as_object_mut().expect("params").remove("_meta");
            }
            client.send(&message.to_string()).await;
            loop {
                let answer = client.receive().await;
                if answer["id"] == id {
                    return answer;
                }
            }
        };
        // Which tools are long is known when they are loaded.
        while text_of(&call(&mut client, "task_wait", json!({ "task": "none" })).await).contains("unknown tool") {}
        let late = call(&mut client, "slow_compute", json!({ "seconds": 3, "label": "late" })).await;
        let task =
            late["result"]["_meta"]["mcpp/task"]["taskId"].as_str().unwrap_or_else(|| panic!("{late}")).to_owned();
        let mut waited = late;
        while waited["result"]["structuredContent"]["status"] == "working" {
            waited = call(&mut client, "task_wait", json!({ "task": task })).await;
        }
        assert_eq!(text_of(&waited), "computed late");
        assert!(client.leave().await.success());
    }
}
