//! The tools of the MCP++ contract that this program serves: each name, and each parameter with its default. [`answers`] gives every parameter, [`failures`] has an error of each tool. The table in `tools/README.md` is made of the same, by this test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{TestHost, folder};

mod answers;
mod failures;

/// What a tool is asked, and what its answer holds.
type Row = (&'static str, Value, Value);

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

/// The parameters of a tool that the rows give, from those of `answers` and `failures`.
fn given() -> BTreeMap<&'static str, (usize, usize, BTreeSet<String>)> {
    let mut given: BTreeMap<&str, (usize, usize, BTreeSet<String>)> = BTreeMap::new();
    let names = |arguments: &Value| arguments.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    for (tool, arguments, _) in answers::rows() {
        let (answers, _, parameters) = given.entry(tool).or_default();
        *answers += 1;
        parameters.extend(names(&arguments));
    }
    let full = failures::full_rows().into_iter();
    let wrong = failures::wrong_rows().into_iter().map(|(tool, parameter, value)| (tool, json!({ parameter: value })));
    let failing = failures::rows().into_iter().map(|(tool, arguments, _)| (tool, arguments)).chain(full).chain(wrong);
    for (tool, arguments) in failing {
        let (_, failures, parameters) = given.entry(tool).or_default();
        *failures += 1;
        parameters.extend(names(&arguments));
    }
    given
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tool_has_an_answer_and_a_failure_and_every_parameter_is_given_in_a_row() {
    let (tools, given) = (listed(&start().await).await, given());
    let mut missing = Vec::new();
    for name in CONTRACT.iter().flat_map(|(_, names)| names.iter().map(|(name, _)| *name)) {
        let (answers, failures, parameters) = given.get(name).cloned().unwrap_or_default();
        if answers == 0 {
            missing.push(format!("{name} has no answer"));
        }
        if failures == 0 {
            missing.push(format!("{name} has no failure"));
        }
        let schema = tools[name]["inputSchema"]["properties"].as_object().into_iter().flatten();
        missing.extend(
            schema
                .filter(|(parameter, _)| !parameters.contains(*parameter))
                .map(|(parameter, _)| format!("{name} {parameter}")),
        );
    }
    assert!(missing.is_empty(), "no row has:\n{}", missing.join("\n"));
}
