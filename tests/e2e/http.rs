//! Components that make requests: what their rules allow goes out, and no trick of a guest, a name or an upstream gets further.

use mcpp::config::Config;
use serde_json::{Value, json};

use crate::{
    command_line,
    support::{TestHost, folder, grant, guest},
    upstream::{DENIED, Upstream, WebHost, log, ok, raw, rule, upstreams},
};

pub(crate) fn limits(text: &str) -> impl FnOnce(&mut Config) {
    let config = Config::parse(&format!("[limits]\n{text}")).expect("valid limits");
    move |target| target.limits = config.limits
}

/// The answer of `web_fetch`, if it was one.
pub(crate) fn answered(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) fn body(text: &str) -> String {
    answered(text)["body"].as_str().expect("a body").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_a_rule_allows_goes_out() {
    let upstream = Upstream::start(|_| ok("hello")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let url = format!("http://API.test:{}/a/b?c=d", upstream.port);
    let answer = web.fetch_with("POST", &url, json!({ "headers": { "x-mine": "1" }, "body": "text" })).await;
    assert_eq!(body(&answer), "hello");
    let request = upstream.requests().remove(0);
    let mut lines = request.lines();
    assert_eq!(lines.next(), Some("POST /a/b?c=d HTTP/1.1"));
    let host = format!("host: api.test:{}", upstream.port);
    for line in [&*host, "x-mine: 1", "content-length: 4", "connection: close"] {
        assert!(request.lines().any(|found| found == line), "{line} is not in {request}");
    }
    assert!(request.ends_with("\r\n\r\ntext"), "{request}");
    let metric = |name: &'static str| web.host.metric(name);
    assert_eq!(
        metric("mcpp_http_requests_total").await,
        [r#"mcpp_http_requests_total{tenant="local",tool="web_fetch"} 1"#]
    );
    assert!(!metric("mcpp_http_bytes_total").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rule_the_component_does_not_load() {
    let host = TestHost::start(&[("web", &guest("web"))]).await;
    grant(&host.folder, "[components.web]\nstore = {}\n");
    host.host.reload().await.expect("reloaded");
    let problems = host.problems();
    assert!(problems.contains("needs the capability `http`"), "{problems}");
    assert!(problems.contains(r#"add `http = [{ url = "https://HOST/*" }]` to `grants/web.toml`"#), "{problems}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_requests_imports_no_http() {
    let folder = folder(&[("probe", &guest("probe")), ("web", &guest("web"))]);
    for (name, imports) in [("probe", false), ("web", true)] {
        let file = folder.path().join(format!("tools/{name}.wasm")).display().to_string();
        let output = tokio::task::spawn_blocking(move || command_line::run(&["inspect", "--json", &file], &[]));
        let text = command_line::stdout(&output.await.expect("run"));
        assert!(text.contains("wasi:io/"), "{text}");
        assert_eq!(text.contains("wasi:http/"), imports, "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_logged_with_the_rule_that_would_allow_it() {
    let web = WebHost::start(&rule(1)).await;
    assert_eq!(web.fetch("DELETE", "https://other.test/v1/x?token=hush").await, DENIED);
    let log = log();
    for says in ["no rule allows DELETE https://other.test/v1/x", "[[http]]", "methods = [\\\"DELETE\\\"]"] {
        assert!(log.contains(says), "{says} is not in {log}");
    }
    let denials: String = log.lines().filter(|line| line.contains("was denied")).collect();
    assert!(!denials.contains("hush"), "a query may be confidential: {denials}");
}

// Where a request may go.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_resolves_to_an_inner_address_is_denied() {
    let upstream = Upstream::start(|_| ok("inside")).await;
    let v6 = Upstream::at("::1", upstream.port, |_| ok("inside")).await;
    // 127.0.0.1 itself is allowed to `api.test`, and in no other form.
    let grants =
        format!("{}[[components.web.http]]\nurl = 'http://*.public.test:{}'\n", rule(upstream.port), upstream.port);
    let web = WebHost::start(&grants).await;
    for address in [
        "127.0.0.1",
        "127.0.0.2",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "fd00:ec2::254",
        "fe80::1",
        "224.0.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "2001:db8::1",
    ] {
        web.names.set("a.public.test", &[&[address]]);
        let url = format!("http://a.public.test:{}/", upstream.port);
        assert_eq!(web.fetch("GET", &url).await, DENIED, "{address}");
        if address != "127.0.0.1" {
            web.names.set("api.test", &[&[address]]);
            let url = format!("http://api.test:{}/", upstream.port);
            assert_eq!(web.fetch("GET", &url).await, DENIED, "{address}");
        }
    }
    assert_eq!((upstream.connections(), v6.connections()), (0, 0));
    assert!(log().contains("has the address 169.254.169.254, which is not public"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_inner_address_among_public_ones_denies_the_name() {
    let upstream = Upstream::start(|_| ok("inside")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    web.names.set("api.test", &[&["127.0.0.1", "10.0.0.1"]]);
    assert_eq!(web.fetch("GET", &format!("http://api.test:{}/", upstream.port)).await, DENIED);
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_written_out_is_denied_unless_a_rule_names_it() {
    let upstream = Upstream::start(|_| ok("inside")).await;
    let port = upstream.port;
    let web = WebHost::start(&rule(port)).await;
    for host in [
        "127.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "localhost",
    ] {
        let said = web.fetch("GET", &format!("http://{host}:{port}/latest/meta-data")).await;
        assert_eq!(said, DENIED, "{host}");
    }
    assert_eq!((upstream.connections(), web.names.asked()), (0, Vec::<String>::new()));
    let named = WebHost::start(&format!("[[components.web.http]]\nurl = 'http://127.0.0.1:{port}'\n")).await;
    assert_eq!(body(&named.fetch("GET", &format!("http://127.0.0.1:{port}/")).await), "inside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_answers_differently_the_second_time_gains_nothing() {
    let good = Upstream::start(|_| ok("checked")).await;
    let bad = Upstream::at("127.0.0.2", good.port, |_| ok("not checked")).await;
    let web = WebHost::start(&rule(good.port)).await;
    web.names.set("api.test", &[&["127.0.0.1"], &["127.0.0.2"]]);
    let url = format!("http://api.test:{}/", good.port);
    assert_eq!(body(&web.fetch("GET", &url).await), "checked");
    assert_eq!(web.names.asked(), ["api.test"], "looked up once, where it was checked");
    assert_eq!(web.fetch("GET", &url).await, DENIED);
    assert_eq!((good.connections(), bad.connections()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_names_that_a_rule_allows_are_looked_up() {
    let web = WebHost::start(&rule(80)).await;
    for url in
        ["http://secret-data.evil.test/", "http://x.api.test:80/", "https://api.test/", "http://api.test.evil.test/"]
    {
        assert_eq!(web.fetch("GET", url).await, DENIED, "{url}");
    }
    assert_eq!(web.names.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_port_is_denied() {
    let (allowed, other) = (Upstream::start(|_| ok("a")).await, Upstream::start(|_| ok("b")).await);
    let web = WebHost::start(&rule(allowed.port)).await;
    assert_eq!(web.fetch("GET", &format!("http://api.test:{}/", other.port)).await, DENIED);
    assert_eq!(other.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_is_denied() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    for method in ["DELETE", "PUT", "PATCH", "OPTIONS", "PURGE", "get"] {
        assert_eq!(web.fetch(method, &format!("http://api.test:{}/", upstream.port)).await, DENIED, "{method}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_does_not_escape_its_rule() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let port = upstream.port;
    let web = WebHost::start(&format!(
        "[[components.web.http]]\nurl = 'http://api.test:{port}/v1/*'\naddresses = ['127.0.0.0/8']\n"
    ))
    .await;
    for path in [
        "/v10/x",
        "/v1",
        "/",
        "/admin",
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E%2E%2fadmin",
        "/v1/..%2fadmin",
        "/v1//admin",
        "//v1/x",
        "/v1/..;/admin",
        "/v1/%252e%252e/admin",
        "/%76%31/x",
        "/v1/x%5c..%5cadmin",
        "/V1/x",
        "?/v1/x",
    ] {
        assert_eq!(web.fetch("GET", &format!("http://api.test:{port}{path}")).await, DENIED, "{path}");
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(body(&web.fetch("GET", &format!("http://api.test:{port}/v1/x?y=/../z")).await), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_before_the_host_is_denied() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    for authority in [format!("user:word@api.test:{}", upstream.port), format!("api.test:{}@evil.test", upstream.port)]
    {
        assert_eq!(web.fetch("GET", &format!("http://{authority}/")).await, DENIED, "{authority}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_an_answer_and_following_it_is_another_request() {
    let inside = Upstream::start(|_| ok("inside")).await;
    let to = format!("http://127.0.0.1:{}/", inside.port);
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
    let upstream = Upstream::start(move |_| raw(&answer)).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let url = format!("http://api.test:{}/", upstream.port);
    let said = answered(&web.fetch("GET", &url).await);
    assert_eq!((&said["status"], &said["headers"]["location"]), (&json!(302), &json!(to)));
    assert_eq!(web.host.text("web_follow", json!({ "url": url })).await, DENIED);
    assert_eq!((upstream.connections(), inside.connections()), (2, 0));
}

// Legal requests.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_header_is_not_the_guests() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let url = format!("http://api.test:{}/", upstream.port);
    for name in ["host", "Host", "connection", "transfer-encoding", "upgrade", "proxy-connection", "keep-alive"] {
        let said = web.fetch_with("GET", &url, json!({ "headers": { name: "evil.test" } })).await;
        assert!(said.starts_with("error: the request is not valid: the header"), "{name}: {said}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_would_be_read_as_another_request_is_written() {
    let web = WebHost::start(&rule(1)).await;
    let said = web.host.text("web_smuggle", json!({})).await;
    let said: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    let tries = said["result"].as_array().expect("a list");
    assert!(tries.len() > 15, "{tries:?}");
    for said in tries {
        assert!(said.as_str().expect("text").contains("Err("), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_is_not_the_bodys_is_not_sent() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let url = format!("http://api.test:{}/", upstream.port);
    for length in ["3", "100", "0"] {
        let more = json!({ "headers": { "content-length": length }, "body": "0123456789" });
        let _said = web.fetch_with("POST", &url, more).await;
    }
    let said = web.fetch_with("GET", &url, json!({ "headers": { "content-length": "5" } })).await;
    assert!(said.starts_with("error: "), "{said}");
    // The host cuts off a longer body, breaks off a shorter one, and writes nothing after either.
    for request in upstream.requests() {
        let (head, body) = request.split_once("\r\n\r\n").expect("a head");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        assert_eq!(body.len().to_string(), length, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_two_lengths_is_not_two_answers() {
    let hidden = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhidden";
    let heads = [
        ("content-length: 1\r\ncontent-length: 5\r\n\r\na", "error: the answer is not valid"),
        ("content-length: 1, 5\r\n\r\na", "error: the answer is not valid"),
        ("content-length: -1\r\n\r\na", "error: the answer is not valid"),
        ("transfer-encoding: chunked\r\n\r\nzz\r\na\r\n0\r\n\r\n", "error: the connection failed"),
        ("transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\na\r\n0\r\n\r\n", "error: the connection failed"),
    ];
    let answers = heads.map(|(head, _)| raw(&format!("HTTP/1.1 200 OK\r\n{head}{hidden}")));
    let (upstreams, web) = upstreams(answers.into(), |_| {}).await;
    for (upstream, (head, says)) in upstreams.iter().zip(heads) {
        let said = web.get(upstream).await;
        assert!(said.starts_with(says), "{head:?} gave {said}");
    }
    // Both forms at once: the chunks count (RFC 9112, 6.3), and what comes after them is nobody's answer.
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n{hidden}"
    );
    let upstream = Upstream::start(move |_| raw(&answer)).await;
    let web = WebHost::start(&rule(upstream.port)).await;
    let url = format!("http://api.test:{}/", upstream.port);
    assert_eq!(body(&web.fetch("GET", &url).await), "a");
    assert_eq!(body(&web.fetch("GET", &url).await), "a");
    assert_eq!(upstream.connections(), 2, "a connection carries one request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_there_is_said_to_be_so() {
    let gone = Upstream::start(|_| raw("")).await;
    let free =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address").port();
    let grants = format!("{}{}[[components.web.http]]\nurl = 'http://nobody.test'\n", rule(gone.port), rule(free));
    let web = WebHost::start(&grants).await;
    for (url, says) in [
        (
            format!("http://api.test:{}/", gone.port),
            "error: the answer is not valid: ErrorCode::HttpResponseIncomplete",
        ),
        (format!("http://api.test:{free}/"), "error: the connection failed"),
        ("http://nobody.test/".to_owned(), "error: the host was not found"),
    ] {
        let said = web.fetch("GET", &url).await;
        assert!(said.starts_with(says), "{url}: {said}");
    }
}

// TLS.

/// A private authority: its certificate in PEM, and a server's for these names.
fn authority(names: &[&str]) -> (String, tokio_rustls::TlsAcceptor) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("a root");
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let server = CertificateParams::new(names).expect("names").signed_by(&server_key, &issuer).expect("signed");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(server_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], private)
        .expect("a server");
    (root.pem(), tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_shows_who_it_is() {
    let (pem, tls) = authority(&["api.test"]);
    let (_, foreign) = authority(&["api.test"]);
    let (good, bad) =
        (Upstream::secure(tls, |_| ok("secure")).await, Upstream::secure(foreign, |_| ok("foreign")).await);
    let plain = Upstream::rude(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain").await;
    let mut grants: String = [good.port, bad.port, plain.port]
        .map(|port| format!("[[components.web.http]]\nurl = 'https://api.test:{port}'\naddresses = ['127.0.0.0/8']\n"))
        .concat();
    grants +=
        &format!("[[components.web.http]]\nurl = 'https://other.test:{}'\naddresses = ['127.0.0.0/8']\n", good.port);
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), pem).expect("written");
    let web = WebHost::start_with(&grants, |config| config.outbound.ca_file = Some(ca.path().to_owned())).await;
    web.names.set("other.test", &[&["127.0.0.1"]]);
    let fetch = async |name: &str, port: u16| web.fetch("GET", &format!("https://{name}:{port}/")).await;
    assert_eq!(body(&fetch("api.test", good.port).await), "secure");
    for (name, port) in [("api.test", bad.port), ("api.test", plain.port), ("other.test", good.port)] {
        let said = fetch(name, port).await;
        assert!(said.starts_with("error: TLS failed"), "{name}: {said}");
    }
    assert_eq!((bad.requests().len(), good.requests().len()), (0, 1));
}
