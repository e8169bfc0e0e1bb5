//! A component for the end-to-end tests: it does what well-behaved and ill-behaved SDK tools do, and says what it sees.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a guest has its thread and its output to itself")]

use std::time::Duration;

use mcpp_tool::{Error, Output, caller, log, progress, tool};

/// Adds.
#[tool(read_only, idempotent)]
fn probe_add(
    /// One number.
    a: i32,
    /// Another.
    b: i32,
) -> Result<i32, Error> {
    a.checked_add(b).ok_or_else(|| Error::failed("the sum is too large"))
}

/// Says who calls.
#[tool]
fn probe_caller() -> Vec<String> {
    let principal = caller();
    vec![principal.tenant, principal.subject, caller::traceparent()]
}

/// Sleeps, with progress.
#[tool]
fn probe_sleep(ms: u64) -> Output {
    progress::report(1.0, Some(2.0), Some("asleep"));
    std::thread::sleep(Duration::from_millis(ms));
    progress::report(1.0, Some(2.0), Some("not more than before"));
    progress::report(2.0, Some(2.0), None);
    Output::text(format!("slept {ms} ms"))
}

/// Computes for ever.
#[tool]
fn probe_spin() -> Output {
    let mut n = 0_u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

/// Panics.
#[tool]
fn probe_panic() -> Output {
    log::warning("about to panic");
    unreachable!("on purpose")
}

/// Writes to standard output and standard error.
#[tool]
fn probe_print(text: String) -> Output {
    println!("{text}");
    eprintln!("{text}");
    Output::text("printed")
}

/// Declares a number and gives a text: a result that breaks its own schema.
#[tool(name = "probe_lie")]
fn lie() -> Lie {
    Lie { number: "no number".into() }
}

/// A result whose schema is not true.
#[derive(mcpp_tool::internal::serde::Serialize, mcpp_tool::internal::schemars::JsonSchema)]
#[serde(crate = "mcpp_tool::internal::serde")]
#[schemars(crate = "mcpp_tool::internal::schemars")]
struct Lie {
    #[schemars(with = "i64")]
    number: String,
}

mcpp_tool::export!(probe_add, probe_caller, probe_sleep, probe_spin, probe_panic, probe_print, lie);
