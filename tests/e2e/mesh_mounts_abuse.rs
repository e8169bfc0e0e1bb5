//! Peers of a mount that do wrong: lists that are too long, too large or not to be shown, results that break their schema, and silence.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use mcpp::{
    config::MeshDoorConfig,
    limits::Limits,
    mcp::mesh::{MeshDoor, remote::Remotes},
    memory::MemoryUse,
    mesh::{PeerId, PeerStream, dial::Dial},
    mounts::{Mounts, rows::MountRow},
    names::TenantId,
    tenant::home::Homes,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    mesh_peers::{FramePeer, MeshHost, peer},
    mesh_remote::join,
    support::{guest, text_of},
};

/// What is at the other end of a stream.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// A door, behind a line that the token cuts without a word.
    Door(MeshDoor, CancellationToken),
    /// A peer that answers lists and calls with these.
    Script(Arc<Value>, Arc<Value>),
    /// A peer that says without a pause that this list has changed; how often it was said, and how often the list was fetched.
    Flood(Arc<Value>, Arc<[AtomicUsize; 2]>),
    /// A peer that lists this and sends so many records, each of so many bytes, with each call, before it answers.
    Chatter(Arc<Value>, usize, usize),
    /// A door behind which the tools have changed, and the old list of it; how often that was fetched.
    Stale(MeshDoor, Arc<Value>, Arc<AtomicUsize>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Ends(Arc<Mutex<HashMap<PeerId, End>>>);

impl Ends {
    pub(crate) fn set(&self, peer: &PeerId, end: End) {
        self.0.lock().expect("not poisoned").insert(peer.clone(), end);
    }
}

impl Dial for Ends {
    fn dial<'a>(
        &'a self,
        to: &'a PeerId,
        protocol: &'static str,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, mcpp::mesh::Unreachable>> {
        Box::pin(async move {
            let (here, there) = tokio::io::duplex(64 << 10);
            match self.0.lock().expect("not poisoned").get(to).cloned() {
                Some(End::Door(door, frozen)) => {
                    let (near, far) = tokio::io::duplex(64 << 10);
                    door.accept(peer(0), protocol, Box::new(far));
                    tokio::spawn(async move {
                        let (mut there, mut near) = (there, near);
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut there, &mut near) => {}
                            () = frozen.cancelled() => std::future::pending().await,
                        }
                    });
                }
                Some(End::Script(list, answer)) => drop(tokio::spawn(play(FramePeer { stream: there }, list, answer))),
                Some(End::Flood(list, counts)) => drop(tokio::spawn(flood(there, list, counts))),
                Some(End::Chatter(list, records, bytes)) => {
                    drop(tokio::spawn(chatter(FramePeer { stream: there }, list, records, bytes)))
                }
                Some(End::Stale(door, list, fetched)) => {
                    let (near, far) = tokio::io::duplex(64 << 10);
                    door.accept(peer(0), protocol, Box::new(far));
                    drop(tokio::spawn(stale([there, near].map(|stream| FramePeer { stream }), list, fetched)));
                }
                None => return Err(mcpp::mesh::Unreachable::Stopped),
            }
            let stream: PeerStream = Box::new(here);
            Ok(stream)
        })
    }
}

async fn play(mut stream: FramePeer, list: Arc<Value>, answer: Arc<Value>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    loop {
        let mut prefix = [0; 4];
        if stream.stream.read_exact(&mut prefix).await.is_err() {
            return;
        }
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(prefix)).expect("fits")];
        if stream.stream.read_exact(&mut body).await.is_err() {
            return;
        }
        let asked: Value = serde_json::from_slice(&body).expect("JSON");
        let result = match asked["method"].as_str() {
            Some("tools/list") => &list,
            Some("tools/call") => &answer,
            _ => continue,
        };
        let text = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": &**result }).to_string();
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        if stream.stream.write_all(&[&length, text.as_bytes()].concat()).await.is_err() {
            return;
        }
    }
}

