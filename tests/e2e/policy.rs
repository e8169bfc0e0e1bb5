//! `mcpp grant`, `revoke`, `test`, `explain` and `learn`, at a host that serves.

use serde_json::{Value, json};

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, add, folder, guest, text_of},
    tenants::team,
};

#[tokio::test(flavor = "multi_thread")]
async fn from_refused_to_the_least_that_is_needed() {
    let host = TestHost::start(&[("caller", &guest("caller")), ("add", &add())]).await;
    let data = host.folder.path().join("data").display().to_string();
    let mcpp = |arguments: &[&str]| {
        let done = tokio::task::block_in_place(|| run(&[arguments, &["--data", &data]].concat(), &[]));
        (done.status.code(), stdout(&done), stderr(&done))
    };
    // It is not live, and why is said with the line to add.
    let (code, text, error) = mcpp(&["explain", "caller"]);
    assert!(
        code == Some(0) && text.contains("it is not live") && text.contains("call = [\"TOOL\"]"),
        "{code:?} {text} {error}"
    );
    let (code, _, error) = mcpp(&["grant", "caller", "calls = ['*']"]);
    assert!(code == Some(1) && error.contains("unknown field `calls`"), "{error}");
    let (code, _, error) = mcpp(&["grant", "caller", "call = ["]);
    assert!(code == Some(1) && error.contains("not a part of a grant"), "{error}");
    // Granted, it is live at once; what goes beyond the grant is denied and explained.
    let (code, text, _) = mcpp(&["grant", "caller", "call = ['nothing']"]);
    assert!(code == Some(0) && text.contains("version = 1"), "{text}");
    let call = || host.text("caller_call", json!({ "tool": "add", "arguments": { "a": 1, "b": 2 } }));
    let answer = host.call("caller_call", json!({ "tool": "add", "arguments": { "a": 1, "b": 2 } })).await;
    assert_eq!(text_of(&answer), "error: NotFound", "{answer}");
    let (_, text, _) = mcpp(&["explain", "caller"]);
    assert!(text.contains("last in `caller_call`: it may not call `add`"), "{text}");
    assert!(text.contains("mcpp grant caller 'call = [\"add\"]'"), "{text}");
    let (code, text, _) = mcpp(&["test", "caller", "call", "add"]);
    assert!(code == Some(1) && text.contains("denied: it may not call `add`"), "{text}");
    assert_eq!(mcpp(&["grant", "caller", "call = [\"add\"]"]).0, Some(0));
    assert_eq!(call().await, r#"{"result":3}"#);
    assert_eq!(mcpp(&["test", "caller", "call", "add"]).1.trim(), "allowed");
    let (code, text, _) = mcpp(&["test", "caller", "http", "POST", "https://api.example.com/v1", "--json"]);
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        code == Some(1) && told["allowed"] == false && told["add"].as_str().is_some_and(|add| add.contains("[[http]]"))
    );
    // The learned grant holds the uses and the denials of the component, and is a grant.
    let (_, learned, _) = mcpp(&["learn", "caller"]);
    assert!(learned.contains("version = 1") && learned.contains("\"add\""), "{learned}");
    assert_eq!(mcpp(&["revoke", "caller", "store"]).0, Some(1));
    assert_eq!(mcpp(&["revoke", "caller"]).0, Some(0));
    assert!(!host.tools().await.contains(&"caller_call".to_owned()), "taken away at once");
    assert_eq!(mcpp(&["grant", "caller", learned.trim_start_matches("version = 1\n")]).0, Some(0));
    assert_eq!(call().await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_a_built_in_component_adds_to_what_it_is_shipped_with() {
    let host = TestHost::start(&[]).await;
    let data = host.folder.path().join("data").display().to_string();
    let mcpp = |arguments: &[&str]| {
        let done = tokio::task::block_in_place(|| run(&[arguments, &["--data", &data]].concat(), &[]));
        (done.status.code(), stdout(&done), stderr(&done))
    };
    let (code, shipped, error) = mcpp(&["grant", "taskqueue"]);
    assert!(code == Some(0) && shipped.contains("quota_bytes"), "{shipped} {error}");
    let (code, text, error) = mcpp(&["grant", "taskqueue", "reuse = {}"]);
    assert!(code == Some(0) && text.contains("quota_bytes") && text.contains("reuse"), "{text} {error}");
    assert!(!error.contains("not live"), "{error}");
    let (code, text, _) = mcpp(&["revoke", "taskqueue", "reuse"]);
    assert!(code == Some(0) && text.contains("quota_bytes") && !text.contains("reuse"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advice_and_refusals_are_about_the_tenant_that_was_named() {
    let files = folder(&[]);
    let home = files.path().join("data");
    team(&home, "tr", &[("caller", &guest("caller"))]);
    let host = TestHost::start_with(files, |_| {}).await;
    let data = home.display().to_string();
    let mcpp = |arguments: &[&str]| {
        let done = tokio::task::block_in_place(|| run(&[arguments, &["--data", &data]].concat(), &[]));
        (done.status.code(), stdout(&done), stderr(&done))
    };
    // It waits for what is loaded.
    let (_, reloaded, error) = mcpp(&["reload"]);
    assert!(reloaded.contains("failed tr/caller"), "{reloaded} {error}");
    let (code, text, error) = mcpp(&["explain", "caller", "--tenant", "tr"]);
    let advice = format!("to allow it: mcpp grant caller 'call = [\"TOOL\"]' --tenant tr --data {data}");
    assert!(code == Some(0) && text.contains(&advice), "{text} {error}");
    assert!(text.contains("`grants/caller.toml` in its tenant's folder"), "{text}");

    let copy = home.join("copy.redb").display().to_string();
    let commands: [&[&str]; 9] = [
        &["explain", "caller"],
        &["learn", "caller"],
        &["events"],
        &["accept"],
        &["mounts"],
        &["peers"],
        &["reload"],
        &["token", "list"],
        &["backup", &copy],
    ];
    for command in commands {
        let (code, text, error) = mcpp(&[command, &["--tenant", "nope"]].concat());
        assert!(code == Some(1) && error.contains("there is no tenant `nope`"), "{command:?}: {code:?} {text} {error}");
    }
    assert!(!home.join("copy.redb").exists() && !home.join("store/nope.redb").exists());
    for command in ["explain", "learn"] {
        let (code, text, error) = mcpp(&[command, "nope", "--tenant", "tr"]);
        assert!(code == Some(1) && error.contains("has no component `nope`"), "{command}: {code:?} {text} {error}");
    }
    drop(host);
}
