//! How soon the kernel lets a thread run that wakes.
//!
//! Linux lets the running thread use up its slice first, which takes milliseconds, even if its priority is lower. Since version 6.12 a thread may have a slice of its own, and one that
//! wakes with a shorter slice runs at once. Its share of the processors stays the same. Older kernels pass over the wish.
#![allow(unsafe_code, reason = "no library has the system call")]

use rustix::io::Errno;

/// The slice of a prompt thread, in nanoseconds: the shortest that the kernel knows.
const SLICE_NS: u64 = 100_000;
/// `SCHED_OTHER` of the kernel's interface.
const ORDINARY: u32 = 0;

/// The kernel's `sched_attr`, in its first version.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

const ATTRIBUTES_BYTES: u32 = size_of::<SchedulingAttributes>() as u32;

/// Lets this thread run as soon as it wakes. It keeps its priority.
pub(crate) fn be_prompt() {
    if let Err(error) = ask_for_slice(SLICE_NS) {
        tracing::debug!(%error, "a thread keeps the ordinary slice");
    }
}

#[cfg(target_os = "linux")]
fn ask_for_slice(slice_ns: u64) -> Result<(), Errno> {
    let attributes = SchedulingAttributes {
        size: ATTRIBUTES_BYTES,
        policy: ORDINARY,
        nice: rustix::process::getpriority_process(None)?,
        runtime_ns: slice_ns,
        ..SchedulingAttributes::default()
    };
    // SAFETY: the kernel reads `size` bytes at the pointer, which are there and initialized; 0 is this thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_slice(_: u64) -> Result<(), Errno> {
    Err(Errno::NOSYS)
}

#[cfg(target_os = "linux")]
fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn present() -> SchedulingAttributes {
        let mut attributes = SchedulingAttributes::default();
        // SAFETY: the kernel writes at most `ATTRIBUTES_BYTES` to the pointer.
        let done = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, ATTRIBUTES_BYTES, 0) };
        assert_eq!(done, 0, "{}", last_error());
        attributes
    }

    #[test]
    fn a_prompt_thread_has_a_short_slice_and_its_own_priority() {
        let before = present();
        be_prompt();
        let after = present();
        assert_eq!((after.policy, after.nice), (before.policy, before.nice));
        // A kernel before 6.12 says 0 for every ordinary thread.
        let short = if before.runtime_ns == 0 { 0 } else { SLICE_NS };
        assert_eq!(after.runtime_ns, short, "{before:?}");
    }
}
