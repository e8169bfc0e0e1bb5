//! Series of metrics end with what they are about.

use serde_json::json;

use crate::support::{TestHost, add, number};

#[tokio::test(flavor = "multi_thread")]
async fn the_series_of_a_tool_end_with_it() {
    let host = TestHost::start(&[("add", &add())]).await;
    host.call("add", json!({ "a": 1, "b": 2 })).await;
    for round in 0..4 {
        let name = format!("passing-{round}");
        host.write(&name, &number("passing", "i32.const 1"));
        host.host.reload().await.expect("reloaded");
        let tool = host.tools().await.into_iter().find(|tool| tool != "add").expect("it is there");
        host.call(&tool, json!({})).await;
        let lines = host.metric("mcpp_call").await;
        let of = |tool: &str| lines.iter().filter(|line| line.contains(&format!("tool=\"{tool}\""))).count();
        assert!(of(&tool) > 10 && of("add") > 10, "{lines:?}");
        std::fs::remove_file(host.tools_folder().join(format!("{name}.wasm"))).expect("removed");
        host.host.reload().await.expect("reloaded");
        let lines = host.metric("mcpp_").await;
        let named = |line: &&String| line.contains(&tool) || line.contains("passing");
        assert_eq!(lines.iter().filter(named).collect::<Vec<_>>(), [""; 0]);
        assert!(lines.iter().any(|line| line.contains("tool=\"add\"")));
    }
}
