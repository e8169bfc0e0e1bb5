//! Components by digest: fetched from several peers over the real network, and by pipes from peers that lie, stop in the middle or ask for too much.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mcpp::{
    components::{
        PROTOCOL,
        chunks::{CHUNK_BYTES, ChunkList},
        door::ComponentDoor,
        fetch::{FetchError, FetchOrder, Fetched, Fetcher},
        message::{self, ComponentAnswer, ComponentOffer, ComponentRequest, MAX_REQUEST_BYTES, OfferRefusal},
    },
    mesh::{PeerId, PeerStream, Unreachable, dial::Dial, frame},
    names::TenantId,
    peers::{Membership, file::PeerFile, invitation::NewInvitation, known::KnownPeers},
    tenant::{Incarnation, home::Homes},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::{
    mesh_join::Commanded,
    mesh_peers::peer,
    support::{TestHost, add},
};

/// The tool `add`, with a section that nobody reads behind it: several chunks.
fn large_add(bytes: u32) -> Vec<u8> {
    let mut wasm = add();
    let section: Vec<u8> = [3, b'p', b'a', b'd'].into_iter().chain((0..bytes).map(|at| (at % 249) as u8)).collect();
    wasm.push(0);
    let mut length = section.len();
    while length > 0x7f {
        wasm.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    wasm.push(length as u8);
    wasm.extend(section);
    wasm
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_component_comes_from_two_hosts_and_waits_to_be_accepted() {
    let wasm = large_add(2 << 20);
    let digest = blake3_hex(&wasm);
    let offering =
        [Commanded::start(&[("add", &wasm), ("other", &add())]).await, Commanded::start(&[("add", &wasm)]).await];
    let here = Commanded::start(&[]).await;
    let peers: Vec<String> = offering.iter().map(|host| host.id().to_string()).collect();
    for host in &offering {
        let ticket = host.ticket(&["--component", "ad*"]);
        let said = here.run(&["join", &ticket]).1;
        assert!(said.contains("may fetch ad* there"), "{said}");
    }
    let offers = here.json(&["fetch", "--peer", &peers[0]]);
    assert_eq!(offers[&peers[0]]["offers"], json!([{ "name": "add", "digest": digest, "bytes": wasm.len() }]));
    let both = ["--peer", &peers[0], "--peer", &peers[1]];
    let done = here.json(&[&["fetch", &digest[..12]], &both[..]].concat());
    assert_eq!((&done["fetched"]["name"], &done["fetched"]["digest"]), (&json!("add"), &json!(digest)), "{done}");
    let chunks: u64 = peers.iter().filter_map(|peer| done["fetched"]["chunks"][peer].as_u64()).sum();
    assert_eq!(chunks, (wasm.len() as u64).div_ceil(CHUNK_BYTES), "{done}");
    // Its folder is trusted otherwise; what a peer gave is not.
    assert_eq!(here.test.tools().await, Vec::<String>::new());
    assert!(here.test.problems().contains("mcpp accept add"), "{}", here.test.problems());
    assert_eq!(std::fs::read(here.test.folder.path().join("data/fetched/add.wasm")).expect("there"), wasm);
    assert_eq!(here.run(&["accept", "add"]).2, Some(0));
    assert_eq!(here.test.text("add", json!({ "a": 40, "b": 2 })).await, r#"{"result":42}"#);
    // A name that a component of the operator's has is not taken over, and nothing else than what was named is given.
    let refused = here.refused(&["fetch", "other", "--peer", &peers[0]]);
    assert!(refused.contains("none of the peers offers \"other\""), "{refused}");
    here.test.write("mine", &add());
    here.test
        .until("the other one serves", async |test| {
            test.tools().await.len() == 1 && test.problems().contains("mine")
                || test.host.registry().catalog(&TenantId::local()).component("mine").is_some()
        })
        .await;
    let refused = here.refused(&["fetch", "add", "--as", "mine", "--peer", &peers[0]]);
    assert!(refused.contains("a component `mine` that was not fetched"), "{refused}");
    // Revoked, at once.
    assert_eq!(offering[0].run(&["peer", "revoke", here.id().as_str()]).2, Some(0));
    let refused = here.refused(&["fetch", "add", "--peer", &peers[0]]);
    assert!(refused.contains("names no component") || refused.contains("cannot be reached"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_was_invited_to_tools_alone_fetches_nothing() {
    let there = Commanded::start(&[("add", &add())]).await;
    let here = Commanded::start(&[]).await;
    let id = there.id();
    let refused = here.refused(&["fetch", "add", "--peer", id.as_str()]);
    assert!(refused.contains("has not joined"), "{refused}");
    here.run(&["join", &there.ticket(&[])]);
    let refused = here.refused(&["fetch", "add", "--peer", id.as_str()]);
    assert!(refused.contains("names no component"), "{refused}");
    assert!(!here.test.folder.path().join("data/fetched/add.wasm").exists());
}

fn blake3_hex(bytes: &[u8]) -> String {
    ChunkList::read(bytes).expect("a list").digest().expect("chunks").to_hex().to_string()
}

/// How a peer of the laboratory gives a component.
#[derive(Debug, Clone, Copy)]
enum Giver {
    /// As it is.
    Honest,
    /// This many chunks, and then nothing more.
    Stops(usize),
    /// Every chunk with one bit turned.
    Lies,
    /// A list that does not add up.
    BadList,
}

/// Peers at the other ends of pipes.
#[derive(Debug)]
struct Lab {
    wasm: Vec<u8>,
    givers: BTreeMap<PeerId, Giver>,
}

impl Dial for Lab {
    fn dial<'a>(
        &'a self,
        peer: &'a PeerId,
        protocol: &'static str,
        _: Duration,
    ) -> BoxFuture<'a, Result<PeerStream, Unreachable>> {
        assert_eq!(protocol, PROTOCOL);
        let (here, there) = tokio::io::duplex(64 << 10);
        let (wasm, giver) = (self.wasm.clone(), self.givers[peer]);
        tokio::spawn(give(there, wasm, giver));
        Box::pin(async move { Ok(Box::new(here) as PeerStream) })
    }
}

async fn give(mut stream: DuplexStream, wasm: Vec<u8>, giver: Giver) {
    let list = ChunkList::read(wasm.as_slice()).expect("a list");
    let digest = list.digest().expect("chunks").to_hex().to_string();
    let mut given = 0;
    while let Ok(Some(request)) = message::read(&mut stream, MAX_REQUEST_BYTES).await {
        let (answer, bytes) = match request.expect("a request") {
            ComponentRequest::List {} => {
                let offer = ComponentOffer { name: "add".into(), digest: digest.clone(), bytes: list.bytes() };
                (ComponentAnswer::List(vec![offer]), None)
            }
            ComponentRequest::Chunks { .. } => {
                let mut values: Vec<[u8; 32]> = list.values().to_vec();
                if matches!(giver, Giver::BadList) {
                    values.swap(0, 1);
                }
                let hex = |value: &[u8; 32]| value.iter().map(|byte| format!("{byte:02x}")).collect();
                (ComponentAnswer::Chunks { bytes: list.bytes(), values: values.iter().map(hex).collect() }, None)
            }
            ComponentRequest::Chunk { index, .. } => {
                if matches!(giver, Giver::Stops(after) if given >= after) {
                    return;
                }
                given += 1;
                let (begin, length) = list.place(index).expect("a chunk");
                let begin = usize::try_from(begin).expect("small");
                let mut bytes = wasm[begin..begin + length].to_vec();
                if matches!(giver, Giver::Lies) {
                    bytes[9] ^= 1;
                }
                (ComponentAnswer::Chunk { bytes: bytes.len() }, Some(bytes))
            }
        };
        let _gone = message::write(&mut stream, &answer).await;
        if let Some(bytes) = bytes {
            let _gone = frame::write(&mut stream, &bytes).await;
            let _gone = stream.flush().await;
        }
    }
}

/// Fetches from these peers into `folder`.
async fn fetch(folder: &TempDir, wasm: &[u8], givers: &[Giver]) -> Result<Fetched, FetchError> {
    let homes = Homes::new(folder.path().to_owned());
    let known = Arc::new(KnownPeers::new(PeerFile::new(&homes)));
    let givers: BTreeMap<PeerId, Giver> = (0_u8..).map(peer).zip(givers.iter().copied()).collect();
    for peer in givers.keys() {
        let membership = Membership {
            peer: peer.clone(),
            tenant: TenantId::local(),
            incarnation: Incarnation::default(),
            tools: Vec::new(),
            calls_per_minute: None,
            since: std::time::SystemTime::now(),
            expires: None,
            addresses: Vec::new(),
        };
        known.join(membership).expect("joined");
    }
    let order = FetchOrder { component: "add".into(), peers: givers.keys().cloned().collect(), name: None };
    let fetcher = Fetcher::new(Arc::new(Lab { wasm: wasm.to_vec(), givers }), known, homes);
    fetcher.fetch(&TenantId::local(), &Incarnation::default(), order, |_| Ok(())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_costs_what_was_missing_and_a_liar_gives_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let wasm = large_add(u32::try_from(6 * CHUNK_BYTES).expect("small"));
    let file = folder.path().join("fetched/add.wasm");
    let broken = fetch(&folder, &wasm, &[Giver::Stops(2)]).await.expect_err("it stops");
    assert!(matches!(broken, FetchError::Incomplete { have: 2, all: 7, .. }), "{broken}");
    let lied = fetch(&folder, &wasm, &[Giver::Lies]).await.expect_err("it lies");
    assert!(matches!(lied, FetchError::Incomplete { have: 2, all: 7, .. }), "{lied}");
    assert!(lied.to_string().contains("is not that of the digest"), "{lied}");
    let refused = fetch(&folder, &wasm, &[Giver::BadList]).await.expect_err("no list");
    assert!(refused.to_string().contains("the chunks are not those of the digest"), "{refused}");
    assert!(!file.exists());
    // Beside honest ones, liars and those that stop only lose their turn.
    let givers = [Giver::BadList, Giver::Lies, Giver::Stops(1), Giver::Honest];
    let done = fetch(&folder, &wasm, &givers).await.expect("fetched");
    assert_eq!((done.resumed, done.chunks.values().sum::<usize>()), (2, 5), "{done:?}");
    for wrong in [peer(0), peer(1)] {
        assert!(!done.chunks.contains_key(&wrong) && done.problems.contains_key(&wrong), "{done:?}");
    }
    assert_eq!(std::fs::read(&file).expect("there"), wasm);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("fetched")).expect("listed").collect();
    assert_eq!(left.len(), 1, "no part is left: {left:?}");
    let many: Vec<Giver> = [Giver::Honest; 9].into();
    assert!(matches!(fetch(&folder, &wasm, &many).await, Err(FetchError::Peers(9))));
}

/// One of the door's streams.
fn open(door: &ComponentDoor, peer: &PeerId) -> DuplexStream {
    let (here, there) = tokio::io::duplex(64 << 10);
    door.accept(peer.clone(), Box::new(there));
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_bounds_streams_and_gives_nothing_that_changed() {
    let wasm = large_add(u32::try_from(2 * CHUNK_BYTES).expect("small"));
    let test = TestHost::start(&[("add", &wasm)]).await;
    let homes = Homes::new(test.folder.path().join("data"));
    let known = Arc::new(KnownPeers::new(PeerFile::new(&homes)));
    let new = NewInvitation {
        tenant: TenantId::local(),
        tools: Vec::new(),
        components: vec!["*".parse().expect("a pattern")],
        calls_per_minute: None,
        only: None,
        good_for: Duration::from_secs(60),
        grant_for: None,
        uses: 1,
    };
    let (invitation, secret) = known.invite(new).expect("made");
    known.redeem(&peer(1), || Ok((invitation.id, secret, invitation.tools))).expect("redeemed");
    let stop = CancellationToken::new();
    let door = ComponentDoor::new(test.host.registry().clone(), Arc::clone(&known), stop.clone());
    let digest = blake3_hex(&wasm);
    let refusal = |answer: Result<ComponentAnswer, message::ConversationError>| match answer {
        Err(message::ConversationError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    };
    // Strangers that say nothing take none of the streams, though they have more than there are.
    let _idle: Vec<DuplexStream> = (3..23).flat_map(|number| [(); 2].map(|()| open(&door, &peer(number)))).collect();
    // Two streams of a peer, and no third; another peer has its own, and no right.
    let [mut first, mut second] = [(); 2].map(|()| open(&door, &peer(1)));
    for stream in [&mut first, &mut second] {
        let ComponentAnswer::List(offers) = message::ask(stream, &ComponentRequest::List {}).await.expect("offers")
        else {
            panic!("no list");
        };
        assert_eq!(offers.len(), 1);
    }
    let mut third = open(&door, &peer(1));
    assert_eq!(refusal(message::ask(&mut third, &ComponentRequest::List {}).await), OfferRefusal::Busy);
    let mut stranger = open(&door, &peer(2));
    assert_eq!(refusal(message::ask(&mut stranger, &ComponentRequest::List {}).await), OfferRefusal::NoGrant);
    // What is no request is told so; what is too large ends the stream.
    let chunk = |index| ComponentRequest::Chunk { digest: digest.clone(), index };
    assert_eq!(refusal(message::ask(&mut first, &chunk(99)).await), OfferRefusal::Invalid);
    let unknown = ComponentRequest::Chunks { digest: "0".repeat(64) };
    assert_eq!(refusal(message::ask(&mut first, &unknown).await), OfferRefusal::Unknown);
    message::write(&mut second, &json!("x".repeat(MAX_REQUEST_BYTES))).await.expect("written");
    assert!(matches!(message::read::<ComponentAnswer>(&mut second, 1 << 20).await, Ok(None) | Err(_)));
    let hash = ChunkList::read(wasm.as_slice()).expect("a list").digest().expect("chunks");
    let list = message::ask_chunks(&mut first, &hash).await.expect("the list");
    message::ask_chunk(&mut first, &hash, &list, 1).await.expect("a chunk");
    // The file changes in place while its old build is live: nothing goes out that is not the build's.
    let mut changed = wasm.clone();
    let at = usize::try_from(CHUNK_BYTES).expect("small") + 77;
    changed[at] ^= 1;
    std::fs::write(test.tools_folder().join("add.wasm"), &changed).expect("written");
    let outcome = refusal(message::ask(&mut first, &chunk(1)).await);
    assert!(matches!(outcome, OfferRefusal::Changed | OfferRefusal::Unknown), "{outcome:?}");
    known.revoke(peer(1).as_str()).expect("revoked");
    assert_eq!(refusal(message::ask(&mut first, &chunk(0)).await), OfferRefusal::NoGrant);
    stop.cancel();
}
