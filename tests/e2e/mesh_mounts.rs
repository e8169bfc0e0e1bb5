//! Mounts: three hosts and the program's commands. A peer's tools in a catalog, pinned and live, served by another host when one is killed or stops.

use mcpp::names::TenantId;
use serde_json::{Value, json};

use crate::{
    command_line::{run, stderr, stdout},
    kills::Program,
    mesh_join::Commanded,
    support::{add, binary, folder, guest, modern_request, number, parse_messages, text_of},
};

/// A program of its own, so that it can be killed; its data directory.
fn program(folder: &tempfile::TempDir) -> (Program, String) {
    let program = tokio::task::block_in_place(|| Program::start(folder.path()));
    (program, folder.path().join("data").display().to_string())
}

fn command(data: &str, arguments: &[&str]) -> String {
    let output = tokio::task::block_in_place(|| run(arguments, &[("MCPP_DATA", data)]));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output).trim().to_owned()
}

/// Lets `here` call tools of `there`; the id of `there`.
fn join(here: &Commanded, there: &str, tools: &str) -> String {
    let ticket = command(there, &["invite", "--tool", tools]);
    here.json(&["join", &ticket])["peer"].as_str().expect("an id").to_owned()
}

impl Commanded {
    /// The one mount.
    fn mount(&self) -> Value {
        self.json(&["mounts"])[0].clone()
    }

