//! Requests of components end at their bounds: of headers, bodies, time and number, whatever a guest or an upstream does.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    http::limits,
    upstream::{Answer, DENIED, Upstream, WebHost, ok, raw, rule, upstreams},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guests_header_bomb_ends_its_call_and_nothing_else() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let said = web.host.text("web_field_bomb", json!({ "count": 40_000 })).await;
    assert_eq!(said, "error: the tool crashed: total size of fields exceeds limit");
    assert_eq!(web.host.text("web_field_bomb", json!({ "count": 300 })).await, r#"{"result":300}"#);
    let headers: serde_json::Map<_, _> = (0..300).map(|number| (format!("x-{number}"), json!("a"))).collect();
    let said =
        web.fetch_with("GET", &format!("http://api.test:{}/", upstream.port), json!({ "headers": headers })).await;
    assert!(said.starts_with("error: too large"), "{said}");
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_texts_are_not_kept_for_a_guest() {
    let web = WebHost::start(&rule(1)).await;
    assert_eq!(web.host.text("web_hoard", json!({})).await, r#"{"result":[false,false,false,true,true]}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_made_while_a_transaction_is_open() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let said =
        web.host.text("web_in_transaction", json!({ "url": format!("http://api.test:{}/", upstream.port) })).await;
    assert!(said.contains("transaction-open"), "{said}");
    assert_eq!(upstream.connections(), 0);
}

// Legal answers of an upstream.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstreams_header_bomb_is_refused() {
    let fields = |count: u32| (0..count).map(|number| format!("x-{number}: a\r\n")).collect::<String>();
    let heads = [fields(40_000), fields(300), format!("x: {}\r\n", "a".repeat(1 << 20))];
    let answers = heads.map(|head| raw(&format!("HTTP/1.1 200 OK\r\n{head}content-length: 0\r\n\r\n")));
    let (upstreams, web) = upstreams(answers.into(), |_| {}).await;
    for upstream in upstreams {
        let said = web.get(&upstream).await;
        assert!(said.starts_with("error: too large"), "{said}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_without_end_end_at_the_budget_on_threads_of_their_own() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = format!("64\r\n{}\r\n", "a".repeat(100)).into_bytes();
    let upstream = Upstream::start(move |_| Answer::Endless(head.clone(), chunk.repeat(100))).await;
    let web = WebHost::start_with(&rule(upstream.port), limits("http_bytes = 1000000")).await;
    let before = crate::limits::thread_ns("mcpp-outbound");
    let said = web.get(&upstream).await;
    assert!(said.contains("http_bytes"), "{said}");
    let used = crate::limits::thread_ns("mcpp-outbound") - before;
    assert!(used > 1_000_000, "{used} ns for some 9,000 chunks");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_are_passed_over_and_too_many_end_the_request() {
    let hints = |number: usize| "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n".repeat(number);
    let few = raw(&format!("{}HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na", hints(16)));
    let endless = Answer::Endless(Vec::new(), hints(1_000).into_bytes());
    let (upstreams, web) = upstreams(vec![few, endless], limits("http_bytes = 1000000")).await;
    let said = web.get(&upstreams[0]).await;
    assert!(said.contains(r#""status":200"#) && said.contains(r#""body":"a""#), "{said}");
    let said = web.get(&upstreams[1]).await;
    assert!(said.starts_with("error: the answer is not valid"), "{said}");
    web.host.until("the connection has ended", async |_| upstreams[1].left() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_bomb_ends_at_the_budget() {
    let upstream = Upstream::start(|_| ok(&"a".repeat(3 << 20))).await;
    let web = WebHost::start_with(&rule(upstream.port), limits("http_bytes = 1000000")).await;
    let url = format!("http://api.test:{}/", upstream.port);
    let stopped = "error: budget `http_bytes` exceeded: the tool was stopped at 1000000";
    assert_eq!(web.fetch("GET", &url).await, stopped);
    assert_eq!(web.host.text("web_post", json!({ "url": url, "bytes": 2_000_000 })).await, stopped);
    assert!(web.host.metric("mcpp_guests_dropped_total").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_ends_ends_at_the_budget() {
    let chunk = format!("4000\r\n{}\r\n", "a".repeat(0x4000));
    let endless = |first: &str, again: &str| Answer::Endless(first.as_bytes().to_vec(), again.as_bytes().to_vec());
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let answers = vec![
        endless(chunked, &chunk),
        endless("HTTP/1.1 200 OK\r\n\r\n", &"a".repeat(1000)),
        endless("", &"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100)),
        endless(chunked, &format!("1;ext={}\r\na\r\n", "a".repeat(1000))),
        endless(&format!("{chunked}0\r\n"), &"trailer: a\r\n".repeat(100)),
    ];
    let (upstreams, web) = upstreams(answers, limits("http_bytes = 1000000")).await;
    for upstream in upstreams {
        let said = web.get(&upstream).await;
        // The host refuses bytes that are no part of a body much earlier.
        let stopped = said == "error: budget `http_bytes` exceeded: the tool was stopped at 1000000";
        let refused = ["error: the connection failed", "error: the answer is not valid"];
        assert!(stopped || refused.iter().any(|refused| said.starts_with(refused)), "{said}");
        web.host.until("the connection has ended", async |_| upstream.left() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upstream_ends_at_the_deadline() {
    let silence = |text: &str| Answer::Silence(text.as_bytes().to_vec());
    let answers = [silence(""), silence("HTTP/1.1 200"), silence("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")];
    let (upstreams, web) = upstreams(answers.into(), limits("deadline_ms = 300")).await;
    for upstream in upstreams {
        let started = Instant::now();
        let said = web.get(&upstream).await;
        assert_eq!(said, "error: budget `deadline_ms` exceeded: the tool was stopped at 300");
        assert!(started.elapsed() < Duration::from_secs(10));
        web.host.until("the connection has ended", async |_| upstream.left() == 1).await;
        let dropped = web.host.metric("mcpp_guests_dropped_total").await;
        assert!(dropped.is_empty(), "it was not woken but dropped: {dropped:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_wait_less_than_it_could() {
    let silence = |text: &str| Answer::Silence(text.as_bytes().to_vec());
    let trickle = Answer::Trickle(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), b"a".to_vec(), Duration::from_millis(20));
    let answers = [silence(""), silence("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), trickle];
    let (upstreams, web) = upstreams(answers.into(), limits("deadline_ms = 1200")).await;
    let mut said = Vec::new();
    for upstream in &upstreams {
        let url = format!("http://api.test:{}/", upstream.port);
        said.push(web.fetch_with("GET", &url, json!({ "timeout_ms": 400 })).await);
    }
    assert!(said[0].starts_with("error: it took too long"), "{said:?}");
    assert!(said[1].starts_with("error: it took too long"), "{said:?}");
    // A piece now and then is in time, for ever: the deadline is what ends it.
    assert_eq!(said[2], "error: budget `deadline_ms` exceeded: the tool was stopped at 1200");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_ends_its_connection() {
    let upstream = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let arguments = json!({ "method": "GET", "url": format!("http://api.test:{}/", upstream.port) });
    let call = web.host.modern("tools/call", json!({ "name": "web_fetch", "arguments": arguments })).send();
    let call = tokio::spawn(call);
    web.host.until("the request is there", async |_| upstream.requests().len() == 1).await;
    assert_eq!(upstream.left(), 0);
    call.abort();
    web.host.until("the connection has ended", async |_| upstream.left() == 1).await;
    web.host.until("the instance is gone", async |host| host.host.registry().calls() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_requests_end_the_call() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start_with(&rule(upstream.port), limits("http_requests = 3")).await;
    let url = format!("http://api.test:{}/", upstream.port);
    assert_eq!(web.host.text("web_many", json!({ "url": url, "count": 3 })).await, r#"{"result":3}"#);
    let said = web.host.text("web_many", json!({ "url": url, "count": 1000 })).await;
    assert_eq!(said, "error: budget `http_requests` exceeded: the tool was stopped at 3");
    assert_eq!(upstream.connections(), 6);
    // A refused request is one, too.
    let said = web.host.text("web_many", json!({ "url": "http://evil.test/", "count": 1 })).await;
    assert_eq!(said, DENIED);
}