/// The next message; none when the stream ends, however late it comes.
async fn next(stream: &mut FramePeer) -> Option<Value> {
    use tokio::io::AsyncReadExt as _;
    let mut prefix = [0; 4];
    stream.stream.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; usize::try_from(u32::from_be_bytes(prefix)).expect("fits")];
    stream.stream.read_exact(&mut body).await.ok()?;
    Some(serde_json::from_slice(&body).expect("JSON"))
}

async fn chatter(mut stream: FramePeer, list: Arc<Value>, records: usize, bytes: usize) {
    while let Some(asked) = next(&mut stream).await {
        let id = &asked["id"];
        let result = match asked["method"].as_str() {
            Some("tools/list") => (*list).clone(),
            Some("tools/call") => {
                for _ in 0..records {
                    let params = json!({ "_meta": { "mcpp/request": id }, "level": "info", "data": "x".repeat(bytes) });
                    stream
                        .send(&json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params }))
                        .await;
                }
                json!({ "content": [{ "type": "text", "text": "done" }] })
            }
            _ => continue,
        };
        stream.send(&json!({ "jsonrpc": "2.0", "id": id, "result": result })).await;
    }
}

async fn stale([mut there, mut door]: [FramePeer; 2], list: Arc<Value>, fetched: Arc<AtomicUsize>) {
    while let Some(asked) = next(&mut there).await {
        match asked["method"].as_str() {
            Some("tools/list") => {
                fetched.fetch_add(1, Ordering::SeqCst);
                there.send(&json!({ "jsonrpc": "2.0", "id": asked["id"], "result": &*list })).await;
            }
            Some("tools/call") => {
                let answer = door.ask(&asked).await;
                there.send(&answer).await;
            }
            _ => {}
        }
    }
}

async fn flood(stream: tokio::io::DuplexStream, list: Arc<Value>, counts: Arc<[AtomicUsize; 2]>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut input, mut output) = tokio::io::split(stream);
    let (asked, mut asks) = tokio::sync::mpsc::channel::<Value>(8);
    tokio::spawn(async move {
        let mut prefix = [0; 4];
        while input.read_exact(&mut prefix).await.is_ok() {
            let mut body = vec![0; usize::try_from(u32::from_be_bytes(prefix)).expect("fits")];
            let read = input.read_exact(&mut body).await;
            if read.is_err() || asked.send(serde_json::from_slice(&body).expect("JSON")).await.is_err() {
                return;
            }
        }
    });
    loop {
        let message = match asks.try_recv() {
            Ok(ask) if ask["method"] == "tools/list" => {
                counts[1].fetch_add(1, Ordering::SeqCst);
                json!({ "jsonrpc": "2.0", "id": ask["id"], "result": &*list })
            }
            _ => {
                counts[0].fetch_add(1, Ordering::SeqCst);
                json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {} })
            }
        };
        let text = message.to_string();
        let length = u32::try_from(text.len()).expect("short").to_be_bytes();
        if output.write_all(&[&length, text.as_bytes()].concat()).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A host with mounts over ends of the test.
pub(crate) struct Mounting {
    pub(crate) host: MeshHost,
    pub(crate) ends: Ends,
    remotes: Remotes,
    pub(crate) mounts: Mounts,
    _stop: tokio_util::sync::DropGuard,
}

impl Mounting {
    pub(crate) async fn start() -> Self {
        let (host, ends) = (MeshHost::start(&[]).await, Ends::default());
        let registry = host.test.host.registry().clone();
        let (known, dial) = (Arc::clone(&host.peers), Arc::new(ends.clone()));
        let remotes = Remotes::new(dial, MeshDoorConfig::default(), Arc::clone(&known), registry.clone());
        // Another home than the host's own mounts have.
        let homes = Homes::new(host.test.folder.path().join("mounts"));
        std::fs::create_dir(homes.data()).expect("made");
        let mounts = Mounts::new(registry, remotes.clone(), known, homes, Limits::default());
        let stop = CancellationToken::new();
        tokio::spawn(mounts.clone().serve(Default::default(), stop.clone()));
        Self { host, ends, remotes, mounts, _stop: stop.drop_guard() }
    }

