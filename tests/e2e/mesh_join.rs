//! Two hosts and the program's commands: invite, join, the first call, the list of peers, revocation, and tickets that open nothing. Over the real network, on loopback.

use mcpp::{config::Config, mesh::PeerId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    command_line::{run, stderr, stdout},
    support::{TestHost, add, folder, guest},
};

/// A host whose commands are run with its data directory.
pub struct Commanded {
    pub test: TestHost,
    pub data: String,
}

impl Commanded {
    pub async fn start(components: &[(&str, &[u8])]) -> Self {
        Self::start_with(folder(components), |_| {}).await
    }

    pub async fn start_with(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let test = TestHost::start_with(folder, change).await;
        let data = test.folder.path().join("data").display().to_string();
        Self { test, data }
    }

    pub fn run(&self, arguments: &[&str]) -> (String, String, Option<i32>) {
        let environment = [("MCPP_DATA", self.data.as_str())];
        let output = tokio::task::block_in_place(|| run(arguments, &environment));
        (stdout(&output).trim().to_owned(), stderr(&output).trim().to_owned(), output.status.code())
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let (out, err, code) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        serde_json::from_str(&out).expect("JSON")
    }

    pub fn refused(&self, arguments: &[&str]) -> String {
        let (_, err, code) = self.run(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {err}");
        err
    }

    pub fn ticket(&self, more: &[&str]) -> String {
        let (ticket, said, code) = self.run(&[&["invite", "--tool", "add"], more].concat());
        assert_eq!(code, Some(0), "{said}");
        assert!(ticket.starts_with("mcpp-ticket_") && said.contains("mcpp join"), "{ticket} {said}");
        ticket
    }

    pub fn id(&self) -> PeerId {
        self.test.host.mesh().expect("a mesh").id().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_command_on_each_side_and_the_first_call_works() {
    let there = Commanded::start(&[("add", &add()), ("probe", &guest("probe"))]).await;
    let here = Commanded::start(&[]).await;
    let (peer, me) = (there.id(), here.id());
    let ticket = there.ticket(&["--for", "1h", "--uses", "1"]);
    let joined = here.json(&["join", &ticket]);
    assert_eq!((&joined["peer"], &joined["allowed"]["tools"]), (&json!(peer), &json!(["add"])), "{joined}");
    // Each argument that is JSON is taken as such; the schema is there.
    let (sum, said, code) = here.run(&["call", "--peer", peer.as_str(), "add", "a=40", "b=2"]);
    assert_eq!((sum.as_str(), code), (r#"{"result":42}"#, Some(0)), "{said}");
    assert!(here.refused(&["call", "--peer", peer.as_str(), "probe_add", "a=1", "b=2"]).contains("unknown tool"));
    // Who joined may call; the host that invited may not.
    assert!(there.refused(&["call", "--peer", me.as_str(), "add", "a=1", "b=2"]).contains("unknown tool"));
    let seen = here.json(&["peers"]);
    let row = &seen["peers"][peer.as_str()];
    assert_eq!((&row["path"], &row["may_be_called"]["local"]["tools"]), (&json!("direct"), &json!(["add"])), "{seen}");
    assert_eq!(row["may_call_here"], Value::Null);
    let seen = there.json(&["peers"]);
    assert_eq!(seen["peers"][me.as_str()]["may_call_here"]["tools"], json!(["add"]), "{seen}");
    assert!(there.run(&["peers"]).0.contains("local: add"), "{:?}", there.run(&["peers"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_ticket_that_is_stolen_used_up_changed_revoked_or_ended_is_refused_by_name() {
    let there = Commanded::start(&[("add", &add())]).await;
    let (here, thief) = (Commanded::start(&[]).await, Commanded::start(&[]).await);
    let ticket = there.ticket(&[]);
    here.json(&["join", &ticket]);
    assert!(thief.refused(&["join", &ticket]).contains("(used_up)"), "stolen, or a second use");
    let own = there.ticket(&["--peer", here.id().as_str()]);
    assert!(thief.refused(&["join", &own]).contains("(other_peer)"));
    let mut wider = mcpp::peers::ticket::JoinTicket::parse(&there.ticket(&[])).expect("a ticket");
    wider.tools = vec!["*".parse().expect("a pattern")];
    assert!(thief.refused(&["join", &wider.text().expect("text")]).contains("(other_tools)"));
    let revoked = there.json(&["invite", "--tool", "add"]);
    there.run(&["peer", "revoke", revoked["invitation"].as_str().expect("an id")]);
    assert!(thief.refused(&["join", revoked["ticket"].as_str().expect("a ticket")]).contains("(unknown)"));
    let short = there.ticket(&["--for", "1ms"]);
    assert!(thief.refused(&["join", &short]).contains("expired"));
    assert!(thief.refused(&["join", "mcpp-ticket_x"]).contains("damaged"));
    assert!(there.refused(&["join", &there.ticket(&[])]).contains("this host's own"));
    assert!(there.refused(&["invite", "--tool", "add", "--tenant", "nobody"]).contains("no tenant `nobody`"));
    let rights = &there.json(&["peers"])["peers"];
    assert_eq!(rights[thief.id().as_str()]["may_call_here"], Value::Null, "{rights}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_in_force_at_once_also_for_a_call_that_runs() {
    let there = Commanded::start(&[("probe", &guest("probe"))]).await;
    let here = Commanded::start(&[]).await;
    let (peer, me) = (there.id(), here.id());
    let invited = there.json(&["invite", "--tool", "probe_*"]);
    here.json(&["join", invited["ticket"].as_str().expect("a ticket")]);
    let data = here.data.clone();
    let spinning = tokio::task::spawn_blocking(move || {
        run(&["call", "--peer", peer.as_str(), "probe_spin", "--timeout", "60"], &[("MCPP_DATA", &data)])
    });
    there.test.until("the call runs", async |test| test.host.registry().calls() == 1).await;
    let revoked = there.json(&["peer", "revoke", me.as_str()]);
    assert_eq!(revoked["grants"], 1);
    let output = spinning.await.expect("no panic");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    there.test.until("the call has ended", async |test| test.host.registry().calls() == 0).await;
    let peer = there.id();
    let refused = here.refused(&["call", "--peer", peer.as_str(), "probe_add", "a=1", "b=2"]);
    assert!(refused.contains("no grant here") || refused.contains("reached"), "{refused}");
    // The ticket was for one use: revoked is revoked.
    let again = here.refused(&["join", invited["ticket"].as_str().expect("a ticket")]);
    assert!(again.contains("(used_up)"), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_operators_call_tells_of_its_progress() {
    let there = Commanded::start(&[("probe", &guest("probe"))]).await;
    let here = Commanded::start(&[]).await;
    let peer = there.id();
    let (ticket, ..) = there.run(&["invite", "--tool", "*"]);
    here.json(&["join", &ticket]);
    let order = json!({ "peer": peer, "tool": "probe_sleep", "arguments": { "ms": 50 }, "timeout_ms": 20_000 });
    let socket = std::path::Path::new(&here.data).join("mcpp.sock");
    let client = reqwest::Client::builder().unix_socket(socket).build().expect("a client");
    let asked = client.post("http://localhost/peers/call?tenant=local").json(&order).send().await.expect("an answer");
    let text = asked.text().await.expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let (last, before) = lines.split_last().expect("lines");
    assert!(!before.is_empty() && before.iter().all(|line| line["progress"]["done"].is_number()), "{text}");
    assert_eq!(last["done"]["error"], Value::Null, "{text}");
}
