//! A step says on which host it ran: this one, or the peer that a mount chose for it.

use serde_json::{Value, json};

use crate::{
    mesh_join::Commanded,
    support::{add, folder},
    workflow::{ask, ended},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_step_on_a_mounted_peer_names_the_peer_and_the_others_this_host() {
    let there = Commanded::start(&[("add", &add())]).await;
    let here = Commanded::start_with(folder(&[("add", &add())]), |config| config.tools.builtin = true).await;
    let peer = here.json(&["join", &there.ticket(&[])])["peer"].as_str().expect("an id").to_owned();
    here.json(&["mount", "far", "--peer", &peer, "--tool", "*"]);
    let sum = json!({ "a": 1, "b": 2 });
    let steps = json!([
        { "step_id": "near", "action": "add", "inputs": sum },
        { "step_id": "far", "action": "far_add", "inputs": sum },
        { "step_id": "each", "action": "far_add", "inputs": sum, "for_each": { "items": [1, 2] } },
        { "step_id": "pause", "action": "wait", "inputs": { "seconds": 0 } },
    ]);
    let submitted =
        ask(&here.test, "workflow_submit", json!({ "workflow_id": "w", "name": "w", "steps": steps })).await;
    assert_eq!(submitted["success"], true, "{submitted}");
    let result = ended(&here.test, "w").await;
    assert_eq!(result["status"], "completed", "{result}");
    let status = ask(&here.test, "workflow_status", json!({ "workflow_id": "w" })).await;
    let host = |path: &str| -> Value {
        let mut steps = status["steps"].as_array().expect("steps").iter();
        steps.find(|step| step["step_id"] == path).unwrap_or_else(|| panic!("{path}: {status}"))["host"].clone()
    };
    let hosts = ["near", "far", "each", "each/0", "each/1", "pause"].map(host);
    let on_peer = json!(peer);
    assert_eq!(hosts, [json!("here"), on_peer.clone(), Value::Null, on_peer.clone(), on_peer, Value::Null]);
    let url = here.test.host.url();
    let (shown, ..) = here.run(&["workflow", "--url", &url, "show", "w"]);
    assert!(shown.lines().any(|line| line.trim_start().starts_with("far ") && line.contains(&peer)), "{shown}");
}
