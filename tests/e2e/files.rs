//! Granted directories: what a program does with `std::fs` works where it is granted, and every way out is closed.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    command_line::{run, stderr, stdout},
    support::{PATIENCE, TestHost, folder, grant, guest},
};

/// A host with the component `files`, which may read `/in` and change `/out`. Both are in the host's folder, beside `outside`.
async fn files_host(grants: &str) -> TestHost {
    let files = folder(&[("files", &guest("files")), ("add", &crate::support::add())]);
    for (dir, file) in [("in", "greeting.txt"), ("out", "draft.txt"), ("outside", "secret.txt")] {
        std::fs::create_dir(files.path().join(dir)).expect("a directory");
        std::fs::write(files.path().join(dir).join(file), format!("the {dir} text")).expect("a file");
    }
    let path = |dir: &str| files.path().join(dir).display().to_string();
    let granted = format!(
        "[[components.files.files]]\npath = '{}'\n[[components.files.files]]\npath = '{}'\nat = '/work/out'\nmode = 'read-write'\n{grants}",
        path("in"),
        path("out"),
    );
    grant(&files, &granted);
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.problems(), "");
    host
}

fn inside(host: &TestHost, path: &str) -> PathBuf {
    host.folder.path().join(path)
}

/// One thing of `std::fs`.
async fn std_fs(host: &TestHost, what: &str, path: &str, other: &str) -> String {
    host.text("files_do", json!({ "what": what, "path": path, "other": other })).await
}

/// One thing of `wasi:filesystem` itself.
async fn raw(host: &TestHost, what: &str, at: &str, path: &str, other: &str) -> String {
    host.text("files_raw", json!({ "what": what, "at": at, "path": path, "other": other })).await
}

async fn value(host: &TestHost, tool: &str, arguments: Value) -> Value {
    let answer = host.call(tool, arguments).await;
    let result = &answer["result"]["structuredContent"]["result"];
    assert!(!result.is_null(), "{tool}: {answer}");
    result.clone()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("readable")
}

