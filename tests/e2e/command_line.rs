//! The program, as a person and a script use it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    precompiled,
    support::{PATIENCE, TestHost, add, folder, grant, guest},
};

/// The program that was built for this test run.
pub fn mcpp() -> PathBuf {
    let here = std::env::current_exe().expect("a test program");
    let folder = here.parent().and_then(Path::parent).expect("the target folder");
    let program = folder.join("mcpp");
    assert!(
        program.exists(),
        "{} is not built; run the tests with `.ci/run` or `cargo build` first",
        program.display()
    );
    program
}

pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(mcpp())
        .args(arguments)
        .env_remove("MCPP_URL")
        .env_remove("MCPP_DATA")
        .env_remove("RUST_LOG")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("run")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_host_is_seen_and_called() {
    let host = TestHost::start(&[("add", &add()), ("broken", b"no"), ("probe", &guest("probe"))]).await;
    let data = host.folder.path().join("data").display().to_string();
    let environment = [("MCPP_URL", host.host.url()), ("MCPP_DATA", data)];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| run(arguments, &environment));

    let tools = run(&["tools"]);
    assert!(
        stdout(&tools).lines().any(|line| line.trim_start().starts_with("add ") && line.contains("a b")),
        "{}",
        stdout(&tools)
    );
    let tools: Value = serde_json::from_str(&stdout(&run(&["tools", "--json"]))).expect("JSON");
    assert_eq!(tools[0]["name"], "add");

    let call = run(&["call", "add", "a=40", "b=2"]);
    assert_eq!((stdout(&call).trim(), stderr(&call).trim(), call.status.code()), (r#"{"result":42}"#, "", Some(0)));
    let call: Value =
        serde_json::from_str(&stdout(&run(&["call", "add", r#"{"a":1,"b":2}"#, "--json"]))).expect("JSON");
    assert_eq!(call["structuredContent"]["result"], 3);
    let wrong = run(&["call", "add", "a=1"]);
    assert_eq!((stdout(&wrong).as_str(), wrong.status.code()), ("", Some(1)));
    assert!(stderr(&wrong).contains("invalid argument"), "{}", stderr(&wrong));
    let unknown = run(&["call", "nothing"]);
    assert_eq!(
        (stderr(&unknown).trim(), unknown.status.code()),
        ("error: the server refuses (-32602): unknown tool `nothing`", Some(1))
    );

    let problems = run(&["tools", "--problems"]);
    assert_eq!(problems.status.code(), Some(1));
    assert!(stdout(&problems).contains("the file is not WebAssembly"), "{}", stdout(&problems));
    let info: Value = serde_json::from_str(&stdout(&run(&["info", "--json"]))).expect("JSON");
    assert_eq!(info["components"][0]["tools"][0]["limits"]["deadline_ms"], 30_000);
    let info = stdout(&run(&["info"]));
    for says in ["host: 0 of 8 run", "0 of 64 are kept", "tenant local: ", "at most 6000000 calls a minute", "cpu_ms"] {
        assert!(info.contains(says), "{says:?} is not in {info}");
    }

    for settle in ["retry", "drop"] {
        let nothing = run(&["events", settle, "--all"]);
        assert_eq!((stdout(&nothing).as_str(), nothing.status.code()), ("no delivery was given up\n", Some(0)));
    }

    host.write("broken", &add());
    let reload = run(&["reload"]);
    assert!(stdout(&reload).contains("unchanged add"), "{}{}", stdout(&reload), stderr(&reload));
    assert!(stdout(&reload).contains("broken"), "{}", stdout(&reload));
}

#[test]
fn without_a_host_the_error_says_so() {
    let data = tempfile::tempdir().expect("a folder");
    let nobody = run(&["tools", "--url", "http://127.0.0.1:9/mcp", "--retries", "0"], &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("is a host running there?"), "{}", stderr(&nobody));
    let nobody = run(&["reload", "--data", &data.path().display().to_string()], &[]);
    assert!(stderr(&nobody).contains("is one running with this data directory?"), "{}", stderr(&nobody));
    let wrong = run(&["tools", "--url", "ftp://x"], &[]);
    assert!(stderr(&wrong).contains("is not an http or https URL"), "{}", stderr(&wrong));
}

#[test]
fn the_contract_is_in_the_program() {
    let out = tempfile::tempdir().expect("a folder");
    let written = run(&["wit", "--out", &out.path().display().to_string()], &[]);
    assert!(written.status.success());
    let file = std::fs::read_to_string(out.path().join("mcpp-endpoint/endpoint.wit")).expect("written");
    assert!(file.contains("package mcpp:endpoint@0.1.0;"));
    assert!(stdout(&run(&["wit"], &[])).contains("package mcpp:tool@0.1.0;"));
}

#[test]
fn a_bad_configuration_is_refused() {
    let files = tempfile::tempdir().expect("a folder");
    for (text, says) in [
        ("[server]\nlisten = '0.0.0.0:1'\n", "refusing to listen on 0.0.0.0:1"),
        ("[server]\nprot = 1\n", "unknown field `prot`"),
        ("nonsense", "is not valid"),
        ("[log]\nlevel = 'wran'\n", "log.level = \"wran\""),
        ("[tools]\nfolders = ['/nope']\n", "the tools folder /nope does not exist"),
    ] {
        let file = files.path().join("mcpp.toml");
        std::fs::write(&file, text).expect("written");
        let refused = run(&["serve", "--check", "--config", &file.display().to_string()], &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains(says), "{}", stderr(&refused));
    }
    let missing = run(&["serve", "--check", "--config", "/nowhere.toml"], &[]);
    assert!(stderr(&missing).contains("cannot read the configuration /nowhere.toml"), "{}", stderr(&missing));
    let folder = run(
        &[
            "serve",
            "--tools",
            "/no/such/folder",
            "--data",
            &files.path().display().to_string(),
            "--listen",
            "127.0.0.1:0",
        ],
        &[],
    );
    assert!(stderr(&folder).contains("the tools folder /no/such/folder does not exist"), "{}", stderr(&folder));
    assert_eq!(run(&["serve", "--no-such-flag"], &[]).status.code(), Some(2));
}

#[test]
fn signals_reload_and_stop() {
    let files = folder(&[]);
    precompiled::give(&files.path().join("data"));
    let mut child = Command::new(mcpp())
        .args(["serve", "--listen", "127.0.0.1:0", "--tools"])
        .arg(files.path().join("tools"))
        .arg("--data")
        .arg(files.path().join("data"))
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let data = files.path().join("data").display().to_string();
    wait("it answers", || run(&["info", "--data", &data], &[]).status.success());
    let info =
        || serde_json::from_str::<Value>(&stdout(&run(&["info", "--json", "--data", &data], &[]))).expect("JSON");
    std::fs::create_dir_all(files.path().join("data")).expect("made");
    std::fs::write(files.path().join("tools/caller.wasm"), guest("caller")).expect("written");
    wait("the refusal is known", || info()["problems"][0]["component"] == "caller");
    grant(&files, "[components.caller]\ncall = ['*']\n");
    let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGHUP).expect("signalled");
    wait("the grant is in force", || {
        info()["components"].as_array().is_some_and(|list| list.iter().any(|c| c["name"] == "caller"))
    });
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).expect("signalled");
    let mut status = None;
    wait("it ends", || {
        status = child.try_wait().expect("waited");
        status.is_some()
    });
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(!files.path().join("data/mcpp.sock").exists(), "the socket is left behind");
}

#[test]
fn a_folder_is_watched_that_is_named_from_where_the_host_was_started() {
    let files = folder(&[]);
    precompiled::give(&files.path().join("data"));
    let mut child = Command::new(mcpp())
        .args(["serve", "--listen", "127.0.0.1:0", "--tools", "./tools", "--data", "data"])
        .current_dir(files.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let data = files.path().join("data").display().to_string();
    let info = || run(&["info", "--json", "--data", &data], &[]);
    wait("it answers", || info().status.success());
    std::fs::write(files.path().join("tools/add.wasm"), add()).expect("written");
    wait("it is live", || stdout(&info()).contains("\"add\""));
    child.kill().expect("killed");
    child.wait().expect("ended");
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        // This test has no runtime: it is about another process.
        #[expect(clippy::disallowed_methods, reason = "no runtime here")]
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_hosts_data_is_copied() {
    let host = crate::store::store_host("store = {}").await;
    host.call("store_set", serde_json::json!({ "key": "a", "value": "one" })).await;
    let copy = host.folder.path().join("copy.redb");
    let (data, target) = (host.folder.path().join("data").display().to_string(), copy.display().to_string());
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| run(arguments, &[("MCPP_DATA", &data)]));
    let copied: Value = serde_json::from_str(&stdout(&run(&["backup", &target, "--json"]))).expect("JSON");
    assert!(copied["entries"].as_u64().is_some_and(|entries| entries >= 1), "{copied}");
    let again = run(&["backup", &target]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("copy.redb is there already"), "{}", stderr(&again));
    let info = stdout(&run(&["info"]));
    assert!(info.lines().any(|line| line.contains("store") && line.contains("of 268435456")), "{info}");
    // Data written after the copy are not in it; data written before are.
    host.call("store_set", serde_json::json!({ "key": "a", "value": "two" })).await;
    let folder = host.stop().await;
    std::fs::rename(&copy, folder.path().join("data/store/local.redb")).expect("put in its place");
    let host = TestHost::start_with(folder, |_| {}).await;
    assert!(host.text("store_get", serde_json::json!({ "key": "a" })).await.contains("one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_says_what_it_lacks_in_words() {
    let host = TestHost::start(&[("add", &add())]).await;
    let (url, data) = (host.host.url(), host.folder.path().join("data").display().to_string());
    let run = |arguments: &[&str], token: Option<&str>| {
        let mut environment = vec![("MCPP_URL", url.as_str())];
        environment.extend(token.map(|token| ("MCPP_TOKEN", token)));
        tokio::task::block_in_place(|| run(arguments, &environment))
    };
    let prompt = run(&["prompt", "review"], None);
    assert!(stderr(&prompt).contains("this server has no prompts"), "{}", stderr(&prompt));
    let nowhere = url.replace("/mcp", "/nope");
    let nowhere = run(&["tools", "--url", &nowhere], None);
    assert!(stderr(&nowhere).contains("there is nothing at /nope; the MCP endpoint is /mcp"), "{}", stderr(&nowhere));
    // The command ends when the host has the token: from then on it refuses every other client.
    let made = run(&["token", "create", "local", "me", "--data", &data], None);
    assert!(made.status.success() && !stderr(&made).contains("may not know"), "{}", stderr(&made));
    let token = stdout(&made).trim().to_owned();
    for token in [None, Some("mcpp_0_0")] {
        let refused = run(&["tools"], token);
        assert_eq!(refused.status.code(), Some(1), "{}", stdout(&refused));
        let said = stderr(&refused);
        assert!(said.contains("it needs a token (--token, MCPP_TOKEN)") && !said.contains("rmcp"), "{said}");
    }
    assert!(stdout(&run(&["tools"], Some(&token))).contains("add"), "the new token is taken");
}

#[test]
fn a_tenant_is_shown_as_the_configuration_has_it() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().display().to_string();
    let mcpp = |arguments: &[&str]| run(&[arguments, &["--data", &data]].concat(), &[]);
    let shown =
        |tenant: &str| -> Value { serde_json::from_str(&stdout(&mcpp(&["tenant", "show", tenant]))).expect("JSON") };
    assert_eq!((&shown("local")["pinned"], &shown("local")["tokens"]), (&false.into(), &Value::Array(Vec::new())));
    assert!(mcpp(&["tenant", "add", "acme", "--limit", "running=8"]).status.success());
    assert!(mcpp(&["token", "create", "acme", "me"]).status.success());
    let acme = shown("acme");
    assert_eq!((&acme["pinned"], &acme["limits"]["running"]), (&true.into(), &8.into()));
    assert_eq!(acme["tokens"][0]["subject"], "me");
    let nothing = mcpp(&["tenant", "limit", "acme"]);
    assert!(nothing.status.code() == Some(1) && stderr(&nothing).contains("--limit NAME=NUMBER is missing"));
    assert!(mcpp(&["tenant", "limit", "acme", "--limit", "running=default"]).status.success());
    assert!(shown("acme")["limits"]["running"].is_null());
}
