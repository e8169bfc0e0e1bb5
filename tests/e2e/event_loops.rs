//! Events that beget events: a chain has an end that an operator sees, a timer goes on for ever, and the others do not notice.

use std::path::Path;

use mcpp::{
    names::TenantId,
    tenant::{SCOPE_METRICS, home::Homes},
};
use serde_json::{Value, json};

use crate::{
    command_line::{run, stdout},
    store::result,
    support::{TestHost, folder, grant, guest},
    tenants::{User, team, token},
};

pub(crate) async fn told(host: &TestHost) -> Vec<String> {
    let told = result(host, "store_told", json!({})).await;
    told.as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

pub(crate) async fn host() -> TestHost {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['store_emit']\nsubscribe = ['other/*']\nstore = {}\n");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

/// The output of `mcpp events` for a host's data.
fn events(data: &Path, arguments: &[&str]) -> Vec<Value> {
    let data = data.display().to_string();
    let arguments = [&["events", "--json", "--data", &data], arguments].concat();
    let listed = tokio::task::block_in_place(|| run(&arguments, &[]));
    serde_json::from_str(&stdout(&listed)).expect("JSON")
}

pub(crate) fn parked(data: &Path) -> Vec<Value> {
    events(data, &[]).into_iter().filter(|event| event["reason"].is_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_events_ends_and_is_shown() {
    for (payload, key) in [("emit 1", "k"), ("through a tool", "k")] {
        let host = host().await;
        let data = host.folder.path().join("data");
        host.call("store_emit", json!({ "topic": "own", "key": key, "payloads": [payload] })).await;
        host.until("the last is parked", async |_| !parked(&data).is_empty()).await;
        // The client's own, and sixteen more, each of which the one before emitted.
        assert_eq!(told(&host).await.len(), 17, "{payload}");
        let parked = parked(&data);
        assert_eq!(parked.len(), 1, "{payload}");
        let reason = parked[0]["reason"].as_str().expect("text");
        assert!(reason.starts_with("a loop of events: "), "{reason}");
        assert_eq!((&parked[0]["topic"], &parked[0]["attempts"]), (&json!("store/own"), &json!(1)));
        let at = data.display().to_string();
        let info = tokio::task::block_in_place(|| run(&["info", "--json", "--data", &at], &[]));
        let info: Value = serde_json::from_str(&stdout(&info)).expect("JSON");
        let note = info["components"][0]["notes"].to_string();
        assert!(note.contains("a loop of events was stopped: store is told of `store/own`"), "{info}");
        let problems = tokio::task::block_in_place(|| run(&["tools", "--problems", "--data", &at], &[]));
        assert!(stdout(&problems).contains("a loop of events was stopped"), "{}", stdout(&problems));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_begins_another_chain() {
    let host = host().await;
    let data = host.folder.path().join("data");
    host.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["emit 1"] })).await;
    host.until("the last is parked", async |_| !parked(&data).is_empty()).await;
    let at = data.display().to_string();
    let retried = tokio::task::block_in_place(|| run(&["events", "--data", &at, "retry", "--all"], &[]));
    assert!(retried.status.success(), "{retried:?}");
    host.until("it goes on to the next end", async |host| told(host).await.len() == 34).await;
    host.until("the last is parked again", async |_| parked(&data).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timer_that_sets_itself_goes_on_for_longer_than_any_chain() {
    let host = host().await;
    host.call("store_wake", json!({ "key": "t", "at_ms": 0, "payload": "again 20" })).await;
    host.until("the last", async |host| told(host).await.len() == 21).await;
    assert_eq!(told(&host).await[20], "timer t again 0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_that_beget_two_each_do_not_hold_up_another_tenant() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let greedy = team(&data, "greedy", &[("store", &guest("store"))]);
    let modest = team(&data, "modest", &[("store", &guest("store"))]);
    let homes = Homes::new(data.clone());
    for name in ["greedy", "modest"] {
        let home = homes.of(&TenantId::new(name).expect("legal"));
        std::fs::create_dir_all(home.grants()).expect("made");
        let grant = "version = 1\ncall = ['store_emit']\nsubscribe = ['other/*']\nstore = {}\n";
        std::fs::write(home.grants().join("store.toml"), grant).expect("written");
    }
    let host = TestHost::start_with(files, |config| {
        config.engine.max_running = 64;
        config.engine.max_waiting = 64;
    })
    .await;
    let [greedy, modest] = [&greedy, &modest].map(|token| User::new(&host, token));
    let measuring =
        ["greedy", "modest"].map(|name| (name, User::new(&host, &token(&data, name, &[SCOPE_METRICS], &[]))));
    greedy.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["emit 2"] })).await;
    let delivered = async || {
        let mut numbers = [0, 0];
        for (number, measuring) in numbers.iter_mut().zip(&measuring) {
            let own = format!("tenant=\"{}\"", measuring.0);
            let (_, text) = measuring.1.status("/metrics").await;
            let lines = text.lines().filter(|line| line.starts_with("mcpp_deliveries_total") && line.contains(&own));
            *number = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        }
        numbers
    };
    host.until("they are many", async |_| delivered().await[0] > 200).await;
    // It stands in its own line: what another emits meanwhile is delivered, and its calls are served.
    for number in 0..5 {
        modest.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["hello"] })).await;
        host.until("it is delivered", async |_| delivered().await[1] > number).await;
        let admission = host.host.registry().admission();
        let (running, waiting, _) = admission.of(&TenantId::new("greedy").expect("legal"));
        assert!(running + waiting <= 16, "half of what may be delivered at once: {running} run, {waiting} wait");
    }
    assert!(delivered().await[0] < 100_000, "it had not ended by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deliveries_that_take_long_leave_half_of_the_permits_to_another_tenant() {
    let files = folder(&[]);
    let data = files.path().join("data");
    let greedy = team(&data, "greedy", &[("store", &guest("store")), ("other", &guest("store"))]);
    let modest = team(&data, "modest", &[("store", &guest("store"))]);
    let grant = "version = 1\ncall = ['store_emit']\nsubscribe = ['other/*']\nstore = {}\n";
    let renamed = format!("{grant}expose = ['store_emit']\nrename = {{ store_emit = 'other_emit' }}\n");
    for (place, text) in
        [("greedy/grants/store", grant), ("greedy/grants/other", &renamed), ("modest/grants/store", grant)]
    {
        std::fs::write(data.join("tenants").join(format!("{place}.toml")), text).expect("written");
    }
    let host = TestHost::start_with(files, |config| {
        config.engine.max_running = 64;
        config.engine.max_waiting = 64;
    })
    .await;
    let [greedy, modest] = [&greedy, &modest].map(|token| User::new(&host, token));
    // Each space has more to deliver than it may have under way, and both together as much as the host has permits.
    for number in 0..20 {
        for tool in ["store_emit", "other_emit"] {
            let key = format!("k{number}");
            let emitted = greedy.call(tool, json!({ "topic": "own", "key": key, "payloads": ["sleep"] })).await;
            assert!(emitted["result"]["isError"] != true && emitted.get("error").is_none(), "{emitted}");
        }
    }
    let (admission, id) = (host.host.registry().admission(), TenantId::new("greedy").expect("legal"));
    host.until("half of what may be delivered at once sleeps", async |_| admission.of(&id).1 >= 16).await;
    modest.call("store_emit", json!({ "topic": "own", "key": "k", "payloads": ["hello"] })).await;
    host.until("it is delivered", async |_| modest.text("store_told", json!({})).await.contains("hello")).await;
    assert_eq!(admission.of(&id), (0, 16, 0), "the rest stands in its own line");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_says_of_failed_deliveries_counts_with_the_records_of_guests() {
    let files = folder(&[("store", &guest("store"))]);
    grant(&files, "[components.store]\ncall = ['store_get']\nsubscribe = ['other/*']\nstore = {}\n");
    let host = TestHost::start_with(files, |config| {
        config.tenant_limits = toml::from_str("log_records_per_second = 1").expect("valid");
    })
    .await;
    // Each fails eight times before the host parks it. Ten lines may come at once, and one a second after that.
    for number in 0..20 {
        let key = format!("k{number}");
        let emitted = host.call("store_emit", json!({ "topic": "own", "key": key, "payloads": ["fail"] })).await;
        assert!(emitted["result"]["isError"] == false, "{emitted}");
    }
    host.until("lines are left out, and counted", async |host| {
        let lines = host.metric("mcpp_log_records_dropped_total").await;
        let of_tenant = lines
            .iter()
            .find_map(|line| line.strip_prefix(r#"mcpp_log_records_dropped_total{tenant="local",reason="records"} "#));
        of_tenant.is_some_and(|number| number.parse::<u64>().expect("a number") > 10)
    })
    .await;
}