/// The names of all that is there, and what the files hold.
fn everything(path: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(path).expect("readable").map(|entry| entry.expect("an entry"));
    let mut all: Vec<_> = entries
        .map(|entry| {
            let held = std::fs::read_to_string(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), held)
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_of_directories_is_learned() {
    let host = files_host("").await;
    let data = inside(&host, "data").display().to_string();
    let mcpp = |command: &str| {
        let done = tokio::task::block_in_place(|| run(&[command, "files", "--data", &data], &[]));
        assert!(done.status.success(), "{}", stderr(&done));
        stdout(&done)
    };
    let lines = |dir: &str, at: &str, mode: &str| {
        let path = inside(&host, dir).display().to_string();
        format!("[[files]]\npath = \"{path}\"\nat = \"{at}\"\nmode = \"{mode}\"\n")
    };
    value(&host, "files_granted", json!({})).await;
    assert!(!mcpp("learn").contains("[[files]]"), "that it knows of them is no use of them");
    value(&host, "files_read", json!({ "path": "/in/greeting.txt" })).await;
    value(&host, "files_list", json!({ "path": "/work/out" })).await;
    let learned = mcpp("learn");
    let read = [lines("in", "/in", "read"), lines("out", "/work/out", "read")];
    assert!(read.iter().all(|read| learned.contains(read)), "{learned}");
    // Deep within, and in a directory that it opened itself.
    assert_eq!(std_fs(&host, "make-dir", "/work/out/a", "").await, "done");
    assert!(mcpp("learn").contains(&lines("out", "/work/out", "read-write")), "{}", mcpp("learn"));
    // The least grant has to name the denied access, and the host says why it was denied.
    assert_ne!(std_fs(&host, "append", "/in/greeting.txt", "more").await, "done");
    let learned = mcpp("learn");
    assert!(learned.contains(&lines("in", "/in", "read-write")), "{learned}");
    assert_eq!(learned.matches("[[files]]").count(), 2, "{learned}");
    let explained = mcpp("explain");
    assert!(explained.contains("denied 1 times, last in `files_do`: it may only read /in"), "{explained}");
    assert!(explained.contains("mcpp grant files '[[files]]"), "{explained}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_reads_lists_and_writes_where_it_may() {
    let host = files_host("").await;
    assert_eq!(value(&host, "files_granted", json!({})).await, json!(["/in", "/work/out"]));
    assert_eq!(value(&host, "files_read", json!({ "path": "/in/greeting.txt" })).await, "the in text");
    assert_eq!(value(&host, "files_list", json!({ "path": "/in" })).await, json!(["greeting.txt"]));
    host.call("files_write", json!({ "path": "/work/out/new.txt", "text": "new" })).await;
    assert_eq!(std_fs(&host, "append", "/work/out/new.txt", " and more").await, "done");
    assert_eq!(text(&inside(&host, "out/new.txt")), "new and more");
    for (what, path, other) in [
        ("make-dir", "/work/out/dir", ""),
        ("rename", "/work/out/new.txt", "/work/out/dir/old.txt"),
        ("link", "/work/out/dir/old.txt", "/work/out/dir/twin.txt"),
        ("remove", "/work/out/dir/old.txt", ""),
        ("set-len", "/work/out/dir/twin.txt", "3"),
        ("touch", "/work/out/dir/twin.txt", ""),
    ] {
        assert_eq!(std_fs(&host, what, path, other).await, "done", "{what}");
    }
    let twin = inside(&host, "out/dir/twin.txt");
    assert_eq!(text(&twin), "new");
    let modified = std::fs::metadata(&twin).and_then(|meta| meta.modified()).expect("a time");
    assert_eq!(modified, std::time::UNIX_EPOCH + Duration::from_secs(1));
    assert_eq!(raw(&host, "set-times-at", "/work/out", "dir/twin.txt", "").await, "done");
    assert_eq!(raw(&host, "set-times-at", "/work/out", "dir", "").await, "done");
    assert_ne!(std::fs::metadata(&twin).and_then(|meta| meta.modified()).expect("a time"), modified);
    assert_eq!(std_fs(&host, "remove-all", "/work/out/dir", "").await, "done");
    assert_eq!(everything(&inside(&host, "out")), [("draft.txt".to_owned(), "the out text".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_grant_there_is_no_directory_at_all() {
    let host = TestHost::start(&[("files", &guest("files"))]).await;
    assert_eq!(host.problems(), "", "it loads: language runtimes import the interface");
    assert_eq!(value(&host, "files_granted", json!({})).await, json!([]));
    for path in ["/", "/etc/passwd", "/proc/self/environ", ".", "greeting.txt"] {
        let read = host.text("files_read", json!({ "path": path })).await;
        assert!(read.starts_with("error: "), "{path}: {read}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_there_is_a_problem_that_names_it() {
    let files = folder(&[("files", &guest("files"))]);
    let missing = files.path().join("missing");
    grant(&files, &format!("[[components.files.files]]\npath = '{}'\n", missing.display()));
    let host = TestHost::start_with(files, |_| {}).await;
    assert!(host.problems().contains(&format!("names the directory {}", missing.display())), "{}", host.problems());
    // A file is not a directory, and a pipe is not waited for.
    for make in [|path: &Path| std::fs::write(path, "a file").expect("written"), pipe] {
        make(&missing);
        host.host.reload().await.expect("reloaded");
        assert!(host.problems().contains("cannot be opened"), "{}", host.problems());
        std::fs::remove_file(&missing).expect("removed");
    }
    std::fs::create_dir(&missing).expect("made");
    host.host.reload().await.expect("reloaded");
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_hosts_own_is_given_to_nobody() {
    for (granted, mode) in
        [("data", "read"), ("data/store", "read"), ("tools", "read-write"), (".", "read"), ("link", "read")]
    {
        let files = folder(&[("files", &guest("files"))]);
        symlink("data", files.path().join("link")).expect("a link");
        let path = files.path().join(granted);
        let text = format!("[[components.files.files]]\npath = '{}'\nat = '/x'\nmode = '{mode}'\n", path.display());
        grant(&files, &text);
        let host = TestHost::start_with(files, |_| {}).await;
        assert!(host.problems().contains("where this host keeps its own files"), "{granted}: {}", host.problems());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_a_directory_that_is_only_read_can_be_changed() {
    let host = files_host("").await;
    let before = everything(&inside(&host, "in"));
    let modified =
        || std::fs::metadata(inside(&host, "in/greeting.txt")).and_then(|meta| meta.modified()).expect("a time");
    let earlier = modified();
    for (what, path, other) in [
        ("append", "/in/greeting.txt", "more"),
        ("create-new", "/in/new.txt", ""),
        ("truncate", "/in/greeting.txt", ""),
        ("set-len", "/in/greeting.txt", "0"),
        ("touch", "/in/greeting.txt", ""),
        ("remove", "/in/greeting.txt", ""),
        ("remove-dir", "/in", ""),
        ("make-dir", "/in/dir", ""),
        ("rename", "/in/greeting.txt", "/in/other.txt"),
        ("link", "/in/greeting.txt", "/in/other.txt"),
        // Between the two directories, in both directions: neither may what is read be taken away, nor a way to change it be made.
        ("rename", "/in/greeting.txt", "/work/out/taken.txt"),
        ("rename", "/work/out/draft.txt", "/in/put.txt"),
        ("link", "/in/greeting.txt", "/work/out/writable.txt"),
        ("link", "/work/out/draft.txt", "/in/put.txt"),
    ] {
        let said = std_fs(&host, what, path, other).await;
        assert!(said.starts_with("error: "), "{what} {path} {other}: {said}");
    }
    for what in [
        "open-write",
        "open-truncate",
        "open-create",
        "write",
        "write-stream",
        "append-stream",
        "set-size",
        "set-times",
        "set-times-at",
    ] {
        let said = raw(&host, what, "/in", "greeting.txt", "").await;
        assert!(said.starts_with("error: refused: "), "{what}: {said}");
    }
    assert!(raw(&host, "open-mutable", "/in", ".", "").await.starts_with("error: refused: "));
    assert!(raw(&host, "symlink", "/in", "link", "greeting.txt").await.starts_with("error: refused: "));
    assert_eq!(everything(&inside(&host, "in")), before);
    assert_eq!(modified(), earlier);
    assert_eq!(everything(&inside(&host, "out")), [("draft.txt".to_owned(), "the out text".to_owned())]);
}

/// Tries to read what is outside, by path and by handle.
async fn escape(host: &TestHost, path: &str) {
    let secret = "the outside text";
    let read = host.text("files_read", json!({ "path": format!("/work/out/{path}") })).await;
    assert!(read.starts_with("error: ") && !read.contains(secret), "{path}: {read}");
    for what in ["read", "stat", "open-write", "set-times-at"] {
        let said = raw(host, what, "/work/out", path, "").await;
        assert!(said.starts_with("error: refused: "), "{what} {path}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dots_and_absolute_paths_do_not_lead_out() {
    let host = files_host("").await;
    let absolute = inside(&host, "outside/secret.txt").display().to_string();
    for path in
        ["../outside/secret.txt", "./../outside/secret.txt", "../../../../../../etc/passwd", "/etc/passwd", &absolute]
    {
        escape(&host, path).await;
    }
    for what in ["remove", "make-dir", "create-new"] {
        assert!(std_fs(&host, what, "/work/out/../outside/secret.txt", "").await.starts_with("error: "), "{what}");
    }
    assert!(
        std_fs(&host, "rename", "/work/out/draft.txt", "/work/out/../outside/put.txt").await.starts_with("error: ")
    );
    assert_eq!(everything(&inside(&host, "outside")), [("secret.txt".to_owned(), "the outside text".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_do_not_lead_out() {
    let host = files_host("").await;
    let secret = inside(&host, "outside/secret.txt");
    for (name, target) in [
        ("absolute", secret.clone()),
        ("relative", "../outside/secret.txt".into()),
        ("proc", "/proc/self/environ".into()),
        ("root", "/proc/self/root/etc/passwd".into()),
        ("fd", "/proc/self/fd/0".into()),
        ("loop", "loop".into()),
    ] {
        symlink(target, inside(&host, "out").join(name)).expect("a link");
        escape(&host, name).await;
    }
    symlink("../outside", inside(&host, "out/dir")).expect("a link");
    escape(&host, "dir/secret.txt").await;
    assert!(std_fs(&host, "remove", "/work/out/dir/secret.txt", "").await.starts_with("error: "));
    // A guest's own links: it cannot make an absolute one, and cannot follow a relative one.
    let made = raw(&host, "symlink", "/work/out", "own", &secret.display().to_string()).await;
    assert!(made.starts_with("error: refused: "), "{made}");
    assert_eq!(raw(&host, "symlink", "/work/out", "own", "../outside/secret.txt").await, "done");
    escape(&host, "own").await;
    // Where a link leads is not told if that is absolute.
    assert!(raw(&host, "readlink", "/work/out", "absolute", "").await.starts_with("error: refused: "));
    // A hard link shows what it links, as everywhere; the guest cannot make one to a file outside.
    assert!(std_fs(&host, "link", "/work/out/../outside/secret.txt", "/work/out/hard").await.starts_with("error: "));
    assert!(std_fs(&host, "link", "/work/out/absolute", "/work/out/hard").await != "the outside text");
    assert!(!text(&inside(&host, "out/draft.txt")).contains("outside"));
    assert_eq!(text(&secret), "the outside text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_swapped_in_during_the_call_does_not_lead_out() {
    let host = files_host("").await;
    let (dir, aside, out) = (inside(&host, "out/dir"), inside(&host, "out/aside"), inside(&host, "outside"));
    std::fs::create_dir(&dir).expect("a directory");
    std::fs::write(dir.join("secret.txt"), "harmless").expect("a file");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let stop = std::sync::Arc::clone(&stop);
        move || {
            let mut swaps = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::rename(&dir, &aside).expect("moved away");
                symlink(&out, &dir).expect("a link instead");
                std::fs::remove_file(&dir).expect("the link is removed");
                std::fs::rename(&aside, &dir).expect("moved back");
                swaps += 1;
            }
            swaps
        }
    });
    let seen = value(&host, "files_watch", json!({ "path": "/work/out/dir/secret.txt", "times": 5_000 })).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(swapping.join().expect("joined") > 100, "it was swapped while it was read");
    assert_eq!(seen, json!(["harmless"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_put_in_the_place_of_the_directory_itself_leads_nowhere() {
    let host = files_host("").await;
    std::fs::rename(inside(&host, "in"), inside(&host, "in-before")).expect("moved away");
    symlink("outside", inside(&host, "in")).expect("a link instead");
    assert_eq!(value(&host, "files_list", json!({ "path": "/in" })).await, json!(["greeting.txt"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_was_made_anew_is_seen_after_a_reload() {
    let host = files_host("").await;
    std::fs::remove_dir_all(inside(&host, "in")).expect("removed");
    std::fs::create_dir(inside(&host, "in")).expect("made anew");
    std::fs::write(inside(&host, "in/anew.txt"), "anew").expect("a file");
    host.host.reload().await.expect("reloaded");
    assert_eq!(value(&host, "files_list", json!({ "path": "/in" })).await, json!(["anew.txt"]));
}

/// Makes a pipe that nobody holds the other end of.
fn pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a pipe");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_does_not_hang_anything() {
    let host = files_host("[components.files.limits]\ndeadline_ms = 5000\n").await;
    pipe(&inside(&host, "out/pipe"));
    let started = Instant::now();
    // More of them than there are threads for files: none may keep its thread. One kind after the other, so that none opens for another.
    for what in ["read", "open-write", "set-times-at", "open-truncate"] {
        let calls = (0..20).map(|_| raw(&host, what, "/work/out", "pipe", ""));
        for said in futures::future::join_all(calls).await {
            assert!(said.starts_with("error: refused: "), "{what}: {said}");
        }
    }
    let health = host.http.get(format!("http://{}/health", host.host.address())).send().await.expect("an answer");
    assert_eq!(health.status(), 200);
    assert_eq!(value(&host, "files_read", json!({ "path": "/in/greeting.txt" })).await, "the in text");
    assert!(started.elapsed() < PATIENCE);
    assert!(host.metric("mcpp_guests_dropped_total").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_files_and_directories_are_opened() {
    let host = files_host("").await;
    let _listening = std::os::unix::net::UnixListener::bind(inside(&host, "out/socket")).expect("a socket");
    assert!(raw(&host, "read", "/work/out", "socket", "").await.starts_with("error: refused: "));
    // A device, where the test may make one.
    let device = inside(&host, "out/device");
    let zero = nix::sys::stat::makedev(1, 5);
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
    if nix::sys::stat::mknod(&device, nix::sys::stat::SFlag::S_IFCHR, mode, zero).is_ok() {
        for what in ["read", "open-write"] {
            assert!(raw(&host, what, "/work/out", "device", "").await.starts_with("error: refused: "), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_names_and_deep_directories_are_errors_and_nothing_more() {
    let host = files_host("").await;
    let long = "n".repeat(1 << 20);
    for name in [long.as_str(), &"n".repeat(256), &"d/".repeat(5_000), "a\0b"] {
        let said = raw(&host, "open-create", "/work/out", name, "").await;
        assert!(said.starts_with("error: refused: "), "{said}");
    }
    // Deeper than a path can name: one step at a time.
    assert_eq!(value(&host, "files_dig", json!({ "at": "/work/out", "depth": 3_000 })).await, json!([3_000, "all"]));
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_has_open_is_bounded() {
    let host = files_host("").await;
    for (path, kept_as) in [("greeting.txt", "files"), ("greeting.txt", "streams"), (".", "files")] {
        let arguments = json!({ "at": "/in", "path": path, "kept_as": kept_as, "most": 1_000 });
        assert_eq!(value(&host, "files_hoard", arguments).await, json!([64, "busy"]), "{path} {kept_as}");
    }
    // The next call can have the files that one call had open.
    assert_eq!(value(&host, "files_read", json!({ "path": "/in/greeting.txt" })).await, "the in text");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_bounded_before_it_is_taken_into_memory() {
    let host = files_host("[components.files.limits]\nhost_calls = 1000000\n").await;
    let dir = inside(&host, "in/many");
    std::fs::create_dir(&dir).expect("a directory");
    for number in 0..40_000 {
        std::fs::hard_link(inside(&host, "in/greeting.txt"), dir.join(number.to_string())).expect("a link");
    }
    // Two of them may be held at once, and a third not.
    let one = value(&host, "files_list", json!({ "path": "/in/many" })).await;
    assert_eq!(one.as_array().map(Vec::len), Some(40_000));
    let held = json!({ "at": "/in", "path": "many", "kept_as": "listings", "most": 3 });
    assert_eq!(value(&host, "files_hoard", held).await, json!([2, "overflow"]));
}

/// Writes more than a call may, in one of the ways there are; how much is there then.
async fn flood(how: &str) -> u64 {
    let host = files_host("[components.files.limits]\nfile_bytes = 100000\n").await;
    let arguments = json!({ "at": "/work/out", "path": "flood", "how": how, "pieces": 1_000, "piece": 4_000 });
    let said = host.text("files_flood", arguments).await;
    assert_eq!(said, "error: budget `file_bytes` exceeded: the tool was stopped at 100000", "{how}");
    // Another call has its own.
    let arguments = json!({ "at": "/work/out", "path": "small", "how": how, "pieces": 2, "piece": 4_000 });
    assert_eq!(host.text("files_flood", arguments).await, "written", "{how}");
    let counted = host.metric("mcpp_guest_file_bytes_total").await;
    assert!(counted.iter().any(|line| line.contains("files_flood")), "{counted:?}");
    std::fs::metadata(inside(&host, "out/flood")).expect("there").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_writes_to_files_is_bounded_however_it_writes() {
    for how in ["write", "stream", "append", "zeroes", "unflushed"] {
        assert!(flood(how).await <= 100_000, "{how}");
    }
    assert!(flood("size").await <= 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_writes_too_much_is_stopped() {
    let host = files_host("[components.files.limits]\nfile_bytes = 100000\n").await;
    let write = |bytes: usize| json!({ "path": "/work/out/flood", "text": "x".repeat(bytes) });
    assert_eq!(host.text("files_write", write(100_000)).await, "");
    let said = host.text("files_write", write(200_000)).await;
    assert_eq!(said, "error: budget `file_bytes` exceeded: the tool was stopped at 100000");
    assert!(std::fs::metadata(inside(&host, "out/flood")).expect("there").len() <= 100_000);
}
