//! The host's side of a build: starts the child, hands it the component, takes the code, and ends the child when its time is over.
//!
//! The host trusts the child with nothing but the code. It bounds all that it reads from the child, and the child's end tells which limit it met.

use std::{
    io::{self, Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
};

use super::{
    BuildError, BuildLimits, CHILD_ARGUMENT, MachineCode, Refusal,
    child::{self, ANSWER, ChildAnswer, MAX_REASON_BYTES},
};
use crate::engine::features::Features;

/// Most threads of one child: parallel compilation also takes its memory in parallel.
const MAX_THREADS: usize = 4;
/// Bytes of an answer before its content.
const HEAD_BYTES: u64 = ANSWER.len() as u64 + 1;
/// Bytes of a child's standard error that the host reads for the reason of its end; it discards the rest.
const MAX_LAST_WORDS_BYTES: u64 = 16 << 10;
/// Message of Rust on standard error when it gets no memory, before it ends the process.
const NO_MEMORY: &str = "memory allocation of ";
/// Setting of a child's allocator: what it has from the system and does not need it gives back, because that counts against the limit.
const CHILD_HEAP: &str = "retain:false";

/// One build.
pub(super) struct BuildOrder<'a> {
    pub(super) program: &'a Path,
    pub(super) limits: &'a BuildLimits,
    pub(super) features: Features,
    /// Hash of the engine that the code must fit.
    pub(super) engine: [u8; 32],
    pub(super) max_code_bytes: u64,
}

/// Runs a child to its end. Blocks. If the host ends, so does the child.
pub(super) fn run(order: &BuildOrder<'_>, wasm: &[u8]) -> Result<MachineCode, BuildError> {
    let line = child::ChildOrder {
        features: order.features.number(),
        engine: blake3::Hash::from_bytes(order.engine).to_hex().to_string(),
        memory_bytes: order.limits.memory_bytes,
        cpu_seconds: order.limits.cpu_seconds,
        host: rustix::process::getpid().as_raw_nonzero().get(),
    };
    let failed = |source: io::Error| BuildError::Child(source.to_string());
    let mut head = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
    head.push(b'\n');
    let mut child = start(order.program)?;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut input), Some(output), Some(errors)) = (input, output, errors) else {
        return Err(BuildError::Child("it has no pipes".to_owned()));
    };
    let most = order.max_code_bytes;
    let end = thread::scope(|scope| {
        // If the child does not read its input to the end, its own end tells why.
        scope.spawn(move || {
            let _the_child_may_end_first = input.write_all(&head).and_then(|()| input.write_all(wasm));
        });
        let last_words = scope.spawn(move || last_words(errors));
        let (done, whole) = mpsc::sync_channel(1);
        scope.spawn(move || {
            let mut answer = Vec::new();
            // One byte more than allowed.
            let read = output.take(most.saturating_add(HEAD_BYTES).saturating_add(1)).read_to_end(&mut answer);
            let _the_host_waits = done.send(read.map(|_| answer));
        });
        let answer = whole.recv_timeout(order.limits.wall);
        let in_time = answer.is_ok();
        let exceeded = matches!(&answer, Ok(Ok(bytes)) if exceeds(bytes.len(), most));
        if !in_time || exceeded {
            let _it_may_have_ended = child.kill();
        }
        let status = child.wait();
        let words = last_words.join().unwrap_or_default();
        status.map(|status| ChildEnd { answer: answer.ok().and_then(Result::ok), status, words })
    });
    judge(order, end.map_err(failed)?)
}

/// How a child ended.
struct ChildEnd {
    /// Its whole answer; none if that did not come in time.
    answer: Option<Vec<u8>>,
    status: ExitStatus,
    words: String,
}

fn exceeds(answer: usize, most: u64) -> bool {
    u64::try_from(answer).unwrap_or(u64::MAX) > most.saturating_add(HEAD_BYTES)
}

fn start(program: &Path) -> Result<Child, BuildError> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS);
    Command::new(program)
        .arg(CHILD_ARGUMENT)
        .env_clear()
        .env("RAYON_NUM_THREADS", threads.to_string())
        .env("_RJEM_MALLOC_CONF", CHILD_HEAP)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| BuildError::Program { program: program.to_owned(), source })
}

/// The beginning of a child's standard error. The host reads the rest too, so that the child does not wait.
fn last_words(mut errors: ChildStderr) -> String {
    let mut words = Vec::new();
    let _what_came_is_enough = (&mut errors).take(MAX_LAST_WORDS_BYTES).read_to_end(&mut words);
    let _until_it_ends = io::copy(&mut errors, &mut io::sink());
    String::from_utf8_lossy(&words).into_owned()
}

fn judge(order: &BuildOrder<'_>, end: ChildEnd) -> Result<MachineCode, BuildError> {
    let limits = order.limits;
    let refused = |refusal| Err(BuildError::Refused { refusal, known: false });
    let memory = Refusal::Memory { bytes: limits.memory_bytes };
    let Some(answer) = end.answer else { return refused(Refusal::Wall { seconds: limits.wall.as_secs() }) };
    if exceeds(answer.len(), order.max_code_bytes) {
        return refused(Refusal::Code { bytes: order.max_code_bytes });
    }
    if end.status.success() {
        let Some((kind, content)) = answer.strip_prefix(ANSWER).and_then(<[u8]>::split_first) else {
            return Err(foreign(order));
        };
        let text = || String::from_utf8_lossy(content.get(..MAX_REASON_BYTES).unwrap_or(content)).into_owned();
        return match ChildAnswer::of(*kind) {
            Some(ChildAnswer::Code) => {
                let mut code = answer;
                code.drain(..=ANSWER.len());
                Ok(MachineCode(code))
            }
            Some(ChildAnswer::Invalid) => Err(BuildError::Invalid(text())),
            Some(ChildAnswer::Memory) => refused(memory),
            Some(ChildAnswer::Broken) => Err(BuildError::Child(text())),
            None => Err(foreign(order)),
        };
    }
    let signal = end.status.signal();
    if end.words.contains(NO_MEMORY) {
        return refused(memory);
    }
    if signal == Some(rustix::process::Signal::XCPU.as_raw()) {
        return refused(Refusal::Cpu { seconds: limits.cpu_seconds });
    }
    if signal == Some(rustix::process::Signal::KILL.as_raw()) {
        // Neither the host nor the child's own limits ended it: the system needed the memory, or a person ended it.
        return Err(BuildError::Child("it was killed from outside".to_owned()));
    }
    tracing::warn!(status = %end.status, words = end.words, "a child that compiled broke off");
    match signal {
        Some(signal) => refused(Refusal::Crashed { signal }),
        // A panic.
        None if end.status.code() == Some(101) => refused(Refusal::Crashed { signal: 0 }),
        None => Err(foreign(order)),
    }
}

/// The program is not this one: it does not answer as a child does.
fn foreign(order: &BuildOrder<'_>) -> BuildError {
    BuildError::Child(format!("{} does not know `{CHILD_ARGUMENT}`", order.program.display()))
}
