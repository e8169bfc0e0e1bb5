//! Messages through every door of real hosts: HTTP in both eras, standard input in both, and the operator's socket. Two processes serve all cases.
//!
//! The hosts live and never panic. A request with an id has one answer, with that id; a notification and a response have none. No answer says that the host is broken.
//! HTTP and standard input say the same to the same message. A plain call works after each batch, at each door.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{
    judge::{Broken, Checked, Outcome, broken, judged, same},
    messages::{Case, modern_call, plain_call},
    pipe::{Awaited, Pipe},
    wire::{Answer, Connection, Until},
};

/// No answer takes longer.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that are under way at the same time, at each HTTP door.
const AT_ONCE: usize = 48;

const ECHO: &str = r#"(component
    (core module $m
        (memory (export "memory") 64)
        (global $at (mut i32) (i32.const 16))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $at) (global.set $at (i32.add (global.get $at) (local.get 3))))
        (func (export "go") (param i32 i32) (result i32)
            (i32.store (i32.const 0) (local.get 0)) (i32.store (i32.const 4) (local.get 1)) (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "echo") (param "x" string) (result string)
        (canon lift (core func $i "go") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;
const ADD: &str = r#"(component
    (core module $m (func (export "f") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add))
    (core instance $i (instantiate $m))
    (func (export "add") (param "a" s32) (param "b" s32) (result s32) (canon lift (core func $i "f"))))"#;

/// Two hosts and their doors.
pub struct Doors {
    modern: Pipe,
    legacy: Pipe,
    address: SocketAddr,
    socket: PathBuf,
    session: String,
    folder: tempfile::TempDir,
    batches: u64,
}

impl Doors {
    /// Starts the hosts, of the program `mcpp`.
    pub async fn open(mcpp: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("tools")).expect("a folder of tools");
        for (name, text) in [("add", ADD), ("echo", ECHO)] {
            let wasm = wat::parse_str(text).expect("a component");
            std::fs::write(folder.path().join(format!("tools/{name}.wasm")), wasm).expect("written");
        }
        let config = folder.path().join("mcpp.toml");
        std::fs::write(config, "[tools]\nbuiltin = false\n[log]\nlevel = \"error\"\n").expect("written");
        let modern = Pipe::start(mcpp, folder.path(), "modern", &["--listen", "127.0.0.1:0"]);
        let mut legacy = Pipe::start(mcpp, folder.path(), "legacy", &[]);
        let socket = folder.path().join("modern/mcpp.sock");
        let address = loaded(&socket).await;
        loaded(&folder.path().join("legacy/mcpp.sock")).await;
        let initialize = json!({ "jsonrpc": "2.0", "id": "open", "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "fuzz", "version": "0" },
        } });
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }).to_string();
        legacy
            .exchange(&[initialize.to_string().into_bytes()], &mut Awaited::from([(r#""open""#.into(), (1, 1))]), 0)
            .await
            .expect("a session");
        legacy.exchange(&[initialized.clone().into_bytes()], &mut Awaited::new(), 0).await.expect("a session");
        let mut doors = Self { modern, legacy, address, socket, session: String::new(), folder, batches: 0 };
        let opened = doors.post(&[], initialize.to_string().as_bytes(), Until::End).await.expect("an answer");
        doors.session = opened.header("mcp-session-id").expect("a session").to_owned();
        let headers = doors.legacy_headers();
        assert_eq!(doors.post(&headers, initialized.as_bytes(), Until::End).await.expect("an answer").status, 202);
        doors
    }

    fn legacy_headers(&self) -> Vec<(String, String)> {
        vec![
            ("mcp-protocol-version".to_owned(), "2025-11-25".to_owned()),
            ("mcp-session-id".to_owned(), self.session.clone()),
        ]
    }

    /// Sends cases through every door; what each came to over HTTP in the modern era.
    pub async fn run(&mut self, cases: &[Case]) -> Checked<Vec<Outcome>> {
        self.batches += 1;
        let doors = &*self;
        let modern = over_http(cases, async |case: &Case, until| {
            let modern = || vec![("mcp-protocol-version".to_owned(), "2026-07-28".to_owned())];
            let mut headers = case.modern_headers().unwrap_or_else(modern);
            for (name, value) in &case.headers {
                headers.retain(|(known, _)| known != name);
                headers.push((name.clone(), value.clone()));
            }
            doors.post(&headers, &case.body, until).await
        });
        let legacy =
            over_http(cases, async |case: &Case, until| doors.post(&doors.legacy_headers(), &case.body, until).await);
        let (modern, legacy, operator) = tokio::join!(modern, legacy, self.operator(cases));
        let (modern, legacy) = (modern?, legacy?);
        operator?;
        let initializes = |case: &Case| case.method().as_deref() == Some("initialize");
        let n = self.batches;
        let piped = self.modern.run(cases, |case| !initializes(case), &modern_call(&format!("plain-{n}"))).await?;
        // Before `initialize` a ping on standard input need not say of which era it is.
        let is_modern = |case: &Case| {
            case.headers.is_empty() && case.modern_headers().is_some() && !case.is_early_ping() && !initializes(case)
        };
        same(cases, "modern", &modern, &piped, is_modern)?;
        let piped = self.legacy.run(cases, |_| true, &plain_call(&format!("plain-{n}"))).await?;
        same(cases, "legacy", &legacy, &piped, |case| !initializes(case) && !case.has_meta())?;
        self.well().await?;
        Ok(modern.into_iter().map(|(outcome, _)| outcome).collect())
    }

    /// Whether both hosts live and are as they were.
    async fn well(&mut self) -> Checked<()> {
        let modern = Case { headers: Vec::new(), body: modern_call("plain").to_string().into_bytes() };
        let legacy = plain_call("plain").to_string().into_bytes();
        let modern_headers = modern.modern_headers().expect("plain");
        for (headers, body) in [(modern_headers, modern.body), (self.legacy_headers(), legacy)] {
            let answer = self.post(&headers, &body, Until::End).await;
            let answer = answer.map_err(|error| Broken { case: None, why: format!("a plain call failed: {error}") })?;
            let text = String::from_utf8_lossy(&answer.body);
            if !text.contains(r#""result":42"#) {
                return broken(None, format!("a plain call is answered with {} {text}", answer.status));
            }
        }
        for name in ["modern", "legacy"] {
            let said = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).expect("a log");
            if said.contains("panicked at") {
                return broken(None, said);
            }
        }
        Ok(())
    }

    async fn post(&self, headers: &[(String, String)], body: &[u8], until: Until) -> io::Result<Answer> {
        let mut head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\n".to_owned();
        let usual = [("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        for (name, value) in usual {
            if !headers.iter().any(|(known, _)| known == name) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        Connection::new(TcpStream::connect(self.address).await?).ask(head.as_bytes(), body, until).await
    }

    /// The operator's commands take none of it, and say so.
    async fn operator(&self, cases: &[Case]) -> Checked<()> {
        let paths = [
            "/accept?tenant=local",
            "/events/settle?tenant=local",
            "/tenants/remove",
            "/notes/add?tenant=local",
            "/mcp",
        ];
        for (n, case) in cases.iter().enumerate().filter(|(n, _)| n % 4 == 0) {
            let path = paths[case.body.len() % paths.len()];
            let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
            let connected = UnixStream::connect(&self.socket).await.map(Connection::new);
            let asked = async { connected?.ask(head.as_bytes(), &case.body, Until::End).await };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) if (400..500).contains(&answer.status) => {}
                other => return broken(Some(n), format!("POST {path} at the operator's socket: {other:?}")),
            }
        }
        Ok(())
    }

    /// Closes the clients' ends; the hosts must end by themselves, and well.
    pub async fn close(self) {
        self.modern.close().await;
        self.legacy.close().await;
    }
}

/// Waits until a host has its tools; where it listens, if it does.
async fn loaded(socket: &Path) -> SocketAddr {
    let info = async || {
        let mut connection = Connection::new(UnixStream::connect(socket).await?);
        connection.ask(b"GET /info?tenant=local HTTP/1.1\r\nhost: localhost\r\n", b"", Until::End).await
    };
    let loading = async {
        loop {
            if let Ok(answer) = info().await
                && let Ok(info) = serde_json::from_slice::<Value>(&answer.body)
                && info["components"].as_array().is_some_and(|components| components.len() == 2)
            {
                let url = info["url"].as_str().unwrap_or_default().to_owned();
                let address =
                    url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/mcp")).unwrap_or("127.0.0.1:1");
                return address.parse().expect("an address");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, loading).await.expect("the host loads its tools")
}

/// All cases over HTTP, several at once: what each came to, and with which status.
async fn over_http(
    cases: &[Case],
    post: impl AsyncFn(&Case, Until) -> io::Result<Answer>,
) -> Checked<Vec<(Outcome, u16)>> {
    let asked = stream::iter(cases.iter().enumerate()).map(async |(n, case)| {
        let until =
            if case.method().as_deref() == Some("subscriptions/listen") { Until::FirstEvent } else { Until::End };
        match timeout(PATIENCE, post(case, until)).await {
            Ok(Ok(answer)) => judged(case, &answer).map(|outcome| (outcome, answer.status)).map_err(|why| Broken {
                case: Some(n),
                why: format!("{why}: HTTP {} {}", answer.status, String::from_utf8_lossy(&answer.body)),
            }),
            other => broken(Some(n), format!("no answer over HTTP: {other:?}")),
        }
    });
    asked.buffered(AT_ONCE).collect::<Vec<_>>().await.into_iter().collect()
}
