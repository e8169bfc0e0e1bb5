//! Effects of steps outside: a repetition is known by its key, at servers and in tools.

use serde_json::{Value, json};

use crate::{
    support::{TestHost, folder, grant, guest},
    upstream::{Answer, Upstream, ok},
    workflow::{ask, ended},
};

/// The value of a header of a request, if it has one.
fn header(request: &str, name: &str) -> Option<String> {
    let start = format!("{name}: ");
    let line = request.lines().find(|line| line.to_ascii_lowercase().starts_with(&start))?;
    Some(line[start.len()..].to_owned())
}

fn fetch(id: &str, method: &str, url: &str, needs: &[&str]) -> Value {
    json!({
        "step_id": id, "action": "web_fetch", "inputs": { "method": method, "url": url, "body": if method == "GET" { "" } else { id } },
        "depends_on": needs, "retry": { "max_attempts": 3, "backoff_s": 0 },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_repeated_has_the_same_key_and_no_other_request_has_it() {
    // The server does what it is asked, and its first answer is lost.
    let lost = std::sync::atomic::AtomicBool::new(true);
    let upstream = Upstream::start(move |request| {
        match request.starts_with("POST /pay") && lost.swap(false, std::sync::atomic::Ordering::SeqCst) {
            true => Answer::Bytes(Vec::new()),
            false => ok("done"),
        }
    })
    .await;
    let files = folder(&[("web", &guest("web")), ("caller", &guest("caller"))]);
    let url = format!("http://127.0.0.1:{}", upstream.port);
    let rule = |path: &str, more: &str| {
        format!("[[components.web.http]]\nurl = '{url}/{path}'\nmethods = ['GET', 'POST', 'PUT']\n{more}\n")
    };
    let rules = [
        rule("own/*", "idempotency_header = 'X-Request-Key'"),
        rule("none/*", "idempotency_header = ''"),
        rule("*", ""),
    ];
    grant(&files, &format!("[components.web]\nstore = {{}}\n{}[components.caller]\ncall = ['*']\n", rules.concat()));
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    let inner = json!({ "method": "POST", "url": format!("{url}/through"), "body": "x" });
    let steps = json!([
        fetch("pay", "POST", &format!("{url}/pay"), &[]),
        fetch("again", "POST", &format!("{url}/pay"), &["pay"]),
        fetch("look", "GET", &format!("{url}/look"), &[]),
        fetch("own", "PUT", &format!("{url}/own/x"), &[]),
        fetch("none", "POST", &format!("{url}/none/x"), &[]),
        { "step_id": "through", "action": "caller_call", "inputs": { "tool": "web_fetch", "arguments": inner } }
    ]);
    let submit = json!({ "workflow_id": "w", "name": "w", "steps": steps });
    assert_eq!(ask(&host, "workflow_submit", submit).await["success"], true);
    let result = ended(&host, "w").await;
    assert_eq!(result["status"], "completed", "{result}");
    let requests = upstream.requests();
    let keys = |path: &str, name: &str| -> Vec<Option<String>> {
        let of = requests.iter().filter(|request| request.lines().next().is_some_and(|line| line.contains(path)));
        of.map(|request| header(request, name)).collect()
    };
    let pay = keys("/pay", "idempotency-key");
    assert_eq!(pay.len(), 3, "{requests:?}");
    assert_eq!(pay[0], pay[1], "the repetition of the first step");
    assert_ne!(pay[1], pay[2], "another step");
    assert_eq!(keys("/look", "idempotency-key"), [None]);
    assert_eq!(keys("/none/", "idempotency-key"), [None]);
    assert_eq!(keys("/own/", "idempotency-key"), [None]);
    let mut all = [pay[1..].to_vec(), keys("/own/", "x-request-key"), keys("/through", "idempotency-key")].concat();
    assert!(all.iter().all(|key| key.as_ref().is_some_and(|key| key.len() == 64)), "{all:?}");
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!((all.len(), count), (4, 4));
    // A client's own call is repeated by nobody, and a key that the tool writes is the tool's.
    host.call("web_fetch", json!({ "method": "POST", "url": format!("{url}/plain") })).await;
    assert!(upstream.requests().last().is_some_and(|request| header(request, "idempotency-key").is_none()));
    let headers = json!({ "Idempotency-Key": "mine" });
    let steps = json!([{ "step_id": "a", "action": "web_fetch", "inputs": { "method": "POST", "url": format!("{url}/mine"), "headers": headers } }]);
    ask(&host, "workflow_submit", json!({ "workflow_id": "m", "name": "m", "steps": steps })).await;
    assert_eq!(ended(&host, "m").await["status"], "completed");
    assert!(
        upstream.requests().last().is_some_and(|request| header(request, "idempotency-key").as_deref() == Some("mine"))
    );
}
