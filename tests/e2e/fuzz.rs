//! The kept corpus of each fuzz target, replayed; and some more cases from fixed seeds. Longer runs are `.ci/soak`.

#[path = "../fuzz/targets.rs"]
pub mod targets;

use std::fmt::Debug;

use self::targets::{
    components, corpus, doors::Doors, grants, judge::Outcome, messages, random::Random, schemas, values,
};
use crate::{
    command_line::mcpp,
    support::{add, number},
};

/// Whether a case came to what its name says: the part of it at `place`, in words of small letters.
fn hold(name: &str, place: usize, outcome: impl Debug) {
    let said = name.split('-').nth(place).expect("an outcome");
    assert_eq!(format!("{outcome:?}").to_lowercase(), said.replace('_', ""), "{name}");
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn the_cost_of_a_schema_is_never_above_its_bound() {
    for (name, bytes) in corpus("schemas") {
        hold(&name, 0, schemas::Case::parse(text(&bytes)).run());
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
    for (name, wasm) in corpus("components") {
        let said = target.run(&wasm).await;
        assert!(!said.is_empty() && said.len() < 20_000, "{name}: {said}");
    }
    let mut random = Random(13);
    for seed in [add(), number("n", "i32.const 1")] {
        assert_eq!(target.run(&seed).await, "compiled");
        for _ in 0..10 {
            target.run(&components::mutated(&seed, &mut random)).await;
        }
    }
}

#[test]
fn a_value_comes_back_the_same_or_is_refused_with_its_place() {
    for (name, bytes) in corpus("values") {
        hold(&name, 0, values::Case::parse(text(&bytes)).run());
    }
    let mut random = Random(13);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..40 {
        let cases = values::Case::some(&mut random);
        let Some(echo) = values::Echo::new(&cases[0].ty) else { continue };
        assert_eq!(cases[0].run_on(&echo), values::Outcome::Taken, "{}", cases[0].json());
        for case in &cases {
            match case.run_on(&echo) {
                values::Outcome::Refused => refused += 1,
                _ => taken += 1,
            }
        }
    }
    assert!(taken > 40 && refused > 100, "{taken} taken, {refused} refused");
}

#[test]
fn an_operators_file_means_the_same_however_it_is_written_and_more_is_never_less() {
    let target = grants::Target::new();
    let mut random = Random(13);
    for (name, bytes) in corpus("grants") {
        hold(&name, 1, target.run(&grants::Case::parse(&name, bytes), &mut random));
    }
    let mut taken = 0;
    for _ in 0..1_000 {
        let case = grants::Case::random(&mut random);
        taken += usize::from(target.run(&case, &mut random) == grants::Outcome::Taken);
    }
    assert!(taken > 100, "only {taken} of the files were taken");
}

/// Cases that are under way together.
const BATCH: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_answers_every_message_by_the_rules() {
    let mut doors = Doors::open(&mcpp()).await;
    for kept in corpus("messages").chunks(BATCH) {
        let cases: Vec<_> = kept.iter().map(|(_, bytes)| messages::Case::parse(bytes)).collect();
        let outcomes = doors.run(&cases).await;
        let outcomes = outcomes.unwrap_or_else(|broken| {
            panic!("{}: {}", broken.case.map_or("all", |case| kept[case].0.as_str()), broken.why)
        });
        for ((name, _), outcome) in kept.iter().zip(outcomes) {
            let word = match outcome {
                Outcome::Answered(_) => "answered",
                Outcome::Refused(_) => "refused",
                Outcome::Silent => "silent",
            };
            assert_eq!(name.split('-').next(), Some(word), "{name} has come to {outcome:?}");
        }
    }
    let mut random = Random(13);
    for batch in 0..4 {
        let cases: Vec<_> =
            (0..BATCH).map(|n| messages::Case::random(&mut random, (batch * BATCH + n) as u64)).collect();
        if let Err(broken) = doors.run(&cases).await {
            panic!(
                "{}: {:?}",
                broken.why,
                broken.case.map(|case| String::from_utf8_lossy(&cases[case].bytes()).into_owned())
            );
        }
    }
    doors.close().await;
}
