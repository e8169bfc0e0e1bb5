//! The page of threats is held to the tests that it names.

use std::{collections::BTreeSet, path::Path};

use crate::house::sources;

const PAGE: &str = include_str!("../threats.md");

/// The names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for path in sources(folder) {
        let text = std::fs::read_to_string(&path).expect("text");
        let names = text.split("fn ").skip(1).filter_map(|rest| rest.split('(').next());
        found.extend(names.map(str::to_owned));
    }
}

#[test]
fn every_named_test_is_there() {
    let (here, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")), BTreeSet::new());
    for folder in ["e2e", "../host/src", "../tools", "../tool-sdk"] {
        functions(&here.join(folder), &mut found);
    }
    let rows = PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| **"));
    let named: BTreeSet<&str> = rows
        .filter_map(|row| row.rsplit_once("| ").and_then(|(rest, _)| rest.rsplit_once("| ")).map(|_| row))
        .flat_map(|row| row.split('`').skip(1).step_by(2))
        .filter(|name| name.contains('_') && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(named.len() > 60, "{} tests are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
