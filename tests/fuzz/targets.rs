//! The fuzz targets, for the two programs that run them: the tests replay what is kept, the bench looks for more.

#![allow(dead_code, reason = "of the two programs that have it, each uses its part")]

pub mod components;
pub mod doors;
pub mod grants;
pub mod json;
pub mod judge;
pub mod messages;
pub mod operator_files;
pub mod pipe;
pub mod random;
pub mod schemas;
pub mod values;
pub mod wire;
pub mod wit;

use std::path::PathBuf;

/// Where a target's cases are kept.
pub fn folder(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target)
}

/// The kept cases, by name.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(folder(target)).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut files: Vec<_> = files.map(|path| (name(&path), std::fs::read(path).expect("a file"))).collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.sort();
    files
}
