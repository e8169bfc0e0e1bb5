//! Two hosts with their built-in tools: a queue that another host uses, tasks that go to their owners, and peers that are measured.

use mcpp::mesh::PeerId;
use serde_json::{Value, json};

use crate::{
    mesh_join::Commanded,
    support::folder,
    taskqueue::{ask, holds},
};

async fn host() -> Commanded {
    let host = Commanded::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(host.test.problems(), "");
    host
}

/// Lets `here` call these tools of `there`.
fn join(here: &Commanded, there: &Commanded, tools: &[&str]) {
    let tools = tools.iter().flat_map(|tool| ["--tool", tool]);
    let invited = there.json(&["invite"].into_iter().chain(tools).collect::<Vec<_>>());
    here.json(&["join", invited["ticket"].as_str().expect("a ticket")]);
}

pub(crate) fn address(of: &Commanded) -> String {
    let mesh = of.test.host.mesh().expect("a mesh");
    let address = mesh.addresses().into_iter().find(|address| address.contains("/tcp/")).expect("an address");
    if address.contains("/p2p/") { address } else { format!("{address}/p2p/{}", mesh.id()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_serves_another_host_by_every_tool() {
    let (there, here) = (host().await, host().await);
    join(&here, &there, &["task_queue.rpc"]);
    let (peer, at): (PeerId, String) = (there.id(), address(&there));
    let call = async |tool: &str, mut arguments: Value, by: &str| {
        arguments[by] = if by == "remote_multiaddr" { json!(at) } else { json!(peer) };
        ask(&here.test, tool, arguments).await
    };
    let task = json!({ "task_type": "kind", "model_name": "m", "payload": { "n": 1 } });
    let submitted = call("p2p_taskqueue_submit", task, "remote_multiaddr").await;
    assert_eq!((&submitted["ok"], &submitted["peer_id"]), (&json!(true), &json!(peer)), "{submitted}");
    let id = submitted["task_id"].clone();
    assert_eq!(ask(&there.test, "task_status", json!({ "task_id": id })).await["status"], "queued");
    assert_eq!(ask(&here.test, "task_status", json!({ "task_id": id })).await["success"], false, "it is not here");
    let listed = call("p2p_taskqueue_list_tasks", json!({}), "remote_peer_id").await;
    assert_eq!(listed["tasks"][0]["task_id"], id, "{listed}");
    let claimed = call("p2p_taskqueue_claim_next", json!({ "worker_id": "w" }), "remote_peer_id").await;
    assert_eq!(claimed["task"]["task_id"], id, "{claimed}");
    let beat = call("p2p_taskqueue_heartbeat", json!({ "peer_id": "w" }), "remote_peer_id").await;
    assert_eq!((&beat["peer"], &beat["scheduler"]["known_peers"][0]["peer_id"]), (&json!("w"), &json!("w")), "{beat}");
    let waiting = call("p2p_taskqueue_wait_task", json!({ "task_id": id, "timeout_s": 20 }), "remote_peer_id");
    let completing = async {
        there.test.until("the other waits", async |test| test.host.registry().calls() > 0).await;
        ask(&there.test, "p2p_taskqueue_complete_task", json!({ "task_id": id, "result": { "r": 2 } })).await
    };
    let (waited, completed) = tokio::join!(waiting, completing);
    holds(&completed, &json!({ "ok": true, "peer_id": peer }), "complete");
    holds(&waited["task"], &json!({ "status": "completed", "result": { "r": 2 } }), "wait");
    assert_eq!(
        call("p2p_taskqueue_get_task", json!({ "task_id": id }), "remote_peer_id").await["task"],
        waited["task"]
    );
    assert_eq!(call("p2p_taskqueue_cache_set", json!({ "key": "k", "value": 1 }), "remote_peer_id").await["ok"], true);
    assert_eq!(ask(&there.test, "p2p_taskqueue_cache_get", json!({ "key": "k" })).await["value"], 1);
    let refused =
        call("p2p_taskqueue_call_tool", json!({ "tool_name": "text_hash", "args": { "text": "x" } }), "remote_peer_id")
            .await;
    assert_eq!(refused["error"], "tools_disabled");
    ask(&there.test, "task_queue.rpc", json!({ "op": "configure", "tools": true })).await;
    let called = call("p2p_taskqueue_call_tool", json!({ "tool_name": "nothing", "args": {} }), "remote_peer_id").await;
    assert_eq!(called["error"], "tool_not_found", "at once: {called}");
    // The tool is called for the peer, whose grant names the queue alone.
    let called =
        call("p2p_taskqueue_call_tool", json!({ "tool_name": "text_hash", "args": { "text": "x" } }), "remote_peer_id")
            .await;
    assert_eq!(called["error"], "tool_not_found", "{called}");
    let status = ask(&here.test, "p2p_taskqueue_status", json!({ "peer_id": "*", "detail": true })).await;
    holds(&status, &json!({ "ok": true, "peer_id": peer, "queue": { "queued": 0 } }), "any peer");
    there.json(&["peer", "revoke", here.id().as_str()]);
    let refused = call("p2p_taskqueue_list_tasks", json!({}), "remote_peer_id").await;
    assert!(refused["ok"] == false && refused["error"].is_string(), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peers_are_listed_measured_connected_and_disconnected() {
    let (there, here) = (host().await, host().await);
    let peer = there.id();
    let nobody =
        ask(&here.test, "peer_connect", json!({ "peer_id": peer, "multiaddr": address(&there), "retry_count": 0 }))
            .await;
    assert!(
        nobody["error"].as_str().is_some_and(|error| error.contains("mcpp join")),
        "an address is no right: {nobody}"
    );
    join(&here, &there, &["task_queue.rpc", "text_*"]);
    ask(&here.test, "p2p_taskqueue_status", json!({ "peer_id": peer })).await;
    let listed = ask(&here.test, "peer_list", json!({ "status_filter": "connected" })).await;
    let row = &listed["peers"][0];
    assert_eq!(
        (&listed["total_count"], &row["peer_id"], &row["status"]),
        (&json!(1), &json!(peer), &json!("connected")),
        "{listed}"
    );
    assert!(row["multiaddr"].as_str().is_some_and(|address| address.starts_with("/ip4/127.0.0.1/")), "{row}");
    assert_eq!(row["capabilities"], json!(["task_queue.rpc", "text_*"]));
    here.test
        .until("a ping was measured", async |test| {
            ask(test, "peer_metrics", json!({ "peer_id": peer })).await["current_metrics"]["latency_ms"].is_f64()
        })
        .await;
    let shown = ask(&here.test, "peer_metrics", json!({ "peer_id": peer, "include_history": true })).await;
    assert_eq!(shown["connection_info"]["peer_type"], "mcpp/0.1.0", "{shown}");
    // The queue's calls are calls of this tenant.
    assert_eq!(
        (&shown["current_metrics"]["requests_served"], &shown["current_metrics"]["path"]),
        (&json!(1), &json!("direct")),
        "{shown}"
    );
    assert!(shown["current_metrics"]["bytes_transferred"].as_u64() > Some(100));
    assert_eq!(
        (&shown["current_metrics"]["bandwidth_mbps"], &shown["current_metrics"]["packet_loss_percent"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(shown["reputation"]["score"], json!(2.0 / 3.0), "{shown}");
    let found =
        ask(&here.test, "peer_discover", json!({ "capability_filter": ["text_hash"], "include_metrics": true })).await;
    assert_eq!((&found["discovered_count"], &found["peers"][0]["peer_id"]), (&json!(1), &json!(peer)), "{found}");
    let peers = ask(&here.test, "list_peers", json!({ "include_capabilities": true })).await;
    holds(
        &peers,
        &json!({ "ok": true, "self_peer_id": here.id(), "listen_port": "…", "count": 1, "peers": [{ "peer_id": peer, "alive": true, "capabilities": { "ok": true, "peer_id": peer } }] }),
        "list_peers",
    );
    let gone = ask(&here.test, "peer_disconnect", json!({ "peer_id": peer })).await;
    assert_eq!((&gone["success"], &gone["was_connected"]), (&json!(true), &json!(true)), "{gone}");
    let connected = ask(&here.test, "peer_connect", json!({ "peer_id": peer, "multiaddr": address(&there) })).await;
    assert_eq!((&connected["success"], &connected["persist"]), (&json!(true), &json!(true)), "{connected}");
    let network =
        ask(&here.test, "bootstrap_network", json!({ "bootstrap_nodes": [address(&there)], "min_connections": 1 }))
            .await;
    assert_eq!((&network["network_ready"], &network["connected_peers"]), (&json!(true), &json!([peer])), "{network}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tasks_of_a_workflow_go_to_their_owners_and_their_ends_come_back() {
    let (there, here) = (host().await, host().await);
    let tools = ["p2p_submit_task", "p2p_mark_task_complete", "p2p_update_peer_state"];
    join(&here, &there, &tools);
    join(&there, &here, &tools);
    let count = async |host: &Commanded, name: &str| {
        ask(&host.test, "p2p_scheduler_status", json!({})).await[name].as_i64().expect("a count")
    };
    let submit = async |n: usize| {
        let task = json!({ "task_id": format!("t{n}"), "workflow_id": "w", "name": "n", "tags": ["p2p-only"] });
        assert_eq!(ask(&here.test, "p2p_submit_task", task).await["success"], true);
    };
    submit(0).await;
    here.test
        .until("both know each other", async |_| {
            count(&here, "known_peers").await == 1 && count(&there, "known_peers").await == 1
        })
        .await;
    for n in 1..40 {
        submit(n).await;
    }
    here.test.until("some are at their owner", async |_| count(&here, "forwarded_tasks").await > 0).await;
    there.test.until("and there", async |_| count(&there, "pending_tasks").await > 0).await;
    // In one look: tasks are on their way.
    let sum = async || {
        let status = ask(&here.test, "p2p_scheduler_status", json!({})).await;
        ["pending_tasks", "forwarded_tasks"].map(|name| status[name].as_i64().expect("a count")).iter().sum::<i64>()
    };
    assert_eq!(sum().await, 40, "none is lost");
    let task = ask(&there.test, "p2p_get_next_task", json!({})).await["task"].clone();
    assert_eq!(task["assigned_peer"], json!(there.id()), "{task}");
    assert_eq!(
        ask(&there.test, "p2p_mark_task_complete", json!({ "task_id": task["task_id"] })).await["success"],
        true
    );
    here.test.until("the end comes back", async |_| count(&here, "completed_tasks").await == 1).await;
    assert_eq!(sum().await, 39);
    // A peer speaks for itself alone.
    let clock = ask(&there.test, "p2p_get_merkle_clock", json!({})).await;
    let state = json!({ "peer_id": "somebody", "clock_data": { "node_id": clock["node_id"], "vector": clock["vector"], "merkle_root": clock["merkle_root"] } });
    let (said, _, _) = here.run(&["call", "--peer", there.id().as_str(), "p2p_update_peer_state", &state.to_string()]);
    assert!(said.contains("speaks for itself alone"), "{said}");
}
