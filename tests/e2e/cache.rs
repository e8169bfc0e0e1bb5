//! The compile cache: used when it is right, never trusted when it is not.

use std::path::PathBuf;

use serde_json::json;

use crate::support::{TestHost, add, binary, folder};

fn entries(folder: &std::path::Path) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(folder.join("data/compiled/local")).expect("a cache");
    let mut entries: Vec<PathBuf> = dir
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cwasm"))
        .collect();
    entries.sort();
    entries
}

/// Starts a host on a folder that had one before, with its cache changed in between; whether the entry there was used as it was.
async fn restart_after(change: impl FnOnce(&std::path::Path)) -> bool {
    let TestHost { host, folder, .. } = TestHost::start(&[("add", &add())]).await;
    host.stop().await;
    change(folder.path());
    let before = inode(&entries(folder.path())[0]);
    let second = TestHost::start_with(folder, |_| {}).await;
    assert_eq!(second.text("add", json!({ "a": 40, "b": 2 })).await, r#"{"result":42}"#);
    let after = entries(second.folder.path());
    assert_eq!(after.len(), 1, "the entry is replaced, not kept beside another");
    // An entry is replaced by moving a new file into its place.
    before == inode(&after[0])
}

fn inode(path: &std::path::Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).expect("an entry"))
}

fn corrupt(folder: &std::path::Path, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let entry = &entries(folder)[0];
    let bytes = std::fs::read(entry).expect("an entry");
    std::fs::write(entry, change(bytes)).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_entry_is_used() {
    assert!(restart_after(|_| {}).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_entry_is_compiled_again() {
    assert!(!restart_after(|folder| corrupt(folder, |_| Vec::new())).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_entry_is_compiled_again() {
    assert!(!restart_after(|folder| corrupt(folder, |bytes| bytes.into_iter().take(1000).collect())).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_entry_is_compiled_again() {
    let flip = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    assert!(!restart_after(|folder| corrupt(folder, flip)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_with_a_forged_mac_is_compiled_again() {
    let forge = |bytes: Vec<u8>| {
        let code = bytes[32..].to_vec();
        // An attacker can compute this without the key.
        [blake3_like(&code), code].concat()
    };
    assert!(!restart_after(|folder| corrupt(folder, forge)).await);
}

fn blake3_like(code: &[u8]) -> Vec<u8> {
    code.iter().cycle().take(32).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_means_another_cache() {
    assert!(
        !restart_after(|folder| std::fs::write(folder.join("data/compiled/local/key"), [7; 32]).expect("written"))
            .await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_key_is_made_anew() {
    assert!(
        !restart_after(|folder| std::fs::write(folder.join("data/compiled/local/key"), b"short").expect("written"))
            .await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_of_another_component_is_not_taken_for_this_one() {
    let host = TestHost::start(&[("a", &binary("a", "local.get 0")), ("b", &binary("b", "local.get 1"))]).await;
    let TestHost { host, folder: files, .. } = host;
    host.stop().await;
    let entries = entries(files.path());
    let (first, second) = (std::fs::read(&entries[0]).expect("read"), std::fs::read(&entries[1]).expect("read"));
    std::fs::write(&entries[0], second).expect("written");
    std::fs::write(&entries[1], first).expect("written");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.text("a", json!({ "a": 1, "b": 2 })).await, r#"{"result":1}"#);
    assert_eq!(host.text("b", json!({ "a": 1, "b": 2 })).await, r#"{"result":2}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_cache_serves_all_the_same() {
    let files = folder(&[("add", &add())]);
    std::fs::create_dir_all(files.path().join("data")).expect("made");
    std::fs::write(files.path().join("data/compiled"), b"in the way").expect("written");
    let host = TestHost::start_with(files, |_| {}).await;
    assert_eq!(host.text("add", json!({ "a": 1, "b": 2 })).await, r#"{"result":3}"#);
}
