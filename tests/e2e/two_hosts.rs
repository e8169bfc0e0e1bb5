//! Two hosts on one data directory, as two clients with the same configuration start them: the second says who is in its way, and takes over.

use std::sync::Arc;

use mcpp::host::Host;
use serde_json::json;

use crate::{
    command_line::{run, stdout},
    support::{
        TestHost, add, answer, config, folder, grant, guest, http_client, initialize_message, modern_request, text_of,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn the_second_host_says_who_has_the_directory_and_takes_over() {
    let files = folder(&[("add", &add()), ("store", &guest("store"))]);
    grant(&files, "[components.store]\nstore = {}\ncall = ['x']\nsubscribe = ['other/*']\n");
    let first = TestHost::start_with(files, |_| {}).await;
    first.call("store_set", json!({ "key": "k", "value": "kept" })).await;
    let second = Host::start(config(&first.folder), Arc::new(|| {})).await.expect("it starts all the same");
    second.loaded().await;
    let http = http_client();
    let ask = async |method: &str, params| {
        answer(modern_request(&http, &second.url(), method, params).send().await.expect("an answer")).await
    };
    // Tools that need no data serve.
    let names = async || {
        let listed = ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().map(|tool| tool["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["add"]);
    let process = format!("process {}", std::process::id());
    let local = mcpp::names::TenantId::local();
    let problems = || {
        let catalog = second.registry().catalog(&local);
        catalog.problems().map(|problem| problem.error.clone()).collect::<String>()
    };
    assert!(problems().contains(&process), "{}", problems());
    // Its client is told in the first answer.
    let initialized = http
        .post(second.url())
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(initialize_message().to_string());
    let initialized = answer(initialized.send().await.expect("an answer")).await;
    let told = initialized["result"]["instructions"].as_str().unwrap_or_default();
    assert!(told.contains(&process) && told.contains("--data"), "{initialized}");
    // Operators find the one that has the directory.
    let data = first.folder.path().join("data").display().to_string();
    let info = |url: &str| {
        let shown = tokio::task::block_in_place(|| run(&["info", "--data", &data], &[]));
        stdout(&shown).contains(url)
    };
    assert!(info(&first.host.url()));
    // A revocation reaches the other one, too.
    grant(&first.folder, "[components.add]\nexpose = ['nothing*']\n");
    first.until("it is not served", async |_| !names().await.contains(&"add".to_owned())).await;
    std::fs::remove_file(first.folder.path().join("data/grants/add.toml")).expect("removed");
    let folder = first.stop().await;
    let waiting = async {
        while !names().await.contains(&"store_get".to_owned()) || !info(&second.url()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, waiting).await.expect("it takes over");
    let kept = text_of(&ask("tools/call", json!({ "name": "store_get", "arguments": { "key": "k" } })).await);
    assert!(kept.contains("kept"), "{kept}");
    assert_eq!(problems(), "");
    second.stop().await;
    drop(folder);
}
