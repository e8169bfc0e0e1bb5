//! The built-in components' machine code, compiled by the first test that needs it and copied by the others, which wait for it. A host takes it as its own: with the key of the cache.

use std::{
    fs, io,
    io::{BufRead as _, BufReader},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::command_line::mcpp;

/// Entries after which all are forgotten: builds of long ago.
const MOST_ENTRIES: usize = 64;

fn shared() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("built-in")
}

fn own(data: &Path) -> PathBuf {
    data.join("compiled/_built-in")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    listed.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).collect()
}

/// Copies a file under another name first, so that no test sees a part of it. One that is there stays.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let whole = tempfile::NamedTempFile::new_in(to.parent().expect("a folder"))?;
    fs::copy(from, whole.path())?;
    fs::set_permissions(whole.path(), fs::Permissions::from_mode(0o600))?;
    match whole.persist_noclobber(to) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => Err(refused.error),
        _ => Ok(()),
    }
}

/// Lets a host of its own compile them, unless this program has compiled them before.
fn fill() {
    fs::create_dir_all(shared()).expect("a folder");
    let lock = fs::File::create(shared().join("lock")).expect("a lock");
    lock.lock().expect("locked");
    let program = fs::metadata(mcpp()).expect("the program");
    let build = format!("{} {}", program.mtime(), program.mtime_nsec());
    if fs::read_to_string(shared().join("build")).is_ok_and(|filled| filled == build) {
        return;
    }
    let data = tempfile::tempdir().expect("a folder");
    // With the key of what is kept already: code under another key would not be.
    hand_out(data.path());
    let mut process = Command::new(mcpp())
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .current_dir(data.path())
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let lines = BufReader::new(process.stderr.take().expect("piped")).lines();
    let serves = lines.map_while(Result::ok).any(|line| line.contains(r#""message":"serving""#));
    process.kill().expect("killed");
    process.wait().expect("gone");
    assert!(serves, "the program ended before it served");
    keep(data.path());
    fs::write(shared().join("build"), build).expect("written");
}

/// Gives a host that has not begun yet the built-in components' code.
pub fn give(data: &Path) {
    if own(data).exists() {
        return;
    }
    fill();
    hand_out(data);
}

/// Copies what is kept to a host.
fn hand_out(data: &Path) {
    let (shared, own) = (shared(), own(data));
    if !shared.join("key").exists() {
        return;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).expect("a folder");
    copy(&shared.join("key"), &own.join("key")).expect("copied");
    for entry in entries(&shared) {
        // Another test may forget it meanwhile.
        let _or_it_is_compiled_again = copy(&entry, &own.join(entry.file_name().expect("a name")));
    }
}

/// Keeps what a host has compiled for other tests.
pub fn keep(data: &Path) {
    let (shared, own) = (shared(), own(data));
    if !own.join("key").exists() {
        return;
    }
    fs::create_dir_all(&shared).expect("a folder");
    copy(&own.join("key"), &shared.join("key")).expect("copied");
    if fs::read(own.join("key")).expect("a key") != fs::read(shared.join("key")).expect("a key") {
        return;
    }
    let known = entries(&shared);
    if known.len() > MOST_ENTRIES {
        known.iter().for_each(|entry| drop(fs::remove_file(entry)));
    }
    for entry in entries(&own) {
        let to = shared.join(entry.file_name().expect("a name"));
        if !to.exists() {
            copy(&entry, &to).expect("copied");
        }
    }
}
