//! A test's doors run on the runtime that the program has: one with several threads, on which what blocks a door's thread, or races with another, shows.

use std::path::Path;

use crate::house::sources;

/// The attributes of asynchronous tests below a folder, each with its place.
fn attributes(folder: &Path, found: &mut Vec<(String, String)>) {
    for path in sources(folder) {
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.trim().starts_with("#[tokio::test")) {
            found.push((format!("{}:{}", path.display(), number + 1), line.trim().to_owned()));
        }
    }
}

#[test]
fn every_test_runs_its_doors_on_the_multi_thread_runtime() {
    let mut found = Vec::new();
    attributes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e"), &mut found);
    assert!(found.len() > 200, "{} tests were found", found.len());
    let single: Vec<_> = found.iter().filter(|(_, attribute)| !attribute.contains("multi_thread")).collect();
    assert!(single.is_empty(), "these run on one thread: {single:#?}");
}
