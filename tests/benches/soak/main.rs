//! Fuzz targets for as long as one likes: `cargo bench --package mcpp-tests --bench soak -- TARGET SECONDS [SEED]`. What fails is kept in the target's corpus, where the tests replay it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a program for developers that stops at the first surprise"
)]

#[path = "../../fuzz/components.rs"]
mod components;
#[path = "../../fuzz/random.rs"]
mod random;
#[path = "../../fuzz/schemas.rs"]
mod schemas;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::random::Random;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let (target, seconds) = match arguments.as_slice() {
        // Without arguments it is being tested whether it builds.
        [] => return,
        [target, seconds, ..] => (target.as_str(), seconds.parse().expect("seconds")),
        _ => panic!("TARGET SECONDS [SEED]"),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time");
    let seed = arguments.get(2).map_or(now.as_secs(), |seed| seed.parse().expect("a seed"));
    println!("{target}: seed {seed}");
    let (mut random, until) = (Random(seed), Instant::now() + Duration::from_secs(seconds));
    let runs = match target {
        "schemas" => soak_schemas(&mut random, until),
        "components" => soak_components(&mut random, until),
        other => panic!("no target {other}: schemas, components"),
    };
    println!("{target}: {runs} cases");
}

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(target).join(name);
    std::fs::write(&path, bytes).expect("kept");
    println!("kept {}", path.display());
}

fn soak_schemas(random: &mut Random, until: Instant) -> u64 {
    let (mut runs, mut slowest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let case = schemas::Case::random(random);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case.run())) {
            keep("schemas", &format!("held-{:016x}.json", random.0), case.json().to_string().as_bytes());
            resume_unwind(panic);
        }
        slowest = slowest.max(case.time_of_a_step().unwrap_or_default());
        runs += 1;
    }
    println!("schemas: a step took {slowest:?} at the most; the bound is {:?}", schemas::most_of_a_step());
    assert!(slowest < schemas::most_of_a_step() * 10, "the bound in steps does not bound the time");
    runs
}

fn soak_components(random: &mut Random, until: Instant) -> u64 {
    let here = std::env::current_exe().expect("a program");
    let profile = here.parent().and_then(Path::parent).expect("the target folder");
    let target = components::Target::new(&profile.join("mcpp"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/components");
    let files = std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path());
    let seeds: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).expect("a file")).collect();
    let mut runs = 0;
    while Instant::now() < until {
        let wasm = components::mutated(&seeds[random.below(seeds.len())], random);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(target.run(&wasm)))) {
            keep("components", &format!("{:016x}.wasm", random.0), &wasm);
            resume_unwind(panic);
        }
        runs += 1;
    }
    runs
}