    async fn sum(&self, tool: &str) -> Value {
        self.test.call(tool, json!({ "a": 1, "b": 2 })).await["result"]["structuredContent"]["result"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_host_ends_its_call_with_a_clear_error_and_the_next_is_served_elsewhere() {
    let folder_c = folder(&[("probe", &guest("probe"))]);
    let (killed, c) = program(&folder_c);
    let d = Commanded::start(&[("probe", &guest("probe"))]).await;
    let a = Commanded::start(&[]).await;
    let (of_c, of_d) = (join(&a, &c, "probe_*"), join(&a, &d.data, "probe_*"));
    let mounted = a.json(&["mount", "far", "--peer", &of_c, "--peer", &of_d, "--tool", "probe_*"]);
    assert_eq!(mounted["tools"].as_array().map(Vec::len), Some(7), "{mounted}");
    assert_eq!(a.sum("far_probe_add").await, 3);
    assert!(a.json(&["peers"])["peers"][of_c.as_str()]["mounted"] == json!(["local/far"]));
    assert_eq!(a.json(&["info"])["mounts"][0]["name"], "far");

    let in_flight = |a: &Commanded| -> Vec<u64> {
        let peers = a.mount()["peers"].as_array().cloned().unwrap_or_default();
        peers.iter().map(|peer| peer["in_flight"].as_u64().expect("a number")).collect()
    };
    let sleep = || {
        let request = a.test.modern("tools/call", json!({ "name": "far_probe_sleep", "arguments": { "ms": 60_000 } }));
        tokio::spawn(async move { request.send().await.expect("an answer").text().await.expect("text") })
    };
    // Each goes to the less loaded of the two: soon both have some.
    let mut calls = Vec::new();
    while in_flight(&a).contains(&0) {
        assert!(calls.len() < 12, "all go to one: {:?}", in_flight(&a));
        calls.push(sleep());
        a.test.until("it runs", async |_| in_flight(&a).iter().sum::<u64>() == calls.len() as u64).await;
    }
    let elsewhere = in_flight(&a)[1];
    killed.kill();
    let (ended, ..) = futures::future::select_all(calls).await;
    let ended = ended.expect("no panic");
    let error = text_of(&parse_messages(&ended).expect("messages").pop().expect("an answer"));
    assert!(error.contains("went away") && error.contains("may have had effects"), "{error}");
    for _ in 0..10 {
        assert_eq!(a.sum("far_probe_add").await, 3, "served elsewhere");
    }
    assert_eq!(d.test.host.registry().calls() as u64, elsewhere, "the calls of the other host run on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_changed_tool_is_withheld_until_it_is_accepted_and_a_new_one_waits() {
    let there = Commanded::start(&[("add", &add())]).await;
    let here = Commanded::start(&[]).await;
    let peer = join(&here, &there.data, "*");
    let (listed, said, code) = here.run(&["mount", "far", "--peer", &peer, "--tool", "*"]);
    assert_eq!((listed.as_str(), code), ("mounted far_add", Some(0)), "{said}");
    assert!(said.contains("+ tool far_add(a, b)"), "the operator sees what a model will read: {said}");
    assert_eq!(here.sum("far_add").await, 3);

    let mut changes = here.test.host.registry().watch(&TenantId::local());
    changes.mark_unchanged();
    there.test.write("add", &number("add", "i32.const 7"));
    here.test.until("the change is seen", async |test| test.tools().await.is_empty()).await;
    here.test.until("clients are told", async |_| changes.has_changed().expect("watched")).await;
    assert!(here.test.text("far_add", json!({ "a": 1, "b": 2 })).await.contains("unknown tool"));
    assert_eq!(here.mount()["withheld"], json!(["far_add"]));
    assert!(here.test.problems().contains("mount far: withheld until the change is accepted: `far_add`"));
    let shown = here.run(&["accept", "--mount", "far", "--show"]).0;
    assert!(shown.contains("~ tool far_add: input schema:"), "{shown}");
    assert!(here.test.tools().await.is_empty(), "to look accepts nothing");
    assert!(here.refused(&["accept", "--mount", "far", "--revision", "0000"]).contains("waits is"));
    assert_eq!(here.run(&["accept", "--mount", "far"]).2, Some(0));
    assert_eq!(here.test.call("far_add", json!({})).await["result"]["structuredContent"]["result"], 7);

    there.test.write("more", &binary("more", "local.get 0"));
    here.test.until("it waits", async |_| !here.mount()["peers"][0]["waiting"].is_null()).await;
    assert_eq!(here.test.tools().await, ["far_add"], "a new tool waits, and the others stay");
    std::fs::remove_file(there.test.tools_folder().join("add.wasm")).expect("removed");
    here.test.until("what is gone there is gone here", async |test| test.tools().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn local_names_win_and_a_revoked_membership_takes_the_tools_away() {
    let there = Commanded::start(&[("add", &binary("add", "i32.const 99"))]).await;
    let here = Commanded::start(&[("probe", &guest("probe"))]).await;
    let nobody = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    let refused = here.refused(&["mount", "probe", "--peer", nobody, "--tool", "*"]);
    assert!(refused.contains("may call nothing of") && refused.contains("mcpp join"), "{refused}");
    let peer = join(&here, &there.data, "add");
    here.json(&["mount", "probe", "--peer", &peer, "--tool", "*"]);
    assert!(here.refused(&["mount", "probe", "--peer", &peer, "--tool", "*"]).contains("there is a mount `probe`"));
    assert_eq!(here.sum("probe_add").await, 3, "the component's own");
    assert_eq!(here.mount()["hidden"], json!(["probe_add"]));
    let problems = here.test.problems();
    assert!(problems.contains("names that are taken here: `probe_add` (of probe)"), "{problems}");
    std::fs::remove_file(here.test.tools_folder().join("probe.wasm")).expect("removed");
    here.test.until("the mounted one has the name", async |test| test.tools().await == ["probe_add"]).await;
    assert_eq!(here.sum("probe_add").await, 99);
    assert_eq!(here.json(&["peer", "revoke", &peer])["memberships"], 1);
    here.test.until("nothing of it is left", async |test| test.tools().await.is_empty()).await;
    assert_eq!(here.mount()["peers"][0]["state"], "no_member");
    assert_eq!(here.run(&["unmount", "probe"]).2, Some(0));
    assert!(here.refused(&["unmount", "probe"]).contains("there is no mount `probe`"));
    assert_eq!(here.test.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_host_that_stops_is_passed_over_and_no_call_fails() {
    let slow = |config: &mut mcpp::config::Config| config.server.drain_ms = 15_000;
    let stops = Commanded::start_with(folder(&[("probe", &guest("probe"))]), slow).await;
    let other = Commanded::start(&[("probe", &guest("probe"))]).await;
    let here = Commanded::start(&[]).await;
    let (first, second) = (join(&here, &stops.data, "probe_*"), join(&here, &other.data, "probe_*"));
    here.json(&["mount", "far", "--peer", &first, "--peer", &second, "--tool", "probe_add"]);
    // A call of its own keeps it from being gone.
    let request = modern_request(
        &stops.test.http,
        &stops.test.host.url(),
        "tools/call",
        json!({ "name": "probe_spin", "arguments": {} }),
    );
    let spinning = tokio::spawn(request.send());
    stops.test.until("the call runs", async |test| test.host.registry().calls() == 1).await;
    let Commanded { test, .. } = stops;
    let stopping = tokio::spawn(test.stop());
    here.test
        .until("it says that it stops", async |_| {
            assert_eq!(here.sum("far_probe_add").await, 3, "it is served elsewhere");
            here.mount()["peers"][0]["state"] != "ready"
        })
        .await;
    for _ in 0..20 {
        assert_eq!(here.sum("far_probe_add").await, 3);
    }
    assert!(here.test.metric("mcpp_mount_calls_elsewhere_total").await.iter().any(|line| line.contains("busy")));
    spinning.abort();
    stopping.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mount_outlasts_a_restart_and_the_first_call_after_one_waits_for_its_peer() {
    let there = Commanded::start(&[("add", &add())]).await;
    let here = Commanded::start(&[]).await;
    let peer = join(&here, &there.data, "add");
    here.json(&["mount", "far", "--peer", &peer, "--tool", "add"]);
    let addresses = there.test.host.mesh().expect("a mesh").addresses();
    let port = addresses.iter().find_map(|address| address.split("/tcp/").nth(1)?.split('/').next());
    let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{addresses:?}"));
    let (folder_here, folder_there) = (here.test.stop().await, there.test.stop().await);
    let same_port = move |config: &mut mcpp::config::Config| config.mesh.listen = vec![format!("127.0.0.1:{port}")];
    let _there = Commanded::start_with(folder_there, same_port).await;
    // A host that was killed may not have written its address book; the ticket's addresses are in the record.
    std::fs::remove_file(folder_here.path().join("data/mesh/peers.json")).expect("it was there");
    let here = Commanded::start_with(folder_here, |_| {}).await;
    let mesh = here.test.host.mesh().expect("a mesh").clone();
    let id = peer.parse().expect("an id");
    let opening = mesh.open(&id, mcpp::mcp::mesh::PROTOCOL, crate::support::PATIENCE);
    let opened = opening.await;
    assert!(opened.is_ok(), "{:?}", opened.err());
    let (sum, said, code) = here.run(&["call", "--peer", &peer, "add", "a=40", "b=2"]);
    assert_eq!((sum.as_str(), code), (r#"{"result":42}"#, Some(0)), "{said}");
    here.test.until("the mount is there again", async |_| here.sum("far_add").await == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mount_of_the_configuration_is_there_from_the_start_and_waits_to_be_accepted() {
    let there = Commanded::start(&[("add", &add())]).await;
    let first = Commanded::start(&[]).await;
    let peer = join(&first, &there.data, "*");
    let folder = first.test.stop().await;
    let text = format!("[mesh.mounts]\nfar = {{ peer = \"{peer}\", tools = [\"ad*\"] }}\n");
    let named = mcpp::config::Config::parse(&text).expect("legal").mesh.mounts;
    let here = Commanded::start_with(folder, |config| config.mesh.mounts = named.clone()).await;
    here.test
        .until("its tools wait", async |_| here.run(&["accept", "--mount", "far", "--show"]).0.contains("add"))
        .await;
    assert_eq!(here.test.tools().await, Vec::<String>::new(), "nothing is accepted yet");
    assert_eq!(here.run(&["accept", "--mount", "far"]).2, Some(0));
    here.test.until("it is served", async |_| here.sum("far_add").await == 3).await;
    // At the next start it is as it was accepted, and has the tools that the configuration names then.
    let folder = here.test.stop().await;
    let here = Commanded::start_with(folder, |config| config.mesh.mounts = named).await;
    here.test.until("it is served again", async |_| here.sum("far_add").await == 3).await;
    for (wrong, says) in [
        ("far = { tools = [\"a\"] }", "names 1 to 8 peers"),
        (&*format!("far = {{ peer = \"{peer}\", tools = [] }}"), "1 to 64 tools"),
        (&*format!("\"a b\" = {{ peer = \"{peer}\", tools = [\"a\"] }}"), "characters of a-z"),
    ] {
        let config = mcpp::config::Config::parse(&format!("[mesh.mounts]\n{wrong}\n")).expect("TOML");
        let refused = config.check().expect_err("not legal").to_string();
        assert!(refused.contains(says), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_mounted_call_that_runs_ends_when_either_side_revokes() {
    let there = Commanded::start(&[("probe", &guest("probe"))]).await;
    let here = Commanded::start(&[]).await;
    let (of_here, of_there) = (here.id().to_string(), there.id().to_string());
    join(&here, &there.data, "probe_*");
    here.json(&["mount", "far", "--peer", &of_there, "--tool", "probe_*"]);
    for (revoking, whom) in [(&here, &of_there), (&there, &of_here)] {
        here.test.until("it is served", async |_| here.sum("far_probe_add").await == 3).await;
        let request =
            here.test.modern("tools/call", json!({ "name": "far_probe_sleep", "arguments": { "ms": 600_000 } }));
        let sleeping =
            tokio::spawn(async move { request.send().await.expect("an answer").text().await.expect("text") });
        there.test.until("it runs there", async |test| test.host.registry().calls() == 1).await;
        assert_eq!(revoking.run(&["peer", "revoke", whom]).2, Some(0));
        assert_ne!(here.sum("far_probe_add").await, 3, "no call is begun any more");
        let ended = tokio::time::timeout(crate::support::PATIENCE, sleeping).await.expect("it ends").expect("no panic");
        let error = text_of(&parse_messages(&ended).expect("messages").pop().expect("an answer"));
        assert!(error.contains("may have had effects"), "{error}");
        there.test.until("it has ended there", async |test| test.host.registry().calls() == 0).await;
        join(&here, &there.data, "probe_*");
    }
}
