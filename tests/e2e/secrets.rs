//! Secrets: in the request that may have them, and nowhere else.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use mcpp::{
    names::TenantId,
    secrets::{KeySource, SecretName, Secrets},
    tenant::home::Homes,
};
use serde_json::{Value, json};

use crate::{
    command_line::mcpp,
    support::{messages, modern_message},
    upstream::{DENIED, Upstream, WebHost, log, ok, raw, rule},
};

const VALUE: &str = "s3cr3t-\"value\"/of+the=key";

fn set(web: &WebHost, name: &str, value: &str) {
    let dir = web.host.folder.path().join("data");
    let secrets = Secrets::new(&Homes::new(dir.clone()).of(&TenantId::local()), KeySource::new(&dir, |_| None));
    secrets.set(&SecretName::new(name).expect("a name"), value.as_bytes()).expect("set");
}

/// A host whose component may send `API_KEY` to `api.test`.
async fn start(port: u16) -> WebHost {
    let web =
        WebHost::start(&format!("[components.web.secrets]\nAPI_KEY = ['http://api.test:{port}']\n{}", rule(port)))
            .await;
    set(&web, "API_KEY", VALUE);
    web
}

/// Nothing that this process has logged, and nothing that the tool said, has the value in any form.
fn nowhere(said: &str) {
    let log = log();
    for form in [VALUE, "s3cr3t-", "of+the=key"] {
        assert!(!said.contains(form), "{form} is in {said}");
        assert!(!log.contains(form), "{form} is in the log: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_goes_where_it_may_and_the_guest_never_sees_it() {
    let upstream = Upstream::start(|_| ok("thanks")).await;
    let web = start(upstream.port).await;
    let url = format!("http://api.test:{}/a?key={{{{secret:API_KEY}}}}&b=c", upstream.port);
    let headers = json!({ "authorization": "Bearer {{secret:API_KEY}}", "x-plain": "{secret:API_KEY}" });
    let said = web.fetch_with("POST", &url, json!({ "headers": headers, "body": "{{secret:API_KEY}}" })).await;
    assert!(said.contains("thanks"), "{said}");
    let request = upstream.requests().remove(0);
    let query = "POST /a?key=s3cr3t-%22value%22%2Fof%2Bthe%3Dkey&b=c HTTP/1.1\r\n";
    assert!(request.starts_with(query), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {VALUE}\r\n")), "{request}");
    assert!(request.contains("x-plain: {secret:API_KEY}\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{{secret:API_KEY}}"), "a body is sent as it is: {request}");
    nowhere(&said);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_to_a_wrong_origin_is_not_sent() {
    let (right, wrong) = (Upstream::start(|_| ok("a")).await, Upstream::start(|_| ok("b")).await);
    let grants = format!(
        "[components.web.secrets]\nAPI_KEY = ['http://api.test:{}']\n{}{}[[components.web.http]]\nurl = 'http://*.evil.test:{}'\naddresses = ['127.0.0.0/8']\n",
        right.port,
        rule(right.port),
        rule(wrong.port),
        right.port
    );
    let web = WebHost::start(&grants).await;
    set(&web, "API_KEY", VALUE);
    web.names.set("a.evil.test", &[&["127.0.0.1"]]);
    for url in [format!("http://api.test:{}/", wrong.port), format!("http://a.evil.test:{}/", right.port)] {
        // The request alone is allowed.
        assert!(web.fetch("GET", &url).await.contains("200"), "{url}");
        let (sent, named) = (right.connections() + wrong.connections(), web.names.asked().len());
        let headers = json!({ "headers": { "authorization": "Bearer {{secret:API_KEY}}" } });
        assert_eq!(web.fetch_with("GET", &url, headers).await, DENIED, "{url}");
        assert_eq!(web.fetch("GET", &format!("{url}?key={{{{secret:API_KEY}}}}")).await, DENIED, "{url}");
        assert_eq!((right.connections() + wrong.connections(), web.names.asked().len()), (sent, named), "{url}");
    }
    let log = log();
    assert!(log.contains("the secret API_KEY is not granted for http://a.evil.test"), "{log}");
    assert!(log.contains("[secrets]"), "{log}");
    nowhere("");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_components_secret_is_not_sent() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let grants = format!(
        "[components.other.secrets]\nTHEIRS = ['http://api.test:{0}']\n[components.web.secrets]\nMISSING = ['http://api.test:{0}']\n{1}",
        upstream.port,
        rule(upstream.port)
    );
    let web = WebHost::start(&grants).await;
    set(&web, "THEIRS", VALUE);
    for name in ["THEIRS", "MISSING", "NEVER_HEARD_OF"] {
        let headers = json!({ "headers": { "authorization": format!("{{{{secret:{name}}}}}") } });
        let url = format!("http://api.test:{}/", upstream.port);
        assert_eq!(web.fetch_with("GET", &url, headers).await, DENIED, "{name}");
    }
    assert_eq!(upstream.connections(), 0);
    assert!(log().contains("there is no secret MISSING; `mcpp secret set MISSING` makes it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placeholder_in_a_path_is_refused() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = start(upstream.port).await;
    for path in [
        "/{{secret:API_KEY}}",
        "/x/{{secret:API_KEY}}/y",
        "/%7B%7Bsecret:API_KEY%7D%7D",
        "/%7b{secret%3AAPI_KEY}}",
        "/{{secret:",
    ] {
        assert_eq!(web.fetch("GET", &format!("http://api.test:{}{path}", upstream.port)).await, DENIED, "{path}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_placeholder_is_refused() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = start(upstream.port).await;
    for value in [
        "{{secret:}}",
        "{{secret:API_KEY",
        "{{secret: API_KEY}}",
        "{{secret:api_key}}",
        "{{secret:API_KEY}} {{secret:../X}}",
    ] {
        let headers = json!({ "headers": { "authorization": value } });
        let url = format!("http://api.test:{}/", upstream.port);
        assert_eq!(web.fetch_with("GET", &url, headers).await, DENIED, "{value}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_would_end_its_header_is_not_sent() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = start(upstream.port).await;
    set(&web, "API_KEY", "s3cr3t-\r\nhost: evil.test");
    let headers = json!({ "headers": { "authorization": "{{secret:API_KEY}}" } });
    assert_eq!(web.fetch_with("GET", &format!("http://api.test:{}/", upstream.port), headers).await, DENIED);
    assert_eq!(upstream.connections(), 0);
    nowhere("");
}

/// An upstream that repeats what it was given, in every way it can.
fn echo(request: &str) -> crate::upstream::Answer {
    let given = request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default().to_owned();
    let target = request.split(' ').nth(1).unwrap_or_default();
    let body = format!("{given}\n{}\n{target}", json!({ "token": given }));
    raw(&format!(
        "HTTP/1.1 200 OK\r\nx-echo: {given}\r\nx-target: {target}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_comes_back_does_not_leave_the_call() {
    let upstream = Upstream::start(echo).await;
    let web = start(upstream.port).await;
    let query = "?k={{secret:API_KEY}}";
    for path in ["/", "/fail"] {
        let url = format!("http://api.test:{}{path}", upstream.port);
        let url = if path == "/" { format!("{url}{query}") } else { url };
        let meta = json!({ "progressToken": "p", "io.modelcontextprotocol/logLevel": "debug" });
        let arguments = json!({ "url": url, "authorization": "Bearer {{secret:API_KEY}}" });
        let params = json!({ "name": "web_gossip", "arguments": arguments, "_meta": meta });
        let answer = web.host.modern("tools/call", params.clone()).send().await.expect("an answer");
        let said = messages(answer).await;
        let text = serde_json::to_string(&said).expect("JSON");
        assert!(text.contains("{{secret:API_KEY}}"), "the placeholder stands there: {text}");
        assert!(said.len() > 1, "logs and progress came, too: {said:?}");
        nowhere(&text);
        let _same = modern_message("tools/call", params);
    }
    let sent = upstream.requests();
    assert!(sent.iter().all(|request| request.contains(&format!("authorization: Bearer {VALUE}\r\n"))), "{sent:?}");
    assert!(log().contains("Bearer {{secret:API_KEY}}"), "the guest's records are in the log, without it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_at_the_next_use() {
    let upstream = Upstream::start(|_| ok("a")).await;
    let web = start(upstream.port).await;
    let url = format!("http://api.test:{}/", upstream.port);
    let headers = json!({ "headers": { "authorization": "{{secret:API_KEY}}" } });
    for value in ["first-value", "other-value"] {
        set(&web, "API_KEY", value);
        assert!(web.fetch_with("GET", &url, headers.clone()).await.contains("200"));
        let request = upstream.requests().pop().expect("a request");
        assert!(request.contains(&format!("authorization: {value}\r\n")), "{request}");
    }
    std::fs::remove_file(web.host.folder.path().join("data/secrets.toml")).expect("removed");
    assert_eq!(web.fetch_with("GET", &url, headers).await, DENIED);
}

// The command.

fn secret(data: &Path, arguments: &[&str], value: &str) -> Output {
    let mut child = Command::new(mcpp())
        .arg("secret")
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("MCPP_SECRETS_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run");
    let _it_may_not_read = child.stdin.take().expect("piped").write_all(value.as_bytes());
    child.wait_with_output().expect("run")
}

#[test]
fn the_command_sets_lists_and_removes() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let text = |output: &Output| {
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let run = |arguments: &[&str], value: &str| {
        let output = secret(&data, arguments, value);
        (text(&output), output.status.code())
    };
    let silent = (String::new(), String::new());
    let settings = toml::from_str("version = 1").expect("settings");
    Homes::new(data.clone()).add(&TenantId::new("team-7").expect("legal"), settings).expect("made");
    assert_eq!(run(&["set", "API_KEY"], &format!("{VALUE}\n")), (silent.clone(), Some(0)));
    assert_eq!(run(&["set", "B", "--tenant", "team-7"], "other"), (silent.clone(), Some(0)));
    assert_eq!(run(&["list"], ""), (("API_KEY\n".into(), String::new()), Some(0)));
    let json: Value = serde_json::from_str(&run(&["list", "--json", "--tenant", "team-7"], "").0.0).expect("JSON");
    assert_eq!(json, json!(["B"]));
    for file in ["secrets.toml", "tenants/team-7/secrets.toml", "secrets.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let meta = std::fs::metadata(data.join(file)).expect(file);
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{file}");
        assert!(!std::fs::read_to_string(data.join(file)).expect(file).contains("s3cr3t"), "{file}");
    }
    let opened = Secrets::new(&Homes::new(data.clone()).of(&TenantId::local()), KeySource::new(&data, |_| None));
    assert_eq!(*opened.open(&SecretName::new("API_KEY").expect("a name")).expect("opened"), VALUE);
    assert_eq!(run(&["remove", "API_KEY"], ""), (silent, Some(0)));
    assert_eq!(run(&["remove", "API_KEY"], "").1, Some(1));
    let ((_, says), code) = run(&["set", "api-key"], VALUE);
    assert!(says.contains("is not a secret's name") && code == Some(1), "{says}");
    assert_eq!(run(&["set", "API_KEY", VALUE], "").1, Some(2), "a value is not typed where others read it");
}
