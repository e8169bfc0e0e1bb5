//! The author's loop, in Rust: `mcpp new`, `build` and `dev`. The other languages are in `tests/languages`, as they need tools from their registries.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    command_line::{mcpp, run, stderr, stdout},
    support::TestHost,
};

/// A first build compiles the SDK.
const PATIENCE: Duration = Duration::from_secs(150);

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

/// Variables that make builds fast, and keep them off the network: all guests are built in one folder, with the versions that it has.
fn cargo() -> Vec<(&'static str, String)> {
    let guests = checkout().join("target/guests").display().to_string();
    vec![("CARGO_TARGET_DIR", guests), ("CARGO_NET_OFFLINE", "true".into())]
}

/// A new project of this name in Rust. Names differ, as all builds share a folder.
fn new_project(name: &str) -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a folder");
    let made = run(&["new", name, "--in", &parent.path().display().to_string()], &[]);
    assert!(made.status.success(), "{}", stderr(&made));
    let folder = parent.path().join(name);
    assert_eq!(stdout(&made).trim(), folder.display().to_string());
    assert!(
        stderr(&made).contains("mcpp dev") && stderr(&made).contains("mcpp call greet name=World"),
        "{}",
        stderr(&made)
    );
    std::fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the same versions");
    (parent, folder)
}

fn build(folder: &Path) -> std::process::Output {
    let environment = cargo();
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    run(&["build", &folder.display().to_string(), "--json"], &environment)
}

/// Changes a project's source.
fn change(folder: &Path, from: &str, to: &str) {
    let file = folder.join("src/lib.rs");
    let text = std::fs::read_to_string(&file).expect("a source");
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).expect("saved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_project_builds_and_runs() {
    let (_parent, folder) = new_project("first-tool");
    let built = tokio::task::block_in_place(|| build(&folder));
    assert!(built.status.success(), "{}", stderr(&built));
    let told: Value = serde_json::from_str(&stdout(&built)).expect("JSON");
    let component = std::fs::read(told["component"].as_str().expect("a path")).expect("a component");
    assert_eq!((&told["bytes"], &told["language"]), (&json!(component.len()), &json!("rust")));
    assert!(told["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0));
    let host = TestHost::start(&[("first-tool", &component)]).await;
    assert_eq!(host.text("greet", json!({ "name": "World" })).await, "Hello, World!");
    assert!(host.text("greet", json!({ "name": "" })).await.contains("must not be empty"));

    change(&folder, "name.is_empty()", "name.is_emtpy()");
    let broken = tokio::task::block_in_place(|| build(&folder));
    assert_eq!((broken.status.code(), stdout(&broken).as_str()), (Some(1), ""));
    let said = stderr(&broken);
    let first = said.lines().find(|line| !line.starts_with("building (")).unwrap_or_default();
    assert!(first.starts_with("src/lib.rs:9:13: error"), "{said}");
    assert!(said.contains("--> src/lib.rs:9:13") && said.contains("`cargo build` failed"), "{said}");
}

/// The program in a folder where nothing else is.
fn copied_program() -> (TempDir, PathBuf) {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let program = elsewhere.path().join("mcpp");
    if std::fs::hard_link(mcpp(), &program).is_err() {
        std::fs::copy(mcpp(), &program).expect("copied");
    }
    (elsewhere, program)
}

#[test]
fn a_rust_without_the_target_is_told_what_to_type() {
    let (elsewhere, program) = copied_program();
    // A compiler that has no library for any target, and is otherwise the real one.
    let (shims, path) = (elsewhere.path().join("shims"), std::env::var("PATH").expect("set"));
    let script =
        "#!/bin/sh\ncase \"$*\" in *target-libdir*) echo /nowhere ;; *) PATH=${PATH#*:} exec rustc \"$@\" ;; esac\n";
    std::fs::create_dir(&shims).expect("made");
    std::fs::write(shims.join("rustc"), script).expect("written");
    std::fs::set_permissions(shims.join("rustc"), std::fs::Permissions::from_mode(0o755)).expect("executable");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(elsewhere.path()).envs(cargo());
        command
            .env("PATH", format!("{}:{path}", shims.display()))
            .env_remove("MCPP_SDK")
            .env_remove("MCPP_GUEST_TOOLCHAIN");
        command.output().expect("run")
    };
    assert!(run(&["new", "targetless"]).status.success());
    let folder = elsewhere.path().join("targetless");
    std::fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the same versions");
    let built = run(&["build", "targetless"]);
    let says = "bash .mcpp/sdk/tool-sdk/guest-target.sh .mcpp/guest-toolchain";
    assert!(built.status.code() == Some(3) && stderr(&built).contains(says), "{}", stderr(&built));
    assert!(folder.join(".mcpp/sdk/tool-sdk/guest-target.sh").is_file(), "the script that it names is there");
}

/// One file is all that an author needs, also in Rust: the SDK is in the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_was_copied_makes_and_builds_a_project_in_rust() {
    let ((elsewhere, program), name) = (copied_program(), "copied-tool");
    let toolchain = checkout().join("target/guest-toolchain");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(elsewhere.path()).envs(cargo()).env("MCPP_GUEST_TOOLCHAIN", &toolchain);
        tokio::task::block_in_place(|| command.env_remove("MCPP_SDK").output()).expect("run")
    };
    let made = run(&["new", name]);
    assert!(made.status.success(), "{}", stderr(&made));
    let folder = elsewhere.path().join(name);
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
    assert!(manifest.contains("path = \".mcpp/sdk/tool-sdk\""), "{manifest}");
    std::fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the same versions");
    let built = run(&["build", name, "--json"]);
    assert!(built.status.success(), "{}", stderr(&built));
    let told: Value = serde_json::from_str(&stdout(&built)).expect("JSON");
    let component = std::fs::read(told["component"].as_str().expect("a path")).expect("a component");
    let host = TestHost::start(&[(name, &component)]).await;
    assert_eq!(host.text("greet", json!({ "name": "World" })).await, "Hello, World!");

    // git does not see the SDK, so a clone has none until it is built.
    std::fs::remove_dir_all(folder.join(".mcpp")).expect("removed");
    let again = run(&["build", name]);
    assert!(again.status.success() && folder.join(".mcpp/sdk/tool-sdk/src/lib.rs").is_file(), "{}", stderr(&again));
}

