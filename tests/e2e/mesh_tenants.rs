//! Tenants in the mesh: what one has of it is not another's, and ends while it is suspended.

use serde_json::{Value, json};

use crate::{
    mesh_join::Commanded,
    support::{add, folder, guest},
    tenants::{User, team, tenant},
};

/// A grant for the guest that uses the mesh, with everything of every kind.
const GRANT: &str = "version = 1\nstore = {}\n[mesh]\nsee = true\nconnect = ['*']\ncall = ['*: *']\n\
                     provide = ['gpu']\ndiscover = ['gpu']\nannounce = ['ready']\nhear = ['mesh/ready']\n";

/// A host with the tenants `one` and `two`, each with the guest that uses the mesh, and their users.
async fn two_tenants() -> (Commanded, [User; 2]) {
    let files = folder(&[]);
    let data = files.path().join("data");
    let tokens = ["one", "two"].map(|name| team(&data, name, &[("mesh", &guest("mesh"))]));
    for name in ["one", "two"] {
        let grants = mcpp::tenant::home::Homes::new(data.clone()).of(&tenant(name)).grants();
        std::fs::create_dir_all(&grants).expect("made");
        std::fs::write(grants.join("mesh.toml"), GRANT).expect("written");
    }
    let here = Commanded::start_with(files, |_| {}).await;
    let users = [&tokens[0], &tokens[1]].map(|token| User::new(&here.test, token));
    for user in &users {
        here.test.until("its tools are there", async |_| !user.tools().await.is_empty()).await;
    }
    (here, users)
}

/// Joins `there` for the tenant `one`.
fn join(here: &Commanded, there: &Commanded) {
    let (ticket, said, code) = there.run(&["invite", "--tool", "*"]);
    assert_eq!(code, Some(0), "{said}");
    here.json(&["join", &ticket, "--tenant", "one"]);
}

async fn peers_of(user: &User) -> Value {
    user.call("mesh_look", json!({})).await["result"]["structuredContent"]["peers"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guests_of_two_tenants_have_peers_of_their_own() {
    let there = Commanded::start(&[("add", &add())]).await;
    let (here, [one, two]) = two_tenants().await;
    let peer = there.id();
    join(&here, &there);
    let order = json!({ "peer": peer, "tool": "add", "arguments": { "a": 40, "b": 2 } });
    assert_eq!(one.text("mesh_call", order.clone()).await, r#"{"result":42}"#);
    assert_eq!(peers_of(&one).await[0]["id"], json!(peer));
    // The other tenant has the same grant and another membership: none. It learns nothing, and reaches nothing.
    assert_eq!(peers_of(&two).await, json!([]));
    assert_eq!(two.text("mesh_call", order.clone()).await, "error: NotFound");
    assert_eq!(two.text("mesh_metrics", json!({ "peer": peer })).await, "error: NotFound");
    let cut = two.text("mesh_disconnect", json!({ "peer": peer })).await;
    assert!(cut.starts_with("error: "), "{cut}");
    assert_eq!(one.text("mesh_call", order.clone()).await, r#"{"result":42}"#, "its connection stands");
    // Suspended, its guests reach the peer no more; resumed, they do.
    assert_eq!(here.run(&["tenant", "suspend", "one"]).2, Some(0));
    let refused = one.request("tools/call", json!({ "name": "mesh_call", "arguments": order })).send().await;
    assert_eq!(refused.expect("an answer").status(), 403);
    assert_eq!(here.run(&["tenant", "resume", "one"]).2, Some(0));
    here.test.until("it is back", async |_| one.text("mesh_call", order.clone()).await == r#"{"result":42}"#).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_mounts_of_a_suspended_tenant_rest_and_come_back_as_they_were_accepted() {
    let there = Commanded::start(&[("add", &add())]).await;
    let (here, [one, two]) = two_tenants().await;
    join(&here, &there);
    let peer = there.id();
    here.json(&["mount", "far", "--tenant", "one", "--peer", peer.as_str(), "--tool", "add"]);
    let sum = async |user: &User| user.text("far_add", json!({ "a": 40, "b": 2 })).await;
    assert_eq!(sum(&one).await, r#"{"result":42}"#);
    assert!(!two.tools().await.contains(&"far_add".to_owned()), "{:?}", two.tools().await);
    assert!(sum(&two).await.contains("unknown tool"), "{}", sum(&two).await);
    assert_eq!(here.run(&["tenant", "suspend", "one"]).2, Some(0));
    here.test
        .until("nothing follows its mounts", async |_| here.json(&["mounts", "--tenant", "one"]) == json!([]))
        .await;
    let refused = one.request("tools/call", json!({ "name": "far_add", "arguments": {} })).send().await;
    assert_eq!(refused.expect("an answer").status(), 403);
    assert_eq!(here.run(&["tenant", "resume", "one"]).2, Some(0));
    here.test.until("it is back", async |_| sum(&one).await == r#"{"result":42}"#).await;
    let mounts = here.json(&["mounts", "--tenant", "one"]);
    assert_eq!((&mounts[0]["name"], &mounts[0]["tools"]), (&json!("far"), &json!(["far_add"])), "{mounts}");
}
