//! The kept corpus of each fuzz target, replayed; and some more cases from fixed seeds. Longer runs are `.ci/soak`.

#[path = "../fuzz/components.rs"]
mod components;
#[path = "../fuzz/random.rs"]
mod random;
#[path = "../fuzz/schemas.rs"]
mod schemas;

use std::path::PathBuf;

use self::random::Random;
use crate::{
    command_line::mcpp,
    support::{add, number},
};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target);
    let files = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = files.map(|path| (path.clone(), std::fs::read(path).expect("a file"))).collect();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
}

#[test]
fn the_cost_of_a_schema_is_never_above_its_bound() {
    for (path, text) in corpus("schemas") {
        let outcome = schemas::Case::parse(std::str::from_utf8(&text).expect("text")).run();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let said = name.split('-').next().expect("an outcome");
        assert_eq!(format!("{outcome:?}").to_lowercase(), said.replace('_', ""), "{name}");
    }
    let mut random = Random(13);
    let mut held = 0;
    for _ in 0..2_000 {
        held += usize::from(schemas::Case::random(&mut random).run() == schemas::Outcome::Held);
    }
    assert!(held > 200, "only {held} of the cases were checked at all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_compiled_ends_with_a_result_that_has_a_name() {
    let target = components::Target::new(&mcpp());
    for (path, wasm) in corpus("components") {
        let said = target.run(&wasm).await;
        assert!(!said.is_empty() && said.len() < 20_000, "{}: {said}", path.display());
    }
    let mut random = Random(13);
    for seed in [add(), number("n", "i32.const 1")] {
        assert_eq!(target.run(&seed).await, "compiled");
        for _ in 0..10 {
            target.run(&components::mutated(&seed, &mut random)).await;
        }
    }
}