    pub(crate) fn join(&self, peer: &PeerId, end: End) {
        self.ends.set(peer, end);
        join(&self.host, peer);
    }

    pub(crate) async fn mount(&self, peers: &[PeerId]) -> MountRow {
        let (name, all) = ("far".parse().expect("legal"), vec!["*".parse().expect("a pattern")]);
        self.mounts.mount(&TenantId::local(), name, peers.to_vec(), all).await.expect("mounted")
    }

    /// Accepts what waits.
    pub(crate) async fn accept(&self) -> MountRow {
        let waiting = self.mounts.waiting(&TenantId::local());
        let digest = &waiting.first().expect("something waits").digest;
        self.mounts.accept(&TenantId::local(), &"far".parse().expect("legal"), digest).await.expect("accepted")
    }

    pub(crate) async fn unmount(&self) {
        self.mounts.unmount(&TenantId::local(), &"far".parse().expect("legal")).await.expect("unmounted");
    }
}

fn tool(name: &str, description: &str, schema: &Value) -> Value {
    json!({ "name": name, "description": description, "inputSchema": schema })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_breaks_a_bound_is_refused_by_name_and_takes_no_memory() {
    let here = Mounting::start().await;
    let object = json!({ "type": "object" });
    // Each definition applies the next one twice.
    let doubled = |level: usize| json!({ "allOf": [{ "$ref": format!("#/$defs/d{}", level + 1) }, { "$ref": format!("#/$defs/d{}", level + 1) }] });
    let mut expensive = json!({ "type": "object", "$ref": "#/$defs/d0", "$defs": { "d40": { "type": "object" } } });
    for level in 0..40 {
        expensive["$defs"][format!("d{level}")] = doubled(level);
    }
    let endless = json!({ "tools": [], "nextCursor": "again" });
    let many = json!({ "tools": (0..10_000).map(|n| tool(&format!("t{n}"), "", &object)).collect::<Vec<_>>() });
    let cases = [
        (many, "more than 1000 tools"),
        (json!({ "tools": vec![1; 3 << 20] }), "more than 1000 tools"),
        (json!({ "tools": [tool("t", &"x".repeat(5 << 20), &object)] }), "a tool of it has more than"),
        (json!({ "tools": [tool("t", &"x".repeat(9 << 20), &object)] }), "more than 8388608 bytes"),
        (
            json!({ "tools": [tool("t", &"x".repeat(17 << 10), &object)] }),
            "tool \"t\": its tool `far_t` is refused: its description is longer",
        ),
        (json!({ "tools": [tool("t", "", &expensive)] }), "is refused: its input schema: its subschemas"),
        (
            json!({ "tools": [tool("t", "", &json!({ "type": "object", "$ref": "https://evil.example/s" }))] }),
            "which is not within it",
        ),
        (json!({ "tools": [tool("a\u{1b}[2J\nb", "", &object)] }), r#"tool "a\u{1b}[2J\nb": its name is not"#),
        (json!({ "tools": [tool(&"x".repeat(126), "", &object)] }), "its name is too long"),
        (json!({ "tools": [tool("t", "1", &object), tool("t", "2", &object)] }), "it is listed twice"),
        (json!({ "tools": [{ "name": 5 }] }), "cannot be read"),
        (json!("none"), "its list of tools is refused"),
        (endless, "more than 64 pages"),
    ];
    let account = here.host.test.host.registry().share(&TenantId::local()).map(|share| Arc::clone(&share.memory));
    let account = account.expect("open");
    let before = account.used(MemoryUse::Code);
    for (at, (list, reason)) in cases.into_iter().enumerate() {
        let of = peer(u8::try_from(at).expect("few") + 5);
        here.join(&of, End::Script(Arc::new(list), Arc::default()));
        let row = here.mount(&[of]).await;
        let problem = row.problem.unwrap_or_default();
        assert!(problem.contains(reason), "{reason}: {problem}");
        assert!(problem.chars().all(|c| !c.is_control()) && problem.len() < 4_096, "{problem}");
        assert!(row.tools.is_empty() && here.host.test.tools().await.is_empty(), "{reason}");
        let used = account.used(MemoryUse::Code) - before;
        assert!(used < 1 << 20, "{reason}: {used} bytes are held");
        here.unmount().await;
    }
    here.host.test.until("all is given back", async |_| account.used(MemoryUse::Code) == before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_breaks_its_schema_is_refused_and_arguments_never_leave_that_do() {
    let here = Mounting::start().await;
    let mut number = tool("t", "Counts.", &json!({ "type": "object", "properties": { "n": { "type": "integer" } } }));
    number["outputSchema"] =
        json!({ "type": "object", "properties": { "result": { "type": "integer" } }, "required": ["result"] });
    let lie = json!({ "content": [], "structuredContent": { "result": "no number" } });
    here.join(&peer(5), End::Script(Arc::new(json!({ "tools": [number] })), Arc::new(lie)));
    here.mount(&[peer(5)]).await;
    assert_eq!(here.accept().await.tools.len(), 1);
    let answer = here.host.test.text("far_t", json!({ "n": 1 })).await;
    assert!(answer.contains("result is invalid") && answer.contains("/result"), "{answer}");
    let answer = here.host.test.text("far_t", json!({ "n": "x" })).await;
    assert!(answer.contains("invalid argument") && answer.contains("/n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_silent_peer_is_passed_over() {
    let (one, two) =
        (MeshHost::start(&[("probe", &guest("probe"))]).await, MeshHost::start(&[("probe", &guest("probe"))]).await);
    let here = Mounting::start().await;
    let frozen = CancellationToken::new();
    for (host, of, token) in [(&one, peer(5), frozen.clone()), (&two, peer(6), CancellationToken::new())] {
        host.grant(&peer(0), "*");
        here.join(&of, End::Door(host.door.clone(), token));
    }
    here.mount(&[peer(5), peer(6)]).await;
    let row = here.accept().await;
    assert!(row.peers.iter().all(|peer| peer.serves == 7), "one interface, two peers: {row:?}");
    frozen.cancel();
    let add = async || here.host.test.call("far_probe_add", json!({ "a": 1, "b": 2 })).await;
    // Two at once: one of them goes to each, and one is not answered.
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let request =
                here.host.test.modern("tools/call", json!({ "name": "far_probe_sleep", "arguments": { "ms": 300 } }));
            tokio::spawn(async move { request.send().await })
        })
        .collect();
    here.host.test.until("it counts as silent", async |_| here.remotes.health(&peer(5)).is_silent()).await;
    for _ in 0..30 {
        let answer = add().await;
        assert_eq!(answer["result"]["structuredContent"]["result"], 3, "{}", text_of(&answer));
    }
    let row = here.mounts.rows(&TenantId::local()).pop().expect("a mount");
    assert_eq!(row.peers[0].state.as_str(), "silent", "{row:?}");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_peer_that_says_without_a_pause_that_its_list_has_changed_is_asked_once_a_second() {
    let here = Mounting::start().await;
    let (counts, begin) = (Arc::new([0, 0].map(AtomicUsize::new)), Instant::now());
    let number = tool("t", "A tool.", &json!({ "type": "object" }));
    here.join(&peer(5), End::Flood(Arc::new(json!({ "tools": [number] })), Arc::clone(&counts)));
    here.mount(&[peer(5)]).await;
    let [said, fetched] = [0, 1].map(|at| move |counts: &[AtomicUsize; 2]| counts[at].load(Ordering::SeqCst));
    here.host
        .test
        .until("it was said and fetched often", async |_| said(&counts) > 10_000 && fetched(&counts) > 2)
        .await;
    let (fetches, seconds) = (fetched(&counts), begin.elapsed().as_secs());
    // One fetch at once, and one for each second that has begun.
    assert!(
        u64::try_from(fetches).expect("few") <= seconds + 2,
        "{fetches} in {seconds} s, {} times said",
        said(&counts)
    );
    // What waits is shown all the same, as it does not change.
    assert_eq!(here.mounts.waiting(&TenantId::local()).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_sends_of_a_mounted_call_counts_against_the_budgets_of_the_call() {
    let here = Mounting::start().await;
    let list = Arc::new(json!({ "tools": [tool("t", "A tool.", &json!({ "type": "object" }))] }));
    let limits = Limits::default();
    let [log_bytes, host_calls] =
        [limits.log_bytes, limits.host_calls].map(|limit| usize::try_from(limit).expect("fits"));
    const RECORD: usize = 32 << 10;
    let call = async || {
        let meta = json!({ "io.modelcontextprotocol/logLevel": "debug" });
        let params = json!({ "name": "far_t", "arguments": {}, "_meta": meta });
        let response = here.host.test.modern("tools/call", params).send().await.expect("an answer");
        text_of(&crate::support::answer(response).await)
    };
    let records = log_bytes / RECORD;
    for (of, records, bytes, outcome) in [
        (5, records / 2, RECORD, "done"),
        (6, records * 2, RECORD, "log_bytes"),
        // Each of them takes a turn of the host, however short it is.
        (7, host_calls + 1, 0, "host_calls"),
    ] {
        here.join(&peer(of), End::Chatter(Arc::clone(&list), records, bytes));
        here.mount(&[peer(of)]).await;
        here.accept().await;
        let text = call().await;
        assert!(text.contains(outcome), "{records} records of {bytes} bytes: {text}");
        here.unmount().await;
    }
}

/// A call through a mount that runs at a host of the test, with no network between them: what the network would cut stays open.
struct MountedSleep {
    there: MeshHost,
    here: Mounting,
    answer: tokio::task::JoinHandle<String>,
}

impl MountedSleep {
    async fn begin() -> Self {
        let there = MeshHost::start(&[("probe", &guest("probe"))]).await;
        let here = Mounting::start().await;
        there.grant(&peer(0), "*");
        here.join(&peer(5), End::Door(there.door.clone(), CancellationToken::new()));
        here.mount(&[peer(5)]).await;
        here.accept().await;
        let request =
            here.host.test.modern("tools/call", json!({ "name": "far_probe_sleep", "arguments": { "ms": 600_000 } }));
        let answer =
            tokio::spawn(
                async move { text_of(&crate::support::answer(request.send().await.expect("an answer")).await) },
            );
        there.test.until("it runs there", async |test| test.host.registry().calls() == 1).await;
        Self { there, here, answer }
    }

    /// Holds that the call ends on both sides, and that the caller is told that it may have had effects.
    async fn ends(self) {
        let text =
            tokio::time::timeout(crate::support::PATIENCE, self.answer).await.expect("it ends").expect("no panic");
        assert!(text.contains("may have had effects"), "{text}");
        self.there.test.until("it has ended there", async |test| test.host.registry().calls() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_door_ends_the_mounted_call_of_a_peer_whose_grant_it_took_away() {
    let call = MountedSleep::begin().await;
    call.there.peers.revoke(peer(0).as_str()).expect("revoked");
    call.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_hangs_up_ends_its_mounted_calls() {
    let call = MountedSleep::begin().await;
    call.here.remotes.hang_up(&peer(5)).await;
    call.ends().await;
}