#[test]
fn a_name_that_is_taken_or_wrong_makes_nothing() {
    let parent = tempfile::tempdir().expect("a folder");
    let place = parent.path().display().to_string();
    let new = |name: &str, language: &str| run(&["new", name, "--lang", language, "--in", &place], &[]);
    assert!(new("hello", "python").status.success());
    std::fs::write(parent.path().join("hello/app.py"), "mine").expect("written");
    let again = new("hello", "c");
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("is there already; nothing was changed"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(parent.path().join("hello/app.py")).expect("there"), "mine");
    assert!(!parent.path().join("hello/tool.c").exists());
    let wrong = new("../evil", "python");
    assert!(stderr(&wrong).contains("is no name for a project"), "{}", stderr(&wrong));
    let sdk = run(&["new", "x", "--in", &place, "--sdk", &place], &[]);
    assert!(stderr(&sdk).contains("is not the SDK"), "{}", stderr(&sdk));
    assert_eq!(std::fs::read_dir(parent.path()).expect("a folder").count(), 1);
}

#[test]
fn a_missing_tool_is_named() {
    let parent = tempfile::tempdir().expect("a folder");
    let place = parent.path().display().to_string();
    for (language, says) in [
        ("javascript", "install Node.js"),
        ("python", "install Python"),
        ("c", "install Python"),
        ("go", "install Python"),
    ] {
        assert!(run(&["new", language, "--lang", language, "--in", &place], &[]).status.success());
        let folder = parent.path().join(language).display().to_string();
        let built = run(&["build", &folder], &[("PATH", "/nowhere")]);
        assert_eq!(built.status.code(), Some(3), "{language}: {}", stderr(&built));
        assert!(stderr(&built).contains(says), "{language}: {}", stderr(&built));
    }
    let nothing = run(&["build", &place], &[]);
    assert!(stderr(&nothing).contains("is no project"), "{}", stderr(&nothing));
}

