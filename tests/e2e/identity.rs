//! One tenant after another of the same name: what belonged to the first is worth nothing to the second, however soon it comes.

use reqwest::StatusCode;
use serde_json::json;

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, folder, guest},
    tenants::{User, team},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_made_again_is_another_one_for_tokens_sessions_and_data() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let old = team(&data, "team", &[("store", &guest("store"))]);
    let grants = "version = 1\nstore = {}\ncall = ['x']\nsubscribe = ['other/*']\n";
    std::fs::write(data.join("tenants/team/grants/store.toml"), grants).expect("written");
    // The file of tokens stays as it was, as one who copies it back would have it.
    let tokens = std::fs::read(data.join("tokens.toml")).expect("read");
    let host = TestHost::start_with(files, |_| {}).await;
    let at = data.display().to_string();
    let told = |arguments: &[&str]| {
        let done = tokio::task::block_in_place(|| run(&[arguments, &["--data", &at]].concat(), &[]));
        assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
        stdout(&done)
    };
    let before = User::new(&host, &old);
    before.call("store_set", json!({ "key": "k", "value": "the first one's" })).await;
    let session = before.initialize().await;
    assert_eq!(before.ask_in(&session, "tools/list").await.0, StatusCode::OK);
    told(&["tenant", "remove", "team", "--yes"]);
    told(&["tenant", "add", "team", "--trusted"]);
    std::fs::write(data.join("tokens.toml"), &tokens).expect("written");
    host.until("the old token is read again", async |_| {
        let refused = before.request("tools/list", json!({})).send().await.expect("an answer").status();
        // Until the new one's folder is open, its name answers nobody.
        let closed = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE];
        assert!(closed.contains(&refused), "{refused}");
        refused == StatusCode::FORBIDDEN
    })
    .await;
    assert_eq!(before.ask_in(&session, "tools/list").await.0, StatusCode::FORBIDDEN);
    // The new one's own token opens it, and not the session of the old one.
    let token = told(&["token", "create", "team", "user-of-team"]);
    let after = User::new(&host, token.trim());
    host.until("its token is known", async |_| {
        after.request("tools/list", json!({})).send().await.expect("an answer").status() == StatusCode::OK
    })
    .await;
    assert_eq!(after.ask_in(&session, "tools/list").await.0, StatusCode::NOT_FOUND);
    std::fs::write(data.join("tenants/team/grants/store.toml"), grants).expect("written");
    told(&["reload"]);
    std::fs::write(data.join("tenants/team/tools/store.wasm"), guest("store")).expect("written");
    host.until("its tools serve", async |_| after.tools().await.contains(&"store_get".to_owned())).await;
    let kept = after.text("store_get", json!({ "key": "k" })).await;
    assert!(!kept.contains("the first one's"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_by_which_the_host_means_itself_are_refused() {
    let files = folder(&[]);
    let at = files.path().join("data").display().to_string();
    for name in ["built-in", "local", "host", "mcpp"] {
        let done = tokio::task::block_in_place(|| run(&["tenant", "add", name, "--data", &at], &[]));
        assert!(!done.status.success(), "{name}: {}", stdout(&done));
    }
    // One that was made by hand is not opened.
    std::fs::create_dir_all(files.path().join("data/tenants/built-in/tools")).expect("made");
    std::fs::write(files.path().join("data/tenants/built-in/tenant.toml"), "version = 1\n").expect("written");
    let host = TestHost::start_with(files, |_| {}).await;
    let reserved = crate::tenants::tenant("built-in");
    assert!(host.host.registry().share(&reserved).is_none());
    let reports = host.host.tenants().reload_all().await.expect("an answer");
    assert!(reports[&reserved].failed["tenant"].contains("the host means itself"), "{reports:?}");
}
