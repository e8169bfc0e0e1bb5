//! `mcpp:mesh` from inside a component: two hosts on loopback, and a guest that sees and uses its peer as far as its grant, its tenant and its caller may.

use mcpp::{
    call::{Call, Request, authorize},
    config::Config,
    mesh::{DhtMode, PeerId},
    names::ToolName,
    tenant::Principal,
};
use serde_json::{Value, json};

use crate::{
    mesh_join::Commanded,
    mesh_remote::request,
    support::{TestHost, add, folder, grant, guest, messages},
};

/// A grant that gives the guest everything of every kind.
const ALL: &str = "see = true\nconnect = ['*']\ncall = ['*: *']\nprovide = ['gpu']\ndiscover = ['gpu']\n\
                   announce = ['ready']\nhear = ['mesh/ready']\n";

/// A host with the guest, and with these lines of its grant.
async fn guest_host(grants: &str, change: impl FnOnce(&mut Config)) -> Commanded {
    let files = folder(&[("mesh", &guest("mesh"))]);
    grant(&files, &format!("[components.mesh]\nstore = {{}}\n[components.mesh.mesh]\n{grants}"));
    let host = Commanded::start_with(files, change).await;
    assert_eq!(host.test.problems(), "");
    host
}

/// The host that is called.
async fn there() -> Commanded {
    Commanded::start(&[("add", &add()), ("probe", &guest("probe"))]).await
}

/// Lets `here` call tools of `there`.
fn join(here: &Commanded, there: &Commanded, tools: &[&str]) {
    let tools = tools.iter().flat_map(|tool| ["--tool", tool]);
    let invited = there.json(&["invite"].into_iter().chain(tools).collect::<Vec<_>>());
    here.json(&["join", invited["ticket"].as_str().expect("a ticket")]);
}

async fn call(here: &Commanded, peer: &PeerId, tool: &str, arguments: Value) -> String {
    here.test.text("mesh_call", json!({ "peer": peer, "tool": tool, "arguments": arguments })).await
}

async fn add_there(here: &Commanded, peer: &PeerId) -> String {
    call(here, peer, "add", json!({ "a": 40, "b": 2 })).await
}

