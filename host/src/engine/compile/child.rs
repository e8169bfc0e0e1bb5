//! The child: reads an order and a component from standard input, compiles under limits that it first sets itself, and writes the machine code to standard output.
//!
//! The child trusts the order, which is the host's, and nothing in the component. Any harm that the component does stays in the child:
//! the host bounds all it reads.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    process::ExitCode,
};

use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

use super::{CHILD_ARGUMENT, descriptors};
use crate::{
    engine::{cache::engine_hash, code_config, compile::MAX_COMPONENT_BYTES, features::Features},
    threads::{Promptness, be_prompt},
};

/// Niceness of a child: it yields to everything else. Guests have 5.
const CHILD_NICE: i32 = 10;
/// Longest order, in bytes.
const MAX_ORDER_BYTES: u64 = 1_024;
/// Descriptors that a child may have: its three, and those that its runtime opens for a moment.
const MAX_DESCRIPTORS: u64 = 16;
/// Longest reason why a component is not valid, in bytes.
pub(super) const MAX_REASON_BYTES: usize = 16 << 10;

/// Order of the host for the child: one line of JSON before the component's bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildOrder {
    /// The number of the engine's features.
    pub(super) features: usize,
    /// Hash of the engine that the code must fit.
    pub(super) engine: String,
    /// Memory beyond what the program itself has, in bytes.
    pub(super) memory_bytes: u64,
    /// Processor time, in seconds.
    pub(super) cpu_seconds: u64,
    /// The host's process.
    pub(super) host: i32,
}

/// Beginning of every answer: no other program writes it.
pub(super) const ANSWER: &[u8] = b"\0mcpp compiled\0";

/// Kind of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChildAnswer {
    /// The machine code follows.
    Code = b'c' as isize,
    /// The component is not valid; the reason follows.
    Invalid = b'i' as isize,
    /// The component needs more memory than the child has.
    Memory = b'm' as isize,
    /// The child is at fault; the reason follows.
    Broken = b'b' as isize,
}

impl ChildAnswer {
    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::Code, Self::Invalid, Self::Memory, Self::Broken].into_iter().find(|answer| answer.byte() == byte)
    }

    fn byte(self) -> u8 {
        self as u8
    }
}

/// Runs the child if this process is to be one; none if it is not. Call this first in `main`, before any thread or open file exists.
pub fn run_if_asked() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == CHILD_ARGUMENT).then(|| {
        descriptors::close_inherited();
        let (answer, content) = answer();
        let mut output = io::stdout().lock();
        let written = output
            .write_all(ANSWER)
            .and_then(|()| output.write_all(&[answer.byte()]))
            .and_then(|()| output.write_all(&content));
        match written.and_then(|()| output.flush()) {
            Ok(()) => ExitCode::SUCCESS,
            // The host has gone away, or wants no answer.
            Err(_) => ExitCode::FAILURE,
        }
    })
}

fn answer() -> (ChildAnswer, Vec<u8>) {
    let broken = |reason: String| (ChildAnswer::Broken, reason.into_bytes());
    let mut input = io::stdin().lock();
    let order = match read_order(&mut input) {
        Ok(order) => order,
        Err(error) => return broken(format!("its order: {error}")),
    };
    if let Err(error) = limit(&order) {
        return broken(format!("its limits cannot be set: {error}"));
    }
    let mut wasm = Vec::new();
    if let Err(error) = input.take(MAX_COMPONENT_BYTES).read_to_end(&mut wasm) {
        return match error.kind() {
            io::ErrorKind::OutOfMemory => (ChildAnswer::Memory, Vec::new()),
            _ => broken(format!("the component: {error}")),
        };
    }
    let engine = match wasmtime::Engine::new(&code_config(Features::numbered(order.features))) {
        Ok(engine) => engine,
        Err(error) => return broken(format!("its engine: {error:#}")),
    };
    if blake3::Hash::from_bytes(engine_hash(&engine)).to_hex().as_str() != order.engine {
        return broken("it is another build of this program".to_owned());
    }
    match engine.precompile_component(&wasm) {
        Ok(code) => (ChildAnswer::Code, code),
        Err(error) => refusal(&error),
    }
}

fn refusal(error: &wasmtime::Error) -> (ChildAnswer, Vec<u8>) {
    let out_of_memory = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
            || cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
            || cause.is::<wasmtime::OutOfMemory>()
    });
    if out_of_memory {
        return (ChildAnswer::Memory, Vec::new());
    }
    let mut reason = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    (ChildAnswer::Invalid, reason.into_bytes())
}

fn read_order(input: &mut impl io::BufRead) -> io::Result<ChildOrder> {
    let mut line = Vec::new();
    input.take(MAX_ORDER_BYTES).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Bounds this process for good, before it has seen a byte of the component.
fn limit(order: &ChildOrder) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
        if parent != Some(order.host) {
            return Err(io::Error::other("the host is gone"));
        }
    }
    let exactly = |bound: u64| Rlimit { current: Some(bound), maximum: Some(bound) };
    let memory = own_memory().saturating_add(order.memory_bytes);
    rustix::process::setrlimit(Resource::As, exactly(memory))?;
    // The first limit names the reason; the second ends the process.
    let seconds = Rlimit { current: Some(order.cpu_seconds), maximum: Some(order.cpu_seconds.saturating_add(1)) };
    rustix::process::setrlimit(Resource::Cpu, seconds)?;
    rustix::process::setrlimit(Resource::Fsize, exactly(0))?;
    rustix::process::setrlimit(Resource::Core, exactly(0))?;
    rustix::process::setrlimit(Resource::Nofile, exactly(MAX_DESCRIPTORS))?;
    let _it_may_be_that_low_already = rustix::process::nice(CHILD_NICE);
    be_prompt(Promptness::Last);
    Ok(())
}

/// The address space that the program itself has, in bytes. It is 0 elsewhere than on Linux, where it is unknown.
fn own_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(0, |kib: u64| kib.saturating_mul(1_024))
}
