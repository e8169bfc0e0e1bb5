//! Editors and tools that do not simply write: temporary files that are renamed, the old file moved away first, a mode that changes alone, a time that is kept
//! (gadicc/meteor-hmr#53, dora-rs/dora#1812, arizona-framework/arizona#575, vorojar/md-preview#18); contents that change while time and size stay (paxsonsa/murmer-rs#8,
//! bevry/watchr#4).

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use serde_json::json;

use crate::support::{TestHost, number};

fn build(version: u32) -> Vec<u8> {
    number("v", &format!("i32.const {version}"))
}

/// How somebody saves a build as the second path; the first is a folder beside.
type Save = fn(&Path, &Path, &[u8]);

fn moved_into_place(path: &Path, temporary: &str, bytes: &[u8]) {
    let temporary = path.with_file_name(temporary);
    fs::write(&temporary, bytes).expect("written");
    fs::rename(temporary, path).expect("renamed");
}

const SAVES: [(&str, Save); 9] = [
    ("vim: moves the old one away, writes anew, removes the backup", |_, path, bytes| {
        let backup = path.with_file_name("v.wasm~");
        fs::write(path.with_file_name("4913"), "").expect("probed");
        fs::remove_file(path.with_file_name("4913")).expect("probed");
        fs::rename(path, &backup).expect("moved");
        fs::write(path, bytes).expect("written");
        fs::remove_file(backup).expect("removed");
    }),
    ("IntelliJ: a temporary file, the old one moved away", |_, path, bytes| {
        let (new, old) = (path.with_file_name("v.wasm___jb_tmp___"), path.with_file_name("v.wasm___jb_old___"));
        fs::write(&new, bytes).expect("written");
        fs::rename(path, &old).expect("moved");
        fs::rename(new, path).expect("renamed");
        fs::remove_file(old).expect("removed");
    }),
    ("sed -i and VS Code: a temporary file that is renamed", |_, path, bytes| {
        moved_into_place(path, "sedA1b2C3", bytes)
    }),
    ("a temporary file that is a component itself", |_, path, bytes| moved_into_place(path, "tmp.wasm", bytes)),
    ("mv from another folder", |beside, path, bytes| {
        fs::write(beside.join("built"), bytes).expect("written");
        fs::rename(beside.join("built"), path).expect("moved");
    }),
    ("ln -f: another name of a file that was there before", |beside, path, bytes| {
        fs::write(beside.join("linked"), bytes).expect("written");
        fs::remove_file(path).expect("removed");
        fs::hard_link(beside.join("linked"), path).expect("linked");
        fs::remove_file(beside.join("linked")).expect("removed");
    }),
    ("a chain of links", |beside, path, bytes| {
        let build = beside.join("chained.wasm");
        fs::write(&build, bytes).expect("written");
        let _none_yet = fs::remove_file(beside.join("one"));
        symlink(&build, beside.join("one")).expect("linked");
        fs::remove_file(path).expect("removed");
        symlink(beside.join("one"), path).expect("linked");
    }),
    ("rsync --times: the time of the old file, and its size", |beside, path, bytes| {
        let time = fs::metadata(path).and_then(|meta| meta.modified()).expect("a time");
        let new = beside.join("synchronized");
        fs::write(&new, bytes).expect("written");
        fs::File::options().write(true).open(&new).and_then(|file| file.set_modified(time)).expect("set");
        fs::rename(new, path).expect("moved");
    }),
    ("a time of the past, and a mode that nobody but the owner may use", |_, path, bytes| {
        fs::remove_file(path).expect("removed");
        fs::write(path, bytes).expect("written");
        let past = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(path).and_then(|file| file.set_modified(past)).expect("set");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn however_a_build_is_saved_it_serves() {
    let host = TestHost::start(&[("v", &build(1))]).await;
    let beside = host.folder.path().join("beside");
    fs::create_dir(&beside).expect("made");
    let path = host.tools_folder().join("v.wasm");
    for (number, (how, save)) in (2..).zip(SAVES) {
        save(&beside, &path, &build(number));
        host.until(how, async |host| host.text("v", json!({})).await == format!(r#"{{"result":{number}}}"#)).await;
        host.until("nothing is left over", async |host| host.tools().await == ["v"] && host.problems().is_empty())
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_a_builds_place_for_a_while_leaves_no_trace() {
    let host = TestHost::start(&[("v", &build(1))]).await;
    let path = host.tools_folder().join("v.wasm");
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    host.until("a folder is not a build", async |host| !host.problems().is_empty()).await;
    fs::remove_dir(&path).expect("removed");
    fs::write(&path, build(2)).expect("written");
    host.until("the next one serves", async |host| host.text("v", json!({})).await == r#"{"result":2}"#).await;
    assert_eq!(host.problems(), "");
    // Gone and there again within a moment, many times.
    for number in 3..40 {
        fs::remove_file(&path).expect("removed");
        fs::write(&path, build(number)).expect("written");
    }
    host.until("the last one serves", async |host| host.text("v", json!({})).await == r#"{"result":39}"#).await;
    assert_eq!((host.tools().await, host.problems()), (vec!["v".to_owned()], String::new()));
}
