//! Fuzz targets for as long as one likes: `cargo bench --package mcpp-tests --bench soak -- TARGET SECONDS [SEED]`.
//! A failing case is kept in the target's corpus, where the tests replay it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a program for developers that stops at the first surprise"
)]

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::targets::{components, corpus, doors::Doors, folder, grants, messages, random::Random, schemas, values};

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
        "values" => soak_values(&mut random, until),
        "grants" => soak_grants(&mut random, until),
        "messages" => soak_messages(&mut random, until),
        other => panic!("no target {other}: schemas, components, values, grants, messages"),
    };
    println!("{target}: {runs} cases");
}

/// The program that was built beside this one.
fn mcpp() -> PathBuf {
    let here = std::env::current_exe().expect("a program");
    here.parent().and_then(Path::parent).expect("the target folder").join("mcpp")
}

fn keep(target: &str, name: &str, bytes: &[u8]) {
    let path = folder(target).join(name);
    std::fs::write(&path, bytes).expect("kept");
    println!("kept {}", path.display());
}

/// Runs a case, and keeps it if that fails.
fn run<T>(target: &str, name: &str, bytes: impl FnOnce() -> Vec<u8>, case: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        keep(target, name, &bytes());
        resume_unwind(panic)
    })
}

/// The longest that a step may take, in nanoseconds: a quarter of what the host takes it for. Measured on two cores that did other work too, over 5,900 cases in a
/// release build and 800 in a build for tests: 1.1 and 1.4 at the most, 0.02 and 0.05 at the median. The rest is for slower machines and noise.
const MOST_OF_A_STEP_NS: f64 = 5.0;
/// A case that takes longer is timed so often again, as its time may have been another program's.
const TIMED_AGAIN: usize = 5;

fn soak_schemas(random: &mut Random, until: Instant) -> u64 {
    let (mut runs, mut slowest, mut steps) = (0, 0.0_f64, Vec::new());
    while Instant::now() < until {
        let case = schemas::Case::random(random);
        let name = format!("held-{:016x}.json", random.0);
        run("schemas", &name, || case.json().to_string().into(), || case.run());
        let large = schemas::Case::large(random);
        if let Some(mut ns) = large.step_ns() {
            for _ in 0..TIMED_AGAIN {
                if ns > MOST_OF_A_STEP_NS {
                    ns = ns.min(large.step_ns().unwrap_or_default());
                }
            }
            steps.push(ns);
            if ns > slowest {
                slowest = ns;
                println!("schemas: {ns:.2} ns a step: {:.400}", large.json().to_string());
            }
        }
        runs += 1;
    }
    steps.sort_by(f64::total_cmp);
    let part = |of: usize| steps.get(steps.len() * of / 1_000).copied().unwrap_or_default();
    println!(
        "schemas: of {} cases a step took {:.2} ns at the median, {:.2} at 99.9 %, {slowest:.2} at the most",
        steps.len(),
        part(500),
        part(999)
    );
    assert!(slowest < MOST_OF_A_STEP_NS, "the bound in steps does not bound the time");
    runs
}

fn soak_components(random: &mut Random, until: Instant) -> u64 {
    let target = components::Target::new(&mcpp());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let seeds: Vec<Vec<u8>> = corpus("components").into_iter().map(|(_, wasm)| wasm).collect();
    let mut runs = 0;
    while Instant::now() < until {
        let wasm = components::mutated(&seeds[random.below(seeds.len())], random);
        let name = format!("{:016x}.wasm", random.0);
        run("components", &name, || wasm.clone(), || runtime.block_on(target.run(&wasm)));
        runs += 1;
    }
    runs
}

fn soak_values(random: &mut Random, until: Instant) -> u64 {
    let mut runs = 0;
    while Instant::now() < until {
        let cases = values::Case::some(random);
        let echo =
            run("values", "taken-type.json", || cases[0].json().to_string().into(), || values::Echo::new(&cases[0].ty));
        let Some(echo) = echo else { continue };
        for (n, case) in cases.iter().enumerate() {
            let name = format!("refused-{:016x}-{n}.json", random.0);
            run("values", &name, || case.json().to_string().into(), || case.run_on(&echo));
            runs += 1;
        }
    }
    runs
}

/// Longest that reading any file of an operator may take, in any build: the largest are a mebibyte, those of tokens eight.
const MOST_OF_A_FILE: Duration = Duration::from_secs(2);

fn soak_grants(random: &mut Random, until: Instant) -> u64 {
    let target = grants::Target::new();
    let (mut runs, mut slowest) = (0, Duration::ZERO);
    while Instant::now() < until {
        let case = grants::Case::random(random);
        let name = format!("{}-taken-{:016x}.toml", case.kind.name(), random.0);
        let time = run(
            "grants",
            &name,
            || case.text.clone(),
            || {
                target.run(&case, random);
                let time = target.time(&case);
                assert!(time < MOST_OF_A_FILE, "it took {time:?} to read it");
                time
            },
        );
        slowest = slowest.max(time);
        runs += 1;
    }
    println!("grants: a file took {slowest:?} at the most");
    runs
}

/// Messages that are under way together.
const BATCH: usize = 64;

fn soak_messages(random: &mut Random, until: Instant) -> u64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut doors = Doors::open(&mcpp()).await;
        let mut runs = 0;
        while Instant::now() < until {
            let seed = random.0;
            let cases: Vec<_> = (runs..).take(BATCH).map(|n| messages::Case::random(random, n)).collect();
            if let Err(broken) = doors.run(&cases).await {
                for (n, case) in cases.iter().enumerate().filter(|(n, _)| broken.case.is_none_or(|case| case == *n)) {
                    keep("messages", &format!("refused-{seed:016x}-{n}.txt"), &case.bytes());
                }
                panic!("{}", broken.why);
            }
            runs += 64;
        }
        doors.close().await;
        runs
    })
}
