//! The registry of peers against a server that behaves as GitHub's REST interface does: pages, tags, limits, outages, and others who write at the same time.

mod defences;

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Response},
};
use mcpp::{
    names::TenantId,
    secrets::{KeySource, SecretName, Secrets},
    tenant::home::Homes,
};
use serde_json::{Value, json};

use crate::{
    support::{TestHost, folder, grant},
    taskqueue::ask,
};

const TOKEN: &str = "ghp_s3cr3t";
const TITLE: &str = "p2p-peer-registry";

/// What the server has, and how it behaves.
#[derive(Default)]
struct Github {
    /// Titles by number; a pull request is an issue too.
    issues: BTreeMap<u64, (String, bool)>,
    /// Comments by id: their issue and body.
    comments: BTreeMap<u64, (u64, String)>,
    last: u64,
    /// Answers so far: method, path, status.
    answers: Vec<(String, String, u16)>,
    /// The status and headers of every answer, while GitHub allows nothing.
    limit: Option<(u16, Vec<(&'static str, String)>)>,
    /// Answers of 503 that come first.
    outages: usize,
    /// Another host makes its issue just before this host's.
    races: bool,
    /// Somebody deletes each comment just before it is changed or deleted.
    vanishes: bool,
}

impl Github {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn comment(&mut self, issue: u64, body: &str) -> u64 {
        let id = self.next();
        self.comments.insert(id, (issue, body.to_owned()));
        id
    }

    fn count(&self, method: &str) -> usize {
        self.answers.iter().filter(|(of, ..)| of == method).count()
    }

    fn issue(number: u64, title: &str, is_pull: bool) -> Value {
        let mut issue = json!({ "number": number, "title": title, "state": "open" });
        if is_pull {
            issue["pull_request"] = json!({ "url": "x" });
        }
        issue
    }

    /// The status and body of an answer.
    fn answer(&mut self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let parts: Vec<&str> = path.trim_start_matches("/repos/o/n").split('/').skip(1).collect();
        let id = |at: usize| parts.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        if self.vanishes && matches!((method, parts.as_slice()), ("PATCH" | "DELETE", ["issues", "comments", _])) {
            self.comments.remove(&id(2));
        }
        match (method, parts.as_slice()) {
            ("GET", ["issues"]) => {
                let newest_first = self.issues.iter().rev();
                (200, newest_first.map(|(number, (title, is_pull))| Self::issue(*number, title, *is_pull)).collect())
            }
            ("POST", ["issues"]) => {
                if std::mem::take(&mut self.races) {
                    let other = self.next();
                    self.issues.insert(other, (text("title"), false));
                }
                let number = self.next();
                self.issues.insert(number, (text("title"), false));
                (201, Self::issue(number, &text("title"), false))
            }
            ("GET", ["issues", _, "comments"]) if self.issues.contains_key(&id(1)) => {
                let of = self.comments.iter().filter(|(_, (issue, _))| *issue == id(1));
                (200, of.map(|(id, (_, body))| json!({ "id": id, "body": body })).collect())
            }
            ("POST", ["issues", _, "comments"]) if self.issues.contains_key(&id(1)) => {
                let made = self.comment(id(1), &text("body"));
                (201, json!({ "id": made, "body": text("body") }))
            }
            ("PATCH", ["issues", "comments", _]) if self.comments.contains_key(&id(2)) => {
                if let Some((_, known)) = self.comments.get_mut(&id(2)) {
                    *known = text("body");
                }
                (200, json!({ "id": id(2), "body": text("body") }))
            }
            ("DELETE", ["issues", "comments", _]) => match self.comments.remove(&id(2)) {
                Some(_) => (204, Value::Null),
                None => (404, json!({ "message": "Not Found" })),
            },
            _ => (404, json!({ "message": "Not Found" })),
        }
    }
}

type Shared = Arc<Mutex<Github>>;

fn lock(github: &Shared) -> MutexGuard<'_, Github> {
    github.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn query(url: &str, key: &str) -> usize {
    let (_, query) = url.split_once('?').unwrap_or_default();
    let value = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    value.and_then(|text| text.parse().ok()).unwrap_or(1)
}

async fn serve(State(github): State<Shared>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let (method, url) = (parts.method.to_string(), parts.uri.to_string());
    let mut github = lock(&github);
    let response = respond(&mut github, (&method, &url), &parts.headers, &body);
    github.answers.push((method, url, response.status().as_u16()));
    response
}

fn respond(github: &mut Github, (method, url): (&str, &str), headers: &HeaderMap, body: &[u8]) -> Response<Body> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = |status: u16, body: Value| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Response::builder().status(status).body(Body::from(body)).expect("a response")
    };
    if let Some(ip) = url.strip_prefix("/ip/") {
        return Response::new(Body::from(format!("{}\n", ip.replace('_', "."))));
    }
    if let Some((status, more)) = &github.limit {
        let response = more
            .iter()
            .fold(Response::builder().status(*status), |response, (name, value)| response.header(*name, value));
        return response.body(Body::from("{}")).expect("a response");
    }
    if github.outages > 0 {
        github.outages -= 1;
        return plain(503, json!({}));
    }
    if header("authorization") != format!("Bearer {TOKEN}") || header("user-agent").is_empty() {
        return plain(401, json!({ "message": "Bad credentials" }));
    }
    let (path, _) = url.split_once('?').unwrap_or((url, ""));
    let (status, answer) = github.answer(method, path, &serde_json::from_slice(body).unwrap_or_default());
    let Value::Array(all) = answer else { return plain(status, answer) };
    let (per_page, page) = (query(url, "per_page").min(100), query(url, "page"));
    let some: Vec<Value> = all.iter().skip((page - 1) * per_page).take(per_page).cloned().collect();
    let text = Value::Array(some).to_string();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let etag = format!("W/\"{:x}\"", hasher.finish());
    if header("if-none-match") == etag {
        return Response::builder().status(304).header("etag", etag).body(Body::empty()).expect("a response");
    }
    let mut response = Response::builder().status(status).header("etag", etag);
    if page * per_page < all.len() {
        response = response
            .header("link", format!("<http://x{path}?page={}>; rel=\"next\", <http://x>; rel=\"last\"", page + 1));
    }
    response.body(Body::from(text)).expect("a response")
}

