//! The tools of the MCP++ contract that this program serves: each name, each parameter with its default, and an error of each. The table in `tools/README.md` is made of the same, by this test.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    support::{TestHost, folder, grant},
    taskqueue::{ask, holds},
};

/// A parameter of the contract: `name*` is required, `name=JSON` has that default, `name` is optional.
type Parameters = &'static str;

/// Families of the contract, each with its section there.
const CONTRACT: [(&str, &[(&str, Parameters)]); 6] = [
    (
        "Task queue of peers (1.1)",
        &[
            ("p2p_taskqueue_status", r#"remote_multiaddr="" peer_id="" timeout_s=10.0 detail=false"#),
            ("p2p_taskqueue_submit", r#"task_type* model_name* payload* remote_multiaddr="" peer_id="""#),
            (
                "p2p_taskqueue_claim_next",
                r#"worker_id* supported_task_types=null peer_id="" clock=null remote_multiaddr="" remote_peer_id="""#,
            ),
            ("p2p_taskqueue_call_tool", r#"tool_name* args=null remote_multiaddr="" remote_peer_id="" timeout_s=30.0"#),
            ("p2p_taskqueue_list_tasks", r#"status="" limit=50 task_types=null remote_multiaddr="" remote_peer_id="""#),
            ("p2p_taskqueue_get_task", r#"task_id* remote_multiaddr="" remote_peer_id="""#),
            ("p2p_taskqueue_wait_task", r#"task_id* timeout_s=60.0 remote_multiaddr="" remote_peer_id="""#),
            (
                "p2p_taskqueue_complete_task",
                r#"task_id* status="completed" result=null error="" remote_multiaddr="" remote_peer_id="""#,
            ),
            ("p2p_taskqueue_heartbeat", r#"peer_id* clock=null remote_multiaddr="" remote_peer_id="""#),
            ("p2p_taskqueue_cache_get", r#"key* remote_multiaddr="" remote_peer_id="" timeout_s=10.0"#),
            (
                "p2p_taskqueue_cache_set",
                r#"key* value* ttl_s=null remote_multiaddr="" remote_peer_id="" timeout_s=10.0"#,
            ),
            (
                "p2p_taskqueue_submit_docker_hub",
                r#"image* command=null entrypoint=null environment=null volumes=null remote_multiaddr="" remote_peer_id="" extra=null"#,
            ),
            (
                "p2p_taskqueue_submit_docker_github",
                r#"repo_url* branch="main" dockerfile_path="Dockerfile" context_path="." command=null entrypoint=null environment=null build_args=null remote_multiaddr="" remote_peer_id="" extra=null"#,
            ),
            (
                "list_peers",
                "include_capabilities=false capabilities_timeout_s=5.0 capabilities_detail=false discover=true discovery_timeout_s=1.5 discovery_methods=null limit=50",
            ),
        ],
    ),
    (
        "Workflow scheduler (1.2)",
        &[
            ("p2p_scheduler_status", ""),
            ("p2p_submit_task", "task_id* workflow_id* name* tags* priority=5"),
            ("p2p_get_next_task", ""),
            ("p2p_mark_task_complete", "task_id*"),
            ("p2p_check_workflow_tags", "tags*"),
            ("p2p_get_merkle_clock", ""),
            ("p2p_update_peer_state", "peer_id* clock_data*"),
        ],
    ),
    (
        "Workflows (1.3)",
        &[
            // `steps` is required there. Here a template may have them.
            ("workflow_submit", "workflow_id* name* steps priority=1.0 tags dependencies metadata"),
            ("workflow_status", "workflow_id* include_steps=true include_metrics=false"),
            ("workflow_cancel", "workflow_id* reason force=false"),
            ("workflow_list", "status_filter peer_filter tag_filter limit=50 offset=0"),
            // Without `format`, `fmt` is looked at, and then it is JSON.
            ("workflow_dependencies", "workflow_id* format"),
            ("workflow_result", "workflow_id* include_outputs=true include_logs=false"),
        ],
    ),
    (
        "Tasks, queue and workers (1.4)",
        &[
            (
                "task_submit",
                "task_id* task_type* payload* priority=1.0 tags timeout retry_policy metadata dependencies",
            ),
            ("task_status", "task_id* include_logs=false include_metrics=false"),
            ("task_cancel", "task_id* reason force=false"),
            ("task_list", "status_filter worker_filter tag_filter priority_min limit=100 offset=0"),
            ("task_priority", "task_id* new_priority* requeue=true"),
            ("task_result", "task_id* include_output=true include_logs=false"),
            ("queue_stats", "include_worker_stats=false include_historical=false"),
            ("queue_pause", "reason"),
            ("queue_resume", "reorder_by_priority=true"),
            ("queue_clear", "status_filter confirm=false"),
            ("task_retry", "task_id* retry_config"),
            ("worker_register", "worker_id* capabilities* max_concurrent_tasks=5 resource_limits metadata"),
            ("worker_unregister", "worker_id* graceful=true timeout=300"),
            ("worker_status", "worker_id* include_tasks=false include_metrics=false"),
        ],
    ),
    (
        "Peers (1.4b)",
        &[
            ("peer_discover", "capability_filter max_peers=10 timeout=30 include_metrics=false"),
            ("peer_connect", "peer_id* multiaddr* timeout=30 retry_count=3 persist=true"),
            ("peer_disconnect", "peer_id* reason graceful=true"),
            ("peer_list", r#"status_filter capability_filter sort_by="last_seen" limit=100 offset=0"#),
            ("peer_metrics", "peer_id* include_history=false history_hours=24"),
            ("bootstrap_network", "bootstrap_nodes=null timeout=60 min_connections=3 max_connections=10"),
        ],
    ),
    (
        "Bootstrap (1.5)",
        &[
            ("p2p_bootstrap_from_file", "path=null max_peers=5 connect=false"),
            ("p2p_bootstrap_from_env", "variable=null max_peers=5 connect=false"),
            ("p2p_bootstrap_from_public", "max_peers=5 connect=false"),
            ("p2p_bootstrap_list", ""),
        ],
    ),
];

async fn start() -> TestHost {
    let host = TestHost::start_with(folder(&[]), |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    host
}

/// The tools by name, as clients list them.
async fn listed(host: &TestHost) -> BTreeMap<String, Value> {
    let (mut tools, mut params) = (BTreeMap::new(), json!({}));
    loop {
        let page = crate::support::answer(host.modern("tools/list", params).send().await.expect("an answer")).await;
        for tool in page["result"]["tools"].as_array().expect("a list") {
            tools.insert(tool["name"].as_str().expect("a name").to_owned(), tool.clone());
        }
        match page["result"].get("nextCursor") {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => return tools,
        }
    }
}

/// Holds a parameter to the contract, and gives its row of the table.
fn parameter(tool: &str, schema: &Value, required: &[&str], contract: &str) -> String {
    let (name, default) = contract.split_once('=').map_or((contract, None), |(name, json)| (name, Some(json)));
    let name = name.trim_end_matches('*');
    let found = &schema["properties"][name];
    assert!(found.is_object(), "{tool} has no {name}");
    assert_eq!(required.contains(&name), contract.ends_with('*'), "{tool} {name} is required?");
    let default = default.map(|json| serde_json::from_str::<Value>(json).expect("JSON"));
    let is_same = match (&default, found.get("default")) {
        (Some(Value::Null) | None, _) => true,
        (Some(wanted), Some(found)) => wanted == found || (wanted.is_number() && wanted.as_f64() == found.as_f64()),
        (Some(wanted), None) => *wanted == json!(""),
    };
    assert!(is_same, "{tool} {name} is {default:?} by the contract, not {:?}", found.get("default"));
    match default {
        None | Some(Value::Null) => format!("`{name}{}`", if contract.ends_with('*') { "*" } else { "" }),
        Some(default) => format!("`{name}={default}`"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_name_and_parameter_of_the_contract_is_served_as_the_table_says() {
    let tools = listed(&start().await).await;
    let mut table = String::new();
    let mut count = 0;
    for (family, names) in CONTRACT {
        write!(table, "\n### {family}\n\n| tool | parameters of the contract | ours beyond it |\n|---|---|---|\n")
            .expect("written");
        for (name, contract) in names {
            let schema = &tools.get(*name).unwrap_or_else(|| panic!("{name} is not served"))["inputSchema"];
            let required: Vec<&str> =
                schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let known: Vec<&str> =
                contract.split_whitespace().map(|text| text.split(['*', '=']).next().expect("a name")).collect();
            let rows: Vec<String> =
                contract.split_whitespace().map(|text| parameter(name, schema, &required, text)).collect();
            let ours = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            let ours: Vec<String> = ours.filter(|name| !known.contains(name)).map(|name| format!("`{name}`")).collect();
            assert!(
                required.iter().all(|name| known.contains(name)),
                "{name}: a client of the contract cannot know {required:?}"
            );
            let cell = |cells: Vec<String>| if cells.is_empty() { "–".to_owned() } else { cells.join(", ") };
            writeln!(table, "| `{name}` | {} | {} |", cell(rows), cell(ours)).expect("written");
            count += 1;
        }
    }
    assert_eq!(count, 51);
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/README.md");
    let page = std::fs::read_to_string(&file).expect("the page");
    let (before, _) = page.split_once("<!-- made by tests/e2e/contract.rs -->\n").expect("the place of the table");
    let made = format!("{before}<!-- made by tests/e2e/contract.rs -->\n{table}");
    if std::env::var_os("MCPP_UPDATE_DOCS").is_some() {
        std::fs::write(&file, &made).expect("written");
    }
    assert_eq!(std::fs::read_to_string(&file).expect("the page"), made, "run this test with MCPP_UPDATE_DOCS=1");
}

/// An error of each family's kind, for each tool that has one: arguments, and what the answer holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_has_the_shape_of_its_family() {
    let host = start().await;
    let nobody = "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT";
    let remote = |mut arguments: Value, name: &str| {
        arguments[name] = json!(nobody);
        arguments
    };
    let forged = json!({ "node_id": "a", "vector": { "a": 1 }, "merkle_root": "0".repeat(64) });
    let failed = |error: &str| json!({ "success": false, "error": error });
    let not_ok = |error: &str| json!({ "ok": false, "error": error });
    let unauthorized = not_ok("unauthorized");
    for (tool, arguments, expected) in [
        ("p2p_taskqueue_status", remote(json!({}), "peer_id"), unauthorized.clone()),
        (
            "p2p_taskqueue_submit",
            remote(json!({ "task_type": "t", "model_name": "m", "payload": {} }), "peer_id"),
            unauthorized.clone(),
        ),
        (
            "p2p_taskqueue_submit",
            json!({ "task_type": " t", "model_name": "m", "payload": {} }),
            not_ok("invalid_message"),
        ),
        ("p2p_taskqueue_claim_next", remote(json!({ "worker_id": "w" }), "remote_peer_id"), unauthorized.clone()),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "" }), not_ok("missing_worker_id")),
        ("p2p_taskqueue_claim_next", json!({ "worker_id": "w", "clock": forged }), not_ok("invalid_message")),
        ("p2p_taskqueue_call_tool", json!({ "tool_name": "t" }), not_ok("tools_disabled")),
        ("p2p_taskqueue_call_tool", json!({ "tool_name": "" }), not_ok("missing_tool_name")),
        ("p2p_taskqueue_list_tasks", json!({ "status": "none" }), not_ok("invalid_message")),
        ("p2p_taskqueue_list_tasks", json!({ "remote_multiaddr": "192.0.2.1" }), not_ok("invalid_message")),
        ("p2p_taskqueue_get_task", remote(json!({ "task_id": "t" }), "remote_peer_id"), unauthorized.clone()),
        ("p2p_taskqueue_wait_task", json!({ "task_id": "" }), not_ok("missing_task_id")),
        ("p2p_taskqueue_complete_task", json!({ "task_id": "nothing" }), not_ok("task_missing")),
        ("p2p_taskqueue_heartbeat", json!({ "peer_id": "" }), not_ok("missing_peer_id")),
        ("p2p_taskqueue_heartbeat", json!({ "peer_id": "p", "clock": forged }), not_ok("invalid_message")),
        ("p2p_taskqueue_cache_get", json!({ "key": "" }), not_ok("missing_key")),
        ("p2p_taskqueue_cache_set", json!({ "key": "", "value": 1 }), not_ok("missing_key")),
        ("p2p_taskqueue_submit_docker_hub", json!({ "image": "--x" }), not_ok("invalid_image")),
        ("p2p_taskqueue_submit_docker_github", json!({ "repo_url": "file:///x" }), not_ok("invalid_repo_url")),
        ("list_peers", json!({ "discovery_methods": ["smoke"] }), json!({ "ok": false, "error": "…" })),
        (
            "p2p_submit_task",
            json!({ "task_id": "", "workflow_id": "w", "name": "n", "tags": [] }),
            json!({ "error": "…", "tool": "p2p_submit_task", "timestamp": "…" }),
        ),
        (
            "p2p_check_workflow_tags",
            json!({ "tags": vec!["x"; 65] }),
            json!({ "error": "…", "tool": "p2p_check_workflow_tags", "timestamp": "…" }),
        ),
        (
            "p2p_update_peer_state",
            json!({ "peer_id": "a", "clock_data": forged }),
            json!({ "error": "…", "tool": "p2p_update_peer_state", "timestamp": "…" }),
        ),
        (
            "p2p_mark_task_complete",
            json!({ "task_id": "nothing" }),
            json!({ "success": false, "task_id": "nothing", "tool": "p2p_mark_task_complete" }),
        ),
        ("p2p_get_next_task", json!({}), json!({ "task": null, "message": "No tasks available for this peer" })),
        (
            "workflow_submit",
            json!({ "workflow_id": "w", "name": "n", "steps": [{ "step_id": "a" }] }),
            json!({ "success": false, "error": "…", "workflow_id": "w" }),
        ),
        (
            "workflow_submit",
            json!({ "workflow_id": "w", "name": "n", "steps": [] }),
            failed("Missing required parameters: workflow_id, name, or steps"),
        ),
        ("workflow_status", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_cancel", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_list", json!({ "limit": 1001 }), failed("Limit must be between 1 and 1000")),
        ("workflow_list", json!({ "offset": -1 }), failed("Offset must be non-negative")),
        ("workflow_dependencies", json!({ "workflow_id": "x" }), failed("Workflow x not found")),
        ("workflow_dependencies", json!({ "workflow_id": "x", "format": "svg" }), failed("…")),
        ("workflow_result", json!({ "workflow_id": "x" }), failed("Workflow x not found or not yet completed")),
        ("task_submit", json!({ "task_id": " x", "task_type": "t", "payload": {} }), failed("…")),
        ("task_status", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("task_cancel", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("task_priority", json!({ "task_id": "x", "new_priority": 1 }), failed("task \"x\" not found")),
        ("task_result", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("queue_clear", json!({}), failed("Confirmation required (set confirm=True)")),
        ("task_retry", json!({ "task_id": "x" }), failed("task \"x\" not found")),
        ("worker_register", json!({ "worker_id": "", "capabilities": [] }), failed("…")),
        ("worker_unregister", json!({ "worker_id": "x" }), failed("…")),
        ("worker_status", json!({ "worker_id": "x" }), failed("…")),
        ("peer_discover", json!({ "max_peers": 0 }), failed("Limit must be between 1 and 1000")),
        ("peer_connect", json!({ "peer_id": nobody, "multiaddr": "x" }), failed("…")),
        (
            "peer_connect",
            json!({ "peer_id": nobody, "multiaddr": format!("/ip4/127.0.0.1/tcp/1/p2p/{nobody}"), "retry_count": 0 }),
            failed("…"),
        ),
        ("peer_disconnect", json!({ "peer_id": nobody }), failed("…")),
        ("peer_list", json!({ "limit": 1001 }), failed("Limit must be between 1 and 1000")),
        ("peer_list", json!({ "offset": -1 }), failed("Offset must be non-negative")),
        ("peer_metrics", json!({ "peer_id": "nobody" }), failed("Peer nobody not found")),
        (
            "bootstrap_network",
            json!({ "bootstrap_nodes": ["x"], "min_connections": 1 }),
            json!({ "success": false, "error": "…", "network_ready": false, "failed_count": 1 }),
        ),
        ("p2p_bootstrap_from_file", json!({}), failed("…")),
        ("p2p_bootstrap_from_env", json!({ "max_peers": 0 }), failed("…")),
        ("p2p_bootstrap_from_public", json!({}), failed("public_bootstrap_disabled")),
        ("peer_registry_list", json!({}), failed("registry_not_configured")),
    ] {
        holds(&ask(&host, tool, arguments.clone()).await, &expected, &format!("{tool} {arguments}"));
    }
}

/// The tools whose only failure is their store's, each with a component whose store is full before anything is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_whose_store_is_full_fails_in_the_shape_of_its_family() {
    let files = folder(&[]);
    let full = "[components.scheduler]
        store = { quota_bytes = 1 }
        mesh = { see = true, call = ['*: p2p_submit_task', '*: p2p_mark_task_complete', '*: p2p_update_peer_state'] }
        [components.taskqueue]
        call = ['*']
        store = { quota_bytes = 1 }
        mesh = { see = true, call = ['*: task_queue.rpc'] }";
    grant(&files, full);
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    for (tool, arguments) in [("p2p_scheduler_status", json!({})), ("p2p_get_merkle_clock", json!({}))] {
        let failed = ask(&host, tool, arguments).await;
        holds(&failed, &json!({ "error": "…", "tool": tool, "timestamp": "…" }), tool);
        let error = failed["error"].as_str().expect("a text");
        assert!(error.starts_with("P2P scheduler not available: "), "{tool}: {failed}");
        assert!(failed.get("ok").is_none() && failed.get("success").is_none(), "{tool}: {failed}");
    }
    for (tool, arguments) in
        [("queue_pause", json!({ "reason": "full" })), ("queue_resume", json!({ "reorder_by_priority": false }))]
    {
        let failed = ask(&host, tool, arguments).await;
        holds(&failed, &json!({ "success": false, "error": "…" }), tool);
    }
    // It only reads, so that a full store leaves it alone; its parameters can be wrong.
    let stats = json!({ "include_worker_stats": true, "include_historical": true });
    let read = ask(&host, "queue_stats", stats).await;
    holds(
        &read,
        &json!({ "success": true, "queued_count": 0, "paused": false, "worker_stats": [], "historical": [] }),
        "queue_stats",
    );
    for wrong in ["include_worker_stats", "include_historical"] {
        let text = host.text("queue_stats", json!({ wrong: "yes" })).await;
        assert!(text.starts_with("error: invalid argument") && text.contains(wrong), "{text}");
    }
}
