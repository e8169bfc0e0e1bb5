//! `60.0` for an integer: clients whose numbers are all floats write it so, and JSON Schema counts it as one (dmtrKovalenko/fff#328, warpdotdev/warp#8865). Integers beyond
//! 2^53, which become others on their way (modelcontextprotocol/go-sdk#1201). And `format: "uint64"`, of which validators warn (Piebald-AI/splitrail#113,
//! longbridge/developers#1264).

use serde_json::{Value, json};

use crate::support::{TestHost, folder, wat};

async fn start() -> TestHost {
    let echo = wat(r#"(component
            (core module $m (func (export "f") (param i64) (result i64) local.get 0))
            (core instance $i (instantiate $m))
            (func (export "echo") (param "n" s64) (result s64) (canon lift (core func $i "f"))))"#);
    let host = TestHost::start_with(folder(&[("echo", &echo)]), |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_float_that_is_an_integer_is_taken_by_every_kind_of_tool() {
    let host = start().await;
    let task = json!({
        "task_id": "t", "task_type": "k", "payload": { "x": 60.0 }, "timeout": 60.0, "retry_policy": { "max_retries": 2.0 },
    });
    let answer = host.call("task_submit", task).await;
    assert_eq!(answer["result"]["structuredContent"]["success"], true, "{answer}");
    let status = host.call("task_status", json!({ "task_id": "t", "include_metrics": true })).await;
    assert_eq!(status["result"]["structuredContent"]["metrics"]["max_attempts"], 3, "{status}");
    for (number, says) in [
        (json!(60.0), "60"),
        (json!(1e18), "1000000000000000000"),
        (json!(-9e18), "-9000000000000000000"),
        (json!(i64::MAX), "9223372036854775807"),
    ] {
        let answer = host.call("echo", json!({ "n": number })).await;
        assert_eq!(answer["result"]["structuredContent"]["result"].to_string(), says, "{number}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_floats_are_refused_with_their_place() {
    let host = start().await;
    let with = |name: &str, value: Value| {
        let mut task = json!({ "task_id": "t", "task_type": "k", "payload": {} });
        task[name] = value;
        task
    };
    for (tool, arguments, place) in [
        ("task_submit", with("timeout", json!(2.5)), "`/timeout`"),
        ("task_submit", with("timeout", json!(1e300)), "`/timeout`"),
        ("task_submit", with("timeout", json!(1.2345678901234568e18)), "`/timeout`"),
        ("task_submit", with("retry_policy", json!({ "max_retries": 1.5 })), "`/retry_policy`"),
        ("echo", json!({ "n": 0.5 }), "`/n`"),
        ("echo", json!({ "n": 1e19 }), "`/n`"),
        ("echo", json!({ "n": 1.2345678901234568e18 }), "`/n`"),
    ] {
        let text = host.text(tool, arguments.clone()).await;
        assert!(text.starts_with("error: invalid argument") && text.contains(place), "{tool} {arguments}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_schema_has_a_format_of_numbers() {
    let host = start().await;
    let listed = host.modern("tools/list", json!({})).send().await.expect("an answer").text().await.expect("text");
    for format in ["uint", "uint8", "uint16", "uint32", "uint64", "int32", "int64", "float", "double"] {
        assert!(!listed.contains(&format!(r#""format":"{format}""#)), "{format}");
    }
    assert!(listed.contains(r#""minimum":1,"maximum":10000"#) || listed.contains(r#""maximum":10000"#), "bounds stay");
}