/// The server, and its port.
async fn github() -> (Shared, u16) {
    let github = Shared::default();
    let app = Router::new().fallback(serve).with_state(Arc::clone(&github));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (github, port)
}

/// A host of this name that uses the server.
async fn host(port: u16, runner: &str) -> TestHost {
    let files = folder(&[]);
    let base = format!("http://127.0.0.1:{port}");
    let services = format!("{base}/ip/nonsense,{base}/ip/10_0_0_1,{base}/ip/8_8_8_8");
    grant(
        &files,
        &format!(
            "[components.registry]\nstore = {{}}\nmesh = {{ see = true }}\n\
             config = {{ repo = 'o/n', base_url = '{base}', RUNNER_NAME = '{runner}', ip_services = '{services}' }}\n\
             http = [{{ url = '{base}/*', methods = ['GET', 'POST', 'PATCH', 'DELETE'] }}]\n\
             [components.registry.secrets]\nGITHUB_TOKEN = ['{base}']\n"
        ),
    );
    let host = TestHost::start_with(files, |config| config.tools.builtin = true).await;
    assert_eq!(host.problems(), "");
    let dir = host.folder.path().join("data");
    let secrets = Secrets::new(&Homes::new(dir.clone()).of(&TenantId::local()), KeySource::new(&dir, |_| None));
    secrets.set(&SecretName::new("GITHUB_TOKEN").expect("a name"), TOKEN.as_bytes()).expect("set");
    host
}

/// A time so long ago, with an offset or without.
fn ago(seconds: u64, naive: bool) -> String {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let text = humantime(then);
    if naive { text.trim_end_matches('Z').to_owned() } else { text.replace('Z', "+00:00") }
}

fn humantime(then: SystemTime) -> String {
    let ms = then.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_millis();
    mcpp_time(u64::try_from(ms).expect("small"))
}

