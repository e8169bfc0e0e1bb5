//! The waits of an author: from a save to the answer of the new build, step by step, and the cost of a tool in each language, to build and to call.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench author` prints one table; `-- --json` prints one JSON object a line; words after that choose languages, and `loop` or
//! `languages` one half. `mcpp` is the real program and asked over HTTP. The languages' tools come from their registries; one that is not there has a row that says so, and no numbers.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench is a script: it stops at the first surprise"
)]

#[path = "../calls/client.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod client;
mod dev;
mod languages;
mod project;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use project::{LANGUAGES, Language};

/// Whether rows are printed as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Prints a row with a repeated measurement, or why there is none.
fn print_row(what: &str, times: Result<&mut [f64], &str>, unit: &str) {
    let as_json = AS_JSON.load(Ordering::Relaxed);
    match times {
        Ok(times) => {
            times.sort_by(f64::total_cmp);
            let (min, median, max) = (times[0], times[times.len() / 2], times[times.len() - 1]);
            if as_json {
                let rounds = times.len();
                println!(
                    "{}",
                    json!({ "what": what, "median": median, "min": min, "max": max, "rounds": rounds, "unit": unit })
                );
            } else if times.len() == 1 {
                println!("{what:<58} {median:>10.2} {unit}");
            } else {
                println!("{what:<58} {median:>10.2} {unit:<4} ({min:.2} to {max:.2}, {} rounds)", times.len());
            }
        }
        Err(absent) if as_json => println!("{}", json!({ "what": what, "median": Value::Null, "absent": absent })),
        Err(absent) => println!("{what:<58}     absent: {absent}"),
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let has = |word: &str| words.iter().any(|other| other == word);
    AS_JSON.store(has("--json"), Ordering::Relaxed);
    let named: Vec<Language> = LANGUAGES.into_iter().filter(|language| has(language.name)).collect();
    let chosen = if named.is_empty() { LANGUAGES.to_vec() } else { named };
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if !has("languages") {
            for language in chosen.iter().filter(|language| matches!(language.name, "rust" | "javascript")) {
                dev::save_to_serving(language).await;
            }
        }
        if !has("loop") {
            for language in &chosen {
                languages::measure(language).await;
            }
        }
    });
}