async fn json_of(host: &TestHost, tool: &str, arguments: Value) -> Value {
    host.call(tool, arguments).await["result"]["structuredContent"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_sees_its_peer_and_calls_it_and_is_told_only_what_was_measured() {
    let there = there().await;
    let here = guest_host(ALL, |_| {}).await;
    let (me, peer) = (here.id(), there.id());
    let seen = json_of(&here.test, "mesh_look", json!({})).await;
    assert_eq!((&seen["id"], &seen["peers"]), (&json!(me), &json!([])), "nobody yet: {seen}");
    assert_eq!(here.test.text("mesh_metrics", json!({ "peer": peer })).await, "error: NotFound");
    assert_eq!(add_there(&here, &peer).await, "error: NotFound", "no membership");
    join(&here, &there, &["add"]);
    let seen = json_of(&here.test, "mesh_look", json!({})).await;
    let row = &seen["peers"][0];
    assert_eq!((&row["id"], &row["there"], &row["here"]), (&json!(peer), &json!(["add"]), &json!([])), "{seen}");
    assert_eq!(row["connection"], "Direct Dialed", "{seen}");
    assert!(row["since"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{seen}");
    let before = json_of(&here.test, "mesh_metrics", json!({ "peer": peer })).await;
    for measure in ["call_us", "requests", "failures", "sent", "received"] {
        assert_eq!(before[measure], Value::Null, "nothing was measured: {before}");
    }
    assert_eq!(add_there(&here, &peer).await, r#"{"result":42}"#);
    let wrong = call(&here, &peer, "add", json!({ "a": 1 })).await;
    assert!(wrong.contains("InvalidArguments") || wrong.contains("Failed"), "{wrong}");
    assert_eq!(call(&here, &peer, "probe_add", json!({ "a": 1, "b": 2 })).await, "error: NotFound", "no such right");
    let after = json_of(&here.test, "mesh_metrics", json!({ "peer": peer })).await;
    assert_eq!((&after["path"], &after["requests"]), (&json!("Direct"), &json!(2)), "{after}");
    assert!(after["sent"].as_u64() > Some(100) && after["received"].as_u64() > Some(100), "{after}");
    assert!(after["call_us"].is_u64(), "{after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_needs_the_grant_and_the_membership_and_the_callers_own_right() {
    let there = there().await;
    let peer = there.id();
    let narrow = format!("{}call = ['{peer}: add']\n", ALL.replace("call = ['*: *']\n", ""));
    let here = guest_host(&narrow, |_| {}).await;
    join(&here, &there, &["add", "probe_*"]);
    assert_eq!(add_there(&here, &peer).await, r#"{"result":42}"#);
    assert_eq!(call(&here, &peer, "probe_add", json!({ "a": 1, "b": 2 })).await, "error: NotFound", "not granted");
    assert_eq!(call(&here, &here.id(), "add", json!({ "a": 1, "b": 2 })).await, "error: NotFound", "another peer");
    let notes = here.run(&["explain", "mesh"]).0;
    assert!(notes.contains(&format!("mesh.call = [\"{peer}: probe_add\"]")), "{notes}");
    let denied = here.run(&["test", "mesh", "peer", peer.as_str(), "probe_add"]);
    assert_eq!(denied.2, Some(1), "{denied:?}");
    assert_eq!(here.run(&["test", "mesh", "peer", peer.as_str(), "add"]).0, "allowed");
    // What the operator is advised to add is enough.
    here.json(&["grant", "mesh", &format!("mesh.call = [\"{peer}: probe_add\"]")]);
    here.test
        .until("the grant is in force", async |_| {
            call(&here, &peer, "probe_add", json!({ "a": 1, "b": 2 })).await == r#"{"result":3}"#
        })
        .await;
    // A caller that may use the guest alone reaches no tool of another name through it.
    let of_caller = async |tools: &[&str]| {
        let tools: Vec<_> = tools.iter().map(|tool| tool.parse().expect("a pattern")).collect();
        let request =
            Request { principal: Principal { tools: Some(tools.into()), ..Principal::local_user() }, ..request() };
        let arguments = json!({ "peer": peer, "tool": "add", "arguments": { "a": 1, "b": 2 } });
        let tool = ToolName::new("mesh_call").expect("legal");
        let call = authorize(Call::new(request, tool, arguments)).expect("authorized");
        here.test.host.registry().call(call).await.expect("an answer").is_error
    };
    assert!(of_caller(&["mesh_call"]).await);
    assert!(!of_caller(&["mesh_call", "add"]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_right_that_is_taken_away_is_gone_for_guests_too() {
    let there = there().await;
    let here = guest_host(ALL, |_| {}).await;
    let (me, peer) = (here.id(), there.id());
    join(&here, &there, &["add"]);
    assert_eq!(add_there(&here, &peer).await, r#"{"result":42}"#);
    there.json(&["peer", "revoke", me.as_str()]);
    let refused = add_there(&here, &peer).await;
    // The peer says that this host may call nothing, or has closed the line before.
    let words = ["NotFound", "Unreachable", "Interrupted"];
    assert!(words.iter().any(|word| refused.contains(word)), "{refused}");
    here.json(&["peer", "revoke", peer.as_str()]);
    assert_eq!(add_there(&here, &peer).await, "error: NotFound");
    assert_eq!(json_of(&here.test, "mesh_look", json!({})).await["peers"], json!([]));
    // Without its grant the component is not linked: it is taken away whole.
    here.json(&["revoke", "mesh", "mesh"]);
    here.test.until("the component is gone", async |test| test.tools().await.is_empty()).await;
    assert!(here.test.problems().contains("add `mesh."), "{}", here.test.problems());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_is_cancelled_or_out_of_time_stops_its_call_at_the_peer() {
    let there = there().await;
    let here = guest_host(ALL, |_| {}).await;
    let peer = there.id();
    join(&here, &there, &["probe_*"]);
    let arguments =
        |timeout_ms| json!({ "peer": peer, "tool": "probe_spin", "arguments": {}, "timeout_ms": timeout_ms });
    let late = here.test.text("mesh_call", arguments(300)).await;
    assert_eq!(late, "error: TimedOut");
    there.test.until("it has ended there", async |test| test.host.registry().calls() == 0).await;
    let params = json!({ "name": "mesh_call", "arguments": arguments(60_000) });
    let request = tokio::spawn(here.test.modern("tools/call", params).send());
    there.test.until("it runs there", async |test| test.host.registry().calls() == 1).await;
    // A client of the modern era cancels by going away.
    request.abort();
    there.test.until("it has ended there", async |test| test.host.registry().calls() == 0).await;
    here.test.until("it has ended here", async |test| test.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn log_records_and_progress_of_the_peer_reach_the_guests_client() {
    let there = there().await;
    let here = guest_host(ALL, |_| {}).await;
    let peer = there.id();
    join(&here, &there, &["probe_*"]);
    let heard = async |tool: &str, arguments: Value| {
        let params = json!({
            "name": "mesh_call",
            "arguments": { "peer": peer, "tool": tool, "arguments": arguments },
            "_meta": { "progressToken": "p", "io.modelcontextprotocol/logLevel": "debug" },
        });
        messages(here.test.modern("tools/call", params).send().await.expect("an answer")).await
    };
    let said = heard("probe_print", json!({ "text": "from afar" })).await;
    assert!(said.iter().any(|message| message.to_string().contains("from afar") && message["method"].is_string()));
    let said = heard("probe_sleep", json!({ "ms": 1 })).await;
    let progress = said.iter().filter(|message| message["method"] == "notifications/progress");
    let done: Vec<_> = progress.map(|message| message["params"]["progress"].as_f64()).collect();
    assert_eq!(done, [Some(1.0), Some(2.0)], "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guests_call_around_over_no_more_hosts_than_a_call_may() {
    let (one, two) = (guest_host(ALL, |_| {}).await, guest_host(ALL, |_| {}).await);
    join(&one, &two, &["mesh_call"]);
    join(&two, &one, &["mesh_call", "mesh_look"]);
    let (first, second) = (one.id(), two.id());
    // Each call goes to the other host: the innermost is the one that counts the hosts.
    let around = |times: usize| {
        let mut call = json!({ "peer": first, "tool": "mesh_call", "arguments": {} });
        for n in 0..times {
            let peer = if n % 2 == 0 { &second } else { &first };
            call = json!({ "peer": peer, "tool": "mesh_call", "arguments": call });
        }
        call
    };
    let far = one.test.text("mesh_call", around(7)).await;
    assert!(far.contains("TooDeep"), "{far}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_tenants_guests_order_is_bounded_and_waits_for_no_transaction() {
    let there = there().await;
    let peer = there.id();
    let here = guest_host(ALL, |config| config.mesh.announcements = true).await;
    let stranger = json!({ "peer": peer, "timeout_ms": 1_000 });
    assert_eq!(here.test.text("mesh_connect", stranger.clone()).await, "error: NotFound", "no peer of this tenant");
    let malformed = here.test.text("mesh_connect", json!({ "peer": "peer-a", "timeout_ms": 1 })).await;
    assert_eq!(malformed, "error: Invalid");
    join(&here, &there, &["add"]);
    assert_eq!(here.test.text("mesh_connect", stranger.clone()).await, "Direct");
    let said = json_of(&here.test, "mesh_in_transaction", json!({ "peer": peer })).await;
    let said = said["result"].as_array().expect("a list").clone();
    assert_eq!(said.len(), 5);
    assert!(said.iter().all(|said| said == "Err(TransactionOpen)"), "{said:?}");
    assert_eq!(here.test.text("mesh_disconnect", json!({ "peer": peer })).await, "");
    here.test
        .until("it is connected again", async |test| test.host.mesh().is_some_and(|mesh| !mesh.peers().is_empty()))
        .await;
    // Announcements: their size, nobody who hears, and a tenant's rate.
    let announce =
        async |letters: usize| here.test.text("mesh_announce", json!({ "topic": "ready", "letters": letters })).await;
    assert_eq!(announce(3_073).await, "error: Invalid");
    assert_eq!(announce(3_072).await, "error: Nobody");
    for _ in 0..5 {
        assert_eq!(announce(1).await, "error: Nobody");
    }
    assert!(announce(1).await.contains("TooOften"));
    // The distributed hash table is off.
    assert_eq!(here.test.text("mesh_discover", json!({ "service": "gpu", "timeout_ms": 1 })).await, "error: Off");
    assert_eq!(here.test.text("mesh_provide", json!({ "service": "gpu", "lease_s": 60 })).await, "error: Off");
    assert_eq!(here.test.text("mesh_provide", json!({ "service": "cpu", "lease_s": 60 })).await, "error: NotFound");
    assert_eq!(here.test.text("mesh_provide", json!({ "service": "gpu", "lease_s": 59 })).await, "error: Invalid");
    // Orders: 60 in a minute, however they end.
    let mut last = String::new();
    for _ in 0..70 {
        last = here.test.text("mesh_connect", stranger.clone()).await;
        if last.contains("TooOften") {
            break;
        }
    }
    assert!(last.contains("TooOften"), "{last}");
    assert_eq!(add_there(&here, &peer).await, r#"{"result":42}"#, "calls are counted apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guests_find_a_service_and_hear_what_others_announce() {
    let meshed = |config: &mut Config| {
        config.mesh.dht = DhtMode::Server;
        config.mesh.announcements = true;
    };
    let one = guest_host(ALL, meshed).await;
    let at = one.test.host.mesh().expect("a mesh").addresses().into_iter().find(|at| at.contains("/tcp/"));
    let at = at.expect("an address");
    let named = at.clone();
    let two = guest_host(&ALL.replace("connect = ['*']", &format!("connect = ['{at}']")), |config| {
        meshed(config);
        config.mesh.bootstrap = vec![named];
    })
    .await;
    assert_eq!(two.test.text("mesh_connect", json!({ "peer": one.id(), "timeout_ms": 20_000 })).await, "Direct");
    assert_eq!(two.test.text("mesh_disconnect", json!({ "peer": one.id() })).await, "error: InUse", "the host's own");
    two.test
        .until("the service is found", async |test| {
            one.test.text("mesh_provide", json!({ "service": "gpu", "lease_s": 60 })).await;
            let found = json_of(test, "mesh_discover", json!({ "service": "gpu", "timeout_ms": 5_000 })).await;
            found["result"] == json!([one.id()])
        })
        .await;
    // A service that was found is no peer of the tenant's.
    assert_eq!(add_there(&two, &one.id()).await, "error: NotFound");
    let lease = async || one.test.text("mesh_withdraw", json!({ "service": "gpu" })).await;
    assert_eq!((lease().await, lease().await), (r#"{"result":true}"#.to_owned(), r#"{"result":false}"#.to_owned()));
    two.test
        .until("the announcement is heard", async |test| {
            one.test.text("mesh_announce", json!({ "topic": "ready", "letters": 3_072 })).await;
            let heard = json_of(test, "mesh_heard", json!({ "topic": "mesh/ready" })).await;
            heard["result"][0] == json!([one.id(), 3_072])
        })
        .await;
    assert_eq!(two.test.text("mesh_heard", json!({ "topic": "other/ready" })).await, "error: NotFound");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_a_mesh_everything_says_that_it_is_off() {
    let here = guest_host(ALL, |config| config.mesh.enabled = false).await;
    let peer = crate::mesh_peers::peer(0);
    for (tool, arguments) in [
        ("mesh_look", json!({})),
        ("mesh_metrics", json!({ "peer": peer })),
        ("mesh_discover", json!({ "service": "gpu", "timeout_ms": 1 })),
        ("mesh_announce", json!({ "topic": "ready", "letters": 1 })),
        ("mesh_heard", json!({ "topic": "mesh/ready" })),
        ("mesh_call", json!({ "peer": peer, "tool": "add", "arguments": {} })),
    ] {
        assert_eq!(here.test.text(tool, arguments).await, "error: Off", "{tool}");
    }
}
