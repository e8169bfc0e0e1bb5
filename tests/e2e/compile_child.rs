//! Compiling in a process of its own: its limits, what it has, what is remembered, and what live code may have.

use std::{
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    command_line::mcpp,
    support::{PATIENCE, TestHost, add, binary, folder, wat, with_module},
};

/// A child that cannot be started: a build that needs one fails and says so.
fn nobody() -> PathBuf {
    "/nothing/here".into()
}

/// One function whose many locals are all alive around many loops beside each other and across many calls; quick to read, slow to compile.
fn slow(locals: usize, loops: usize) -> Vec<u8> {
    let names: Vec<String> = (0..locals).map(|n| format!("(local $l{n} i64)")).collect();
    let step: Vec<String> =
        (0..loops).map(|n| format!("(loop $x{n} (local.set $l{} (i64.add (local.get $l{}) (local.get $l{}))) (call $g) (br_if $x{n} (local.get $p)))", n % locals, (n * 7 + 1) % locals, (n * 13 + 5) % locals)).collect();
    let start: Vec<String> =
        (0..locals).map(|n| format!("(local.set $l{n} (i64.load (i32.const {})))", n * 8 % 60_000)).collect();
    let end: Vec<String> =
        (0..locals).map(|n| format!("(i64.store (i32.const {}) (local.get $l{n}))", n * 8 % 60_000)).collect();
    let body = format!("{} {} {}", start.join(" "), step.join(" "), end.join(" "));
    let module = format!(
        r#"(memory 1) (func $g) (func $h (param $p i32) {} {body}) (func (export "f") (result i32) (call $h (i32.const 0)) (i32.const 1))"#,
        names.join(" ")
    );
    with_module("run", &module)
}

