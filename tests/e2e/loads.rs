//! Loads are a tenant's own: whatever one of them does, it delays no other tenant, no operator and no door.

use std::{
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mcpp::{host::Host, names::TenantId, reload::Report};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    support::{PATIENCE, TestHost, add, config, folder, grant, guest, http_client, number},
    tenants::{User, team, tenant},
};

fn version(version: u32) -> Vec<u8> {
    number("v", &format!("i32.const {version}"))
}

/// A file that grows by a byte now and then until it is dropped, and is no component.
struct GrowingFile {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl GrowingFile {
    #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
    fn start(path: &Path) -> Self {
        let mut file = std::fs::File::create(path).expect("made");
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                file.write_all(b"\0").expect("written");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for GrowingFile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// Puts a file into a folder as a careful installer does.
fn install(tools: &Path, name: &str, wasm: &[u8]) {
    let hidden = tools.join(format!(".{name}.new"));
    std::fs::write(&hidden, wasm).expect("written");
    std::fs::rename(&hidden, tools.join(format!("{name}.wasm"))).expect("moved into place");
}

async fn serves(host: &TestHost, version: u32) {
    host.until(&format!("version {version} serves"), async |host| {
        host.text("v", json!({})).await == format!(r#"{{"result":{version}}}"#)
    })
    .await;
}

async fn loads(host: &TestHost, tenant: &TenantId) -> Option<String> {
    host.host.tenants().reloader().now(tenant).await?.loading
}

/// A host with the tenant `slow`, whose data a build migrates without end, and the user of it. Steps of a migration have no bound.
async fn migrating(others: impl FnOnce(&Path)) -> (TestHost, User) {
    let files = folder(&[("v", &version(1))]);
    let data = files.path().join("data");
    let slow = team(&data, "slow", &[("store", &guest("store")), ("caller", &guest("caller"))]);
    let _local = crate::tenants::token(&data, "local", &["tools"], &[]);
    let grants = data.join("tenants/slow/grants");
    std::fs::write(grants.join("store.toml"), "version = 1\nstore = {}\ncall = ['x']\nsubscribe = ['other/*']\n")
        .expect("written");
    std::fs::write(grants.join("caller.toml"), "version = 1\ncall = ['x']\n").expect("written");
    others(&data);
    let host = TestHost::start_with(files, |config| {
        config.tools.migration_steps = u32::MAX;
        config.tools.migration_ms = 3_600_000;
        config.tools.reload_wait_ms = 300;
    })
    .await;
    let user = User::new(&host, &slow);
    host.until("its tools are there", async |_| user.tools().await.iter().any(|tool| tool == "store_set")).await;
    user.call("store_set", json!({ "key": "a", "value": "endless" })).await;
    install(&data.join("tenants/slow/tools"), "store", &guest("store_next"));
    let slow = tenant("slow");
    host.until("it migrates", async |host| loads(host, &slow).await.as_deref() == Some("store")).await;
    (host, user)
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_and_other_tenants_do_not_wait_for_a_migration_without_end() {
    let mut token = String::new();
    let (host, user) = migrating(|data| token = team(data, "other", &[("v", &version(1))])).await;
    let (slow, other) = (tenant("slow"), User::new(&host, &token));
    let data = host.folder.path().join("data");
    // Another tenant's save serves.
    install(&data.join("tenants/other/tools"), "v", &version(2));
    host.until("another's save serves", async |_| other.text("v", json!({})).await == r#"{"result":2}"#).await;
    // A reload answers, and says what still loads.
    let reports = host.host.tenants().reload_all().await.expect("an answer");
    assert!(reports[&slow].loading.contains("store"), "{:?}", reports[&slow]);
    assert_eq!(reports[&tenant("other")], Report { unchanged: ["v".to_owned()].into(), ..Report::default() });
    // A revoked tool is gone when the command returns.
    assert!(user.tools().await.iter().any(|tool| tool.starts_with("caller")));
    std::fs::write(data.join("tenants/slow/grants/caller.toml"), "version = 1\n").expect("written");
    host.host.tenants().reload_all().await.expect("an answer");
    assert!(!user.tools().await.iter().any(|tool| tool.starts_with("caller")), "{:?}", user.tools().await);
    assert_eq!(loads(&host, &slow).await.as_deref(), Some("store"), "it goes on");
    // A tenant that is suspended is out when the command returns.
    let home = host.host.tenants().homes().find(&slow).expect("there");
    home.change(|settings| settings.suspended = true).expect("changed");
    let refreshed = host.host.tenants().refresh(Arc::new(|| {})).await.expect("an answer");
    assert_eq!(refreshed.closed, std::slice::from_ref(&slow));
    assert!(host.host.registry().share(&slow).is_none() && loads(&host, &slow).await.is_none());
    let refused = user.request("tools/list", json!({})).send().await.expect("an answer");
    assert_eq!(refused.status(), 403);
    // Nothing of it runs on.
    host.until("its migration has ended", async |host| host.host.registry().admission().of(&slow) == (0, 0, 0)).await;
    // It may be removed, too.
    home.change(|settings| settings.suspended = false).expect("changed");
    host.host.tenants().refresh(Arc::new(|| {})).await.expect("an answer");
    host.until("it migrates again", async |host| loads(host, &slow).await.as_deref() == Some("store")).await;
    let at = data.display().to_string();
    let removed = tokio::task::block_in_place(|| {
        crate::command_line::run(&["tenant", "remove", "slow", "--yes", "--data", &at], &[])
    });
    assert!(removed.status.success(), "{}", crate::command_line::stderr(&removed));
    assert!(!data.join("store/slow.redb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_own_grant_is_revoked_stops_migrating() {
    let (host, _) = migrating(|_| {}).await;
    let slow = tenant("slow");
    let grants = host.folder.path().join("data/tenants/slow/grants");
    std::fs::write(grants.join("store.toml"), "version = 1\ncall = ['x']\nsubscribe = ['other/*']\n").expect("written");
    host.host.tenants().reload_all().await.expect("an answer");
    host.until("it is refused", async |host| {
        let catalog = host.host.registry().catalog(&slow);
        catalog.problems().any(|problem| problem.error.contains("add `store = {}`"))
    })
    .await;
    assert_eq!(host.host.registry().catalog(&slow).component("store").map(|live| live.name.to_string()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_stops_while_something_migrates_without_end() {
    let (host, _) = migrating(|_| {}).await;
    tokio::time::timeout(PATIENCE, host.stop()).await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_never_ends_is_stopped_and_said_to_be() {
    for (value, says) in [("endless", "its migration did not end within 20 steps"), ("round", "its cursor came back")] {
        let files = folder(&[("store", &guest("store"))]);
        grant(&files, "[components.store]\ncall = ['x']\nsubscribe = ['other/*']\nstore = {}\n");
        let host = TestHost::start_with(files, |config| config.tools.migration_steps = 20).await;
        host.call("store_set", json!({ "key": "a", "value": value })).await;
        host.write("store", &guest("store_next"));
        host.until("it is stopped", async |host| host.problems().contains(says)).await;
        assert!(host.tools().await.is_empty(), "a step was done: neither build can read the data");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_of_a_migration_count_against_the_rate_of_their_tenant() {
    let files = folder(&[("store", &guest("store")), ("v", &version(1))]);
    grant(&files, "[components.store]\ncall = ['x']\nsubscribe = ['other/*']\nstore = {}\n");
    let host =
        TestHost::start_with(files, |config| config.tenant_limits.calls_per_minute = 30_u64.try_into().ok()).await;
    host.call("store_set", json!({ "key": "a", "value": "endless" })).await;
    host.write("store", &guest("store_next"));
    host.until("it migrates", async |host| loads(host, &TenantId::local()).await.as_deref() == Some("store")).await;
    // Fewer calls than the tenant may make by itself.
    for _ in 0..20 {
        let answer = host.text("v", json!({})).await;
        if answer.contains("too many calls: at most 30 in a minute for this tenant") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("the migration is counted nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_without_pause_keeps_nothing_waiting() {
    let host = TestHost::start_with(folder(&[("v", &version(1))]), |config| config.tools.reload_wait_ms = 300).await;
    let growing = GrowingFile::start(&host.tools_folder().join("growing.wasm"));
    for n in 2..6 {
        host.write("v", &version(n));
        serves(&host, n).await;
    }
    let report = host.host.reload().await.expect("an answer");
    assert!(report.loading.contains("growing") && report.unchanged.contains("v"), "{report:?}");
    assert_eq!(host.problems(), "");
    drop(growing);
    host.until("it is a problem when it rests", async |host| host.problems().contains("growing: the file")).await;
}

async fn started(files: &TempDir) -> Host {
    Host::start(config(files), Arc::new(|| {})).await.expect("the host starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_are_open_before_anything_is_loaded() {
    let files = folder(&[("add", &add())]);
    let growing = GrowingFile::start(&files.path().join("tools/v.wasm"));
    let host = started(&files).await;
    let http = http_client();
    let get = async |path: &str| {
        let answer = http.get(format!("http://{}{path}", host.address())).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(get("/live").await, (200, "live\n".into()));
    assert_eq!(get("/ready").await, (503, "loading components\n".into()));
    let list = || crate::support::modern_request(&http, &host.url(), "tools/list", json!({})).send();
    let mut names = Vec::new();
    while names.is_empty() {
        // Loaded tools are listed, though something is not loaded.
        let listed = crate::support::answer(list().await.expect("an answer")).await;
        names = listed["result"]["tools"].as_array().expect("a list").clone();
    }
    assert_eq!(names.iter().map(|tool| &tool["name"]).collect::<Vec<_>>(), ["add"]);
    let at = files.path().join("data").display().to_string();
    let info = async || {
        let shown = tokio::task::block_in_place(|| crate::command_line::run(&["info", "--data", &at], &[]));
        crate::command_line::stdout(&shown)
    };
    let told = tokio::time::timeout(PATIENCE, async { while !info().await.contains("for the first time: local") {} });
    told.await.expect("an operator is told");
    // A call of what is still loaded waits for it.
    let call =
        crate::support::modern_request(&http, &host.url(), "tools/call", json!({ "name": "v", "arguments": {} }));
    let call = tokio::spawn(call.send());
    drop(growing);
    install(&files.path().join("tools"), "v", &version(7));
    let answer = crate::support::answer(call.await.expect("sent").expect("an answer")).await;
    assert_eq!(crate::support::text_of(&answer), r#"{"result":7}"#);
    host.loaded().await;
    assert_eq!(get("/ready").await, (200, "ready\n".into()));
    let unknown = json!({ "name": "nothing", "arguments": {} });
    let unknown = crate::support::modern_request(&http, &host.url(), "tools/call", unknown).send().await;
    let unknown = crate::support::text_of(&crate::support::answer(unknown.expect("an answer")).await);
    assert!(unknown.contains("unknown tool"), "once everything is loaded nothing is waited for: {unknown}");
    host.stop().await;
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("threads").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_renames_costs_few_threads_and_the_newest_state_is_loaded() {
    let mut token = String::new();
    let files = folder(&[("v", &version(1))]);
    token.push_str(&team(&files.path().join("data"), "storm", &[]));
    let local = crate::tenants::token(&files.path().join("data"), "local", &["tools"], &[]);
    let host = TestHost::start_with(files, |_| {}).await;
    let local_user = User::new(&host, &local);
    let tools = host.folder.path().join("data/tenants/storm/tools");
    let (before, stop) = (threads(), Arc::new(AtomicBool::new(false)));
    let told = Arc::clone(&stop);
    let storming = tools.clone();
    let storm = std::thread::spawn(move || {
        let mut renames = 0_u32;
        for n in 0..600 {
            std::fs::write(storming.join(format!("{n}.wasm")), add()).expect("written");
        }
        while !told.load(Ordering::Relaxed) {
            for n in 0..600 {
                let (here, there) = (format!("{n}.wasm"), format!("x{n}.wasm"));
                std::fs::rename(storming.join(&here), storming.join(&there)).expect("moved");
                std::fs::rename(storming.join(&there), storming.join(&here)).expect("moved");
                renames += 2;
            }
        }
        renames
    });
    let mut most = 0;
    for n in 1..20 {
        most = most.max(threads());
        install(&host.tools_folder(), "w", &number("w", &format!("i32.const {n}")));
        host.until("another's save serves", async |_| {
            local_user.text("w", json!({})).await == format!(r#"{{"result":{n}}}"#)
        })
        .await;
    }
    // An operator's reload is answered during the storm.
    let local = host.host.tenants().reloader().reload(&TenantId::local()).await.expect("an answer").expect("open");
    assert!(local.unchanged.contains("w"), "{local:?}");
    stop.store(true, Ordering::Relaxed);
    let renames = storm.join().expect("no panic");
    assert!(renames > 1_000, "only {renames} renames");
    assert!(most < before + 64, "{before} threads became {most}");
    // The files that are there in the end serve.
    for n in 0..600 {
        std::fs::remove_file(tools.join(format!("{n}.wasm"))).expect("removed");
    }
    install(&tools, "last", &number("last", "i32.const 3"));
    let user = User::new(&host, &token);
    host.until("the newest state is loaded", async |_| user.tools().await == ["last"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_another_tenants_component_is_refused() {
    let files = folder(&[]);
    let data = files.path().join("data");
    team(&data, "one", &[("secret", &number("secret", "i32.const 1"))]);
    let two = team(&data, "two", &[]);
    let tools = data.join("tenants/two/tools");
    std::os::unix::fs::symlink(data.join("tenants/one/tools/secret.wasm"), tools.join("a.wasm")).expect("linked");
    std::os::unix::fs::symlink("../../one/tools/secret.wasm", tools.join("b.wasm")).expect("linked");
    let host = TestHost::start_with(files, |_| {}).await;
    host.until("both are refused", async |host| {
        let catalog = host.host.registry().catalog(&tenant("two"));
        let refused = catalog.problems().filter(|problem| problem.error.contains("leads out of the tenant's folder"));
        refused.count() == 2
    })
    .await;
    assert_eq!(User::new(&host, &two).tools().await, [""; 0]);
}