/// RFC 3339 of a time, by the calendar's own arithmetic.
fn mcpp_time(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000 / 1_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

/// A record as another program writes it.
fn foreign(runner: &str, last_seen: &str) -> String {
    let record = json!({
        "last_seen": last_seen, "listen_port": 9100, "metadata": { "odd": [1, null] },
        "multiaddr": "/ip4/192.0.2.7/tcp/9100/p2p/12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT",
        "peer_id": "12D3KooWCFAPi3qBEhJtJtiPJBVD3cTSHe64FtCKMx4McEyiC9jT", "public_ip": null, "runner_name": runner,
    });
    let json = serde_json::to_string_pretty(&record).expect("JSON");
    format!("<!-- {TITLE}:{runner} -->\n```json\n{json}\n```\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_find_each_other_among_many_pages_and_leave_the_others_records_as_they_are() {
    let (github, port) = github().await;
    {
        let mut github = lock(&github);
        github.issues.insert(3, (format!("{TITLE} (old)"), false));
        github.issues.insert(4, (TITLE.to_owned(), true));
        github.issues.insert(7, (TITLE.to_owned(), false));
        github.issues.insert(9, (TITLE.to_owned(), false));
        github.last = 100;
        (0..120).for_each(|n| drop(github.issues.insert(20 + n, (format!("other {n}"), false))));
        for n in 0..250 {
            let body = match n % 5 {
                0 => "a comment of a person".to_owned(),
                1 => foreign(&format!("old-{n}"), &ago(31 * 60, n % 2 == 0)),
                2 => format!("<!-- {TITLE}:broken -->\n```json\n{{]\n```"),
                _ => foreign(&format!("new-{n}"), &ago(n, n % 2 == 0)),
            };
            github.comment(7, &body);
        }
    }
    let before = lock(&github).comments.clone();
    let (one, two) = (host(port, "one").await, host(port, "two").await);
    let registered = ask(&one, "peer_registry_register", json!({})).await;
    assert_eq!(
        (&registered["success"], &registered["record"]["runner_name"]),
        (&json!(true), &json!("one")),
        "{registered}"
    );
    assert_eq!(registered["record"]["public_ip"], "8.8.8.8", "{registered}");
    let address = registered["record"]["multiaddr"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("/ip4/8.8.8.8/tcp/") && address.contains("/p2p/"), "{address}");
    let again = ask(&one, "peer_registry_register", json!({})).await;
    assert_eq!(again["comment_id"], registered["comment_id"], "one comment for a host");
    let listed = ask(&two, "peer_registry_list", json!({})).await;
    let names: Vec<_> = listed["peers"]
        .as_array()
        .expect("peers")
        .iter()
        .map(|peer| peer["runner_name"].as_str().expect("a name"))
        .collect();
    assert_eq!((names.len(), names[0]), (10, "one"), "the newest first: {names:?}");
    let all = ask(&one, "peer_registry_list", json!({ "max_peers": 100 })).await;
    let all = all["peers"].as_array().expect("peers").clone();
    assert_eq!(all.len(), 100, "as many as were asked for");
    assert!(
        all.iter().all(|peer| peer["runner_name"].as_str().is_some_and(|name| name.starts_with("new-"))),
        "neither itself nor old ones"
    );
    {
        let github = lock(&github);
        let kept = |(id, comment): (&u64, &(u64, String))| github.comments.get(id) == Some(comment);
        assert!(before.iter().all(kept), "byte for byte");
        assert_eq!(github.comments.len(), 251);
        assert!(github.comments.values().all(|(issue, _)| *issue == 7), "the lowest number");
    }
    for expected in [20, 20, 10, 0] {
        let cleaned = ask(&two, "peer_registry_cleanup", json!({})).await;
        assert_eq!(cleaned["removed"], expected, "{cleaned}");
    }
    assert!(lock(&github).comments.values().all(|(_, body)| !body.contains(":old-")));
    let gone = ask(&one, "peer_registry_unregister", json!({})).await;
    assert_eq!((&gone["removed"], lock(&github).comments.len()), (&json!(1), 200), "{gone}");
    // The peer tools know the registry as a source.
    let found = ask(&two, "p2p_bootstrap_list", json!({})).await;
    let source = &found["sources"][2];
    assert_eq!(
        (&source["name"], &source["enabled"], &source["count"]),
        (&json!("github"), &json!(true), &json!(1)),
        "one address: {found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_not_changed_is_not_sent_again_and_limits_are_respected() {
    let (github, port) = github().await;
    lock(&github).issues.insert(1, (TITLE.to_owned(), false));
    lock(&github).last = 1;
    for n in 0..150 {
        lock(&github).comment(1, &foreign(&format!("r{n}"), &ago(60, false)));
    }
    let one = host(port, "one").await;
    let list = async || ask(&one, "peer_registry_list", json!({ "max_peers": 5 })).await;
    assert_eq!(list().await["count"], 5);
    lock(&github).answers.clear();
    assert_eq!(list().await["count"], 5);
    let statuses: Vec<u16> = lock(&github).answers.iter().map(|(.., status)| *status).collect();
    assert_eq!(statuses, [304, 304], "both pages");
    lock(&github).limit =
        Some((403, vec![("x-ratelimit-remaining", "0".into()), ("x-ratelimit-reset", "9999999999".into())]));
    let limited = list().await;
    assert_eq!((&limited["success"], &limited["error"]), (&json!(false), &json!("rate_limited")), "{limited}");
    assert!(
        limited["retry_after_s"].as_u64().is_some_and(|wait| (3_590..=3_600).contains(&wait)),
        "an hour at most: {limited}"
    );
    let sent = lock(&github).answers.len();
    lock(&github).limit = None;
    assert_eq!(list().await["error"], "rate_limited");
    assert_eq!(ask(&one, "peer_registry_cleanup", json!({})).await["error"], "rate_limited");
    assert_eq!(lock(&github).answers.len(), sent, "nothing is sent until GitHub allows it");
    // Another host: the limit is one of a second.
    let two = host(port, "two").await;
    lock(&github).limit = Some((429, vec![("retry-after", "1".into())]));
    let limited = ask(&two, "peer_registry_list", json!({})).await;
    assert_eq!((&limited["error"], &limited["retry_after_s"]), (&json!("rate_limited"), &json!(1)), "{limited}");
    lock(&github).limit = None;
    two.until("the limit is over", async |host| ask(host, "peer_registry_list", json!({})).await["success"] == true)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outages_races_and_a_lost_issue_end_well() {
    let (github, port) = github().await;
    let one = host(port, "one").await;
    assert_eq!(
        ask(&one, "peer_registry_list", json!({})).await["count"],
        0,
        "there is no issue, and a list makes none"
    );
    assert_eq!(lock(&github).count("POST"), 0);
    // A list is asked for again after an outage; what makes something is not.
    lock(&github).outages = 2;
    assert_eq!(ask(&one, "peer_registry_list", json!({})).await["success"], true);
    lock(&github).races = true;
    let registered = ask(&one, "peer_registry_register", json!({})).await;
    assert_eq!(registered["success"], true, "{registered}");
    let lowest = *lock(&github).issues.keys().next().expect("an issue");
    assert_eq!(lock(&github).issues.len(), 2, "two hosts made one");
    assert!(lock(&github).comments.values().all(|(issue, _)| *issue == lowest), "and both take the first");
    // Two comments of one host: the older counts, and the other goes.
    let twin = foreign("one", &ago(1, true));
    lock(&github).comment(lowest, &twin);
    assert_eq!(ask(&one, "peer_registry_register", json!({})).await["comment_id"], registered["comment_id"]);
    assert_eq!(lock(&github).comments.len(), 1);
    // The issue is gone: another one is made.
    lock(&github).issues.clear();
    lock(&github).comments.clear();
    assert_eq!(ask(&one, "peer_registry_register", json!({})).await["success"], true);
    assert_eq!(lock(&github).issues.len(), 1);
    assert_eq!(lock(&github).comments.len(), 1);
    // An outage while something is made: it is made once at most.
    lock(&github).comments.clear();
    lock(&github).answers.clear();
    {
        let mut github = lock(&github);
        github.issues.clear();
        github.last += 1;
    }
    let two = host(port, "two").await;
    assert_eq!(ask(&two, "peer_registry_list", json!({})).await["success"], true);
    lock(&github).limit = Some((502, vec![]));
    lock(&github).answers.clear();
    let failed = ask(&two, "peer_registry_register", json!({})).await;
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("502")), "{failed}");
    assert!(lock(&github).answers.iter().all(|(method, ..)| method == "GET"));
    assert!(!failed.to_string().contains(TOKEN) && !registered.to_string().contains(TOKEN));
}