async fn failed(folder: TempDir, change: impl FnOnce(&mut mcpp::config::Config)) -> (TempDir, String) {
    let host = TestHost::start_with(folder, change).await;
    let problems = host.problems();
    (host.stop().await, problems)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_past_its_processor_time_is_refused_by_name_and_not_tried_again() {
    let files = folder(&[("slow", &slow(3_000, 1_300))]);
    let (files, said) = failed(files, |config| config.compile.cpu_ms = 1_000).await;
    assert!(said.contains("compiling it takes more than 1 s of processor time (`compile.cpu_ms`)"), "{said}");
    let again = |config: &mut mcpp::config::Config| {
        (config.compile.cpu_ms, config.compile.program) = (1_000, Some(nobody()));
    };
    let (files, said) = failed(files, again).await;
    assert!(said.contains("1 s of processor time") && said.contains("not compiled again until"), "{said}");
    // Another limit is another build, and so is another file.
    let (files, said) =
        failed(files, |config| (config.compile.cpu_ms, config.compile.program) = (2_000, Some(nobody()))).await;
    assert!(said.contains("cannot start /nothing/here to compile it"), "{said}");
    std::fs::write(files.path().join("tools/slow.wasm"), slow(3_000, 1_299)).expect("written");
    let (_files, said) = failed(files, again).await;
    assert!(said.contains("cannot start /nothing/here"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_past_its_memory_is_refused_by_name_and_the_host_serves() {
    let files = folder(&[("slow", &slow(3_000, 1_300)), ("add", &add())]);
    let host = TestHost::start_with(files, |config| config.compile.memory_bytes = 64 << 20).await;
    let said = host.problems();
    assert!(said.contains("compiling it takes more than 64 MiB of memory (`compile.memory_bytes`)"), "{said}");
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_compiler_makes_is_refused_without_a_child() {
    let segments: String = (0..65_535_u64).map(|n| format!("(data (i32.const {}) \"x\")", n * 65_536)).collect();
    let (open, close) = ("loop ".repeat(300), "end ".repeat(300));
    let locals = "i32 ".repeat(40_000);
    let exports: String = (0..3_000).map(|n| format!(r#"(export "e{n}" (func $f))"#)).collect();
    let files = folder(&[
        (
            "image",
            &with_module("run", &format!(r#"(memory 65536) {segments} (func (export "f") (result i32) i32.const 1)"#)),
        ),
        (
            "loops",
            &with_module(
                "run",
                &format!(r#"(func (export "f") (result i32) (local {locals}) {open} {close} i32.const 1)"#),
            ),
        ),
        ("imports", &with_module("run", &r#"(import "a" "b" (func))"#.repeat(30_001))),
    ]);
    let (files, said) = failed(files, |config| config.compile.program = Some(nobody())).await;
    for line in [
        "image: its memories begin with 4294967296 bytes; `memory_bytes` allows a call 67108864",
        "loops: its function 0 has 40000 locals in 300 loops; at most 4000000 for both multiplied are compiled",
        "imports: it has 30001 imports; at most 30000 are compiled",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let many = format!(
        r#"(component (core module $m (func (export "f") (result i32) i32.const 1)) (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f"))) {exports})"#
    );
    let small: String = (0..1_000_u64).map(|n| format!("(data (i32.const {}) \"x\")", n * 65_536)).collect();
    let small = format!(r#"(memory 1000) {small} (func (export "f") (result i32) (i32.load8_u (i32.const 65536)))"#);
    std::fs::remove_dir_all(files.path().join("tools")).expect("gone");
    let files = folder(&[("many", &wat(&many)), ("small", &with_module("small", &small))]);
    let host = TestHost::start_with(files, |_| {}).await;
    assert!(host.problems().contains("many: it has 3000 tools; at most 1000 are loaded"), "{}", host.problems());
    assert_eq!(host.text("small", json!({})).await, r#"{"result":120}"#, "what fits is loaded as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_the_cache_has_no_child() {
    let host = TestHost::start(&[("add", &add())]).await;
    let files = host.stop().await;
    let host = TestHost::start_with(files, |config| config.compile.program = Some(nobody())).await;
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    host.write("sub", &binary("sub", "local.get 0 local.get 1 i32.sub"));
    host.until("the build that needs a child has failed", async |host| host.problems().contains("cannot start")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_this_one_is_no_child() {
    for program in ["/bin/false", "/bin/echo"] {
        let (_files, said) =
            failed(folder(&[("add", &add())]), |config| config.compile.program = Some(program.into())).await;
        assert!(
            said.contains(&format!("the process that compiles failed: {program} does not know `compile-child`")),
            "{said}"
        );
    }
}

/// A child has what it needs and nothing else: a script stands in for it and notes what it was given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_gets_neither_environment_nor_descriptors_nor_files() {
    let files = folder(&[("add", &add())]);
    let (script, noted) = (files.path().join("child.sh"), files.path().join("noted"));
    let text = format!(
        "#!/bin/sh\n/usr/bin/env > {0}\nfor d in /proc/$$/fd/*; do echo \"fd ${{d##*/}} $(readlink $d)\"; done >> {0}\nexec {1} \"$@\"\n",
        noted.display(),
        mcpp().display()
    );
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).expect("a program");
    let host = TestHost::start_with(files, |config| config.compile.program = Some(script.clone())).await;
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
    let noted = std::fs::read_to_string(noted).expect("noted");
    for line in noted.lines() {
        match line.strip_prefix("fd ").and_then(|descriptor| descriptor.split_once(' ')) {
            // The host's own: connections, timers and files of its data. Others may be of whatever started this test; the child closes them itself.
            Some((number, to)) => {
                let of_the_host =
                    ["socket:", "anon_inode:"].iter().any(|kind| to.starts_with(kind)) || to.contains("/data/");
                assert!(!of_the_host, "descriptor {number} is {to} in {noted}");
            }
            // The last three are the shell's own.
            None => assert!(
                ["RAYON_NUM_THREADS=", "_RJEM_MALLOC_CONF=", "PWD=", "SHLVL=", "_="]
                    .iter()
                    .any(|name| line.starts_with(name)),
                "{line} in {noted}"
            ),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a test without a runtime of its own")]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_child_bounds_itself_closes_what_it_inherited_and_ends_with_its_host() {
    // The shell is the host here. It has a descriptor that its child inherits.
    let script = format!("exec 9</dev/null; {} compile-child; true", mcpp().display());
    let mut host =
        Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
    let children = format!("/proc/{0}/task/{0}/children", host.id());
    let child = || std::fs::read_to_string(&children).ok()?.split_whitespace().next().map(str::to_owned);
    until("there is a child", || child().is_some());
    let proc = Path::new("/proc").join(child().expect("a child"));
    let is_mcpp =
        || std::fs::read(proc.join("cmdline")).is_ok_and(|line| line.windows(13).any(|part| part == b"compile-child"));
    until("the child is the program", is_mcpp);
    let descriptors = || std::fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
    until("it has closed the descriptor", || descriptors() == 3);
    let order = json!({ "features": 0, "engine": "", "memory_bytes": 1 << 30, "cpu_seconds": 7, "host": host.id() });
    let mut input = host.stdin.take().expect("a pipe");
    input.write_all(format!("{order}\n").as_bytes()).expect("sent");
    let limits = || std::fs::read_to_string(proc.join("limits")).unwrap_or_default();
    let limit = |name: &str| {
        let line = limits().lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap_or_default();
        line.split_whitespace().rev().nth(2).map(str::to_owned).unwrap_or_default()
    };
    until("it has bounded its descriptors, the last of its limits", || limit("Max open files") == "16");
    assert_eq!(limit("Max cpu time"), "7", "{}", limits());
    assert_eq!(limit("Max file size"), "0", "{}", limits());
    assert_eq!(limit("Max core file size"), "0", "{}", limits());
    assert_ne!(limit("Max address space"), "unlimited", "{}", limits());
    host.kill().expect("ended");
    host.wait().expect("ended");
    until("the child is gone too", || !proc.join("exe").exists());
    drop(input);
}

#[test]
fn a_child_of_somebody_else_does_nothing() {
    let mut child = Command::new(mcpp())
        .arg("compile-child")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let order = json!({ "features": 0, "engine": "", "memory_bytes": 1 << 30, "cpu_seconds": 7, "host": 1 });
    child.stdin.take().expect("a pipe").write_all(format!("{order}\n").as_bytes()).expect("sent");
    let said = child.wait_with_output().expect("ended");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "\0mcpp compiled\0bits limits cannot be set: the host is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_code_has_a_bound_by_tenant() {
    let data = format!(
        r#"(memory 20) (data (i32.const 0) "{}") (func (export "f") (result i32) i32.const 1)"#,
        "x".repeat(700_000)
    );
    let files = folder(&[("large", &with_module("large", &data))]);
    let limits = |text: &'static str| {
        move |config: &mut mcpp::config::Config| config.tenant_limits = toml::from_str(text).expect("limits")
    };
    let (files, said) = failed(files, limits("code_bytes = 1048576")).await;
    assert!(said.contains("code_bytes of this tenant are used up: it may have 1048576"), "{said}");
    let host = TestHost::start_with(files, limits("code_bytes = 8388608")).await;
    let memory = host.host.registry().share(&mcpp::names::TenantId::local()).expect("open").memory.clone();
    let code = || memory.used(mcpp::memory::MemoryUse::Code);
    assert!(code() > 1_400_000, "the image and the code with the data in it: {}", code());
    std::fs::remove_file(host.tools_folder().join("large.wasm")).expect("removed");
    host.until("its memory is given back", async |_| code() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_has_only_so_many_live_components() {
    let names = ["a", "b", "c"].map(|name| (name, binary(name, "local.get 0")));
    let files = folder(&names.each_ref().map(|(name, wasm)| (*name, wasm.as_slice())));
    let host =
        TestHost::start_with(files, |config| config.tenant_limits = toml::from_str("components = 2").expect("limits"))
            .await;
    assert_eq!(host.tools().await.len(), 2);
    assert!(
        host.problems().contains("there are 2 components already, as many as the tenant may have"),
        "{}",
        host.problems()
    );
    let (live, waiting) = (host.tools().await, host.report.failed.keys().next().expect("one").clone());
    host.write(&live[0], &binary(&live[0], "local.get 1"));
    host.until("a live one is swapped all the same", async |host| {
        host.text(&live[0], json!({ "a": 1, "b": 2 })).await == r#"{"result":2}"#
    })
    .await;
    std::fs::remove_file(host.tools_folder().join(format!("{}.wasm", live[0]))).expect("removed");
    host.until("one is gone", async |host| host.tools().await.len() == 1).await;
    host.host.reload().await.expect("a reload");
    assert!(host.tools().await.contains(&waiting), "there is room for the one that waited");
}