/// `mcpp dev`, and what it says.
struct Dev {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(mcpp());
        command.arg("dev").arg(folder).args(["--listen", "127.0.0.1:0"]).envs(cargo());
        command.env_remove("RUST_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let (said, stderr) = (Arc::new(Mutex::new(String::new())), child.stderr.take().expect("piped"));
        let hear = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                hear.lock().expect("no panic").push_str(&format!("{line}\n"));
            }
        });
        Self { child, said }
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    /// Waits until it says something; what it has said since it was asked the last time, which is then forgotten.
    fn hears(&self, what: &str) -> String {
        let started = Instant::now();
        while !self.said().contains(what) {
            assert!(started.elapsed() < PATIENCE, "waited too long for {what:?}:\n{}", self.said());
            #[expect(clippy::disallowed_methods, reason = "no runtime here")]
            std::thread::sleep(Duration::from_millis(20));
        }
        std::mem::take(&mut self.said.lock().expect("no panic"))
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_has_ended = self.child.wait();
    }
}

#[test]
fn a_save_is_live_and_a_broken_one_is_not() {
    let (_parent, folder) = new_project("second-tool");
    let mut dev = Dev::start(&folder);
    let said = dev.hears("mcpp tools --url");
    assert!(said.contains("+ tool greet(name): Greets somebody."), "{said}");
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL").to_owned();
    assert!(said.contains(&format!("claude mcp add --transport http second_tool {url}")), "{said}");
    let greet = || stdout(&run(&["call", "greet", "name=World", "--url", &url], &[])).trim().to_owned();
    assert!(greet().contains("Hello, World!"));

    change(&folder, "Hello, {name}!", "Good day, {name}!");
    let said = dev.hears("clients see the same tools");
    let steps = ["noticed in ", "built in ", "compiled without optimization in ", "tools listed in ", "swapped in "];
    assert!(said.contains("is live on") && steps.iter().all(|step| said.contains(step)), "{said}");
    assert!(greet().contains("Good day, World!"));
    // The code of the fast compiler serves first; the optimized code follows.
    dev.hears("optimized code serves now (compiled in ");
    assert!(greet().contains("Good day, World!"));

    change(&folder, "/// Greets somebody.", "/// Greets somebody politely.");
    let said = dev.hears("~ tool greet: description: ");
    assert!(said.contains("is live on"), "{said}");

    change(&folder, "Good day, {name}!", "Good day, {nobody}!");
    let said = dev.hears("the last good build serves on");
    assert!(said.contains("src/lib.rs:12:") && said.contains("cannot find value `nobody`"), "{said}");
    assert!(greet().contains("Good day, World!"), "the build before serves on");

    // More than it may: it is asked for, not taken.
    change(
        &folder,
        "Ok(format!(\"Good day, {nobody}!\"))",
        "eprintln!(\"counting\");\n    static N: mcpp_tool::store::Counter = mcpp_tool::store::Counter::new(\"n\");\n    let n = mcpp_tool::store::transact(|t| Ok::<_, Error>(N.add(t, 1)?))?;\n    Ok(format!(\"Good day, {name}, the {n}th!\"))",
    );
    let said = dev.hears("to grant it: mcpp grant second_tool 'store = {}'");
    assert!(said.contains("the last good build serves on") && said.contains("+ asks for mcpp:store/"), "{said}");
    assert!(greet().contains("Good day, World!"), "the build before serves on");
    let data = folder.join(".mcpp").display().to_string();
    assert!(run(&["grant", "second_tool", "store = {}", "--data", &data], &[]).status.success());
    dev.hears("second_tool is live on");
    assert!(greet().contains("Good day, World, the 1th!"), "{}", dev.said());
    dev.hears("greet | warning: counting");

    let process = nix::unistd::Pid::from_raw(i32::try_from(dev.child.id()).expect("a process id"));
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).expect("signalled");
    assert!(dev.child.wait().expect("waited").success(), "{}", dev.said());
}
