//! How soon the kernel lets a thread run that wakes, and how long it may go on.
//!
//! Linux lets the running thread use up its slice first, which takes milliseconds, even if its priority is lower. Since version 6.12 a thread may have a slice of its own, and one that
//! wakes with a shorter slice runs at once. Its share of the processors stays the same. Older kernels pass over the wish.
//!
//! When its own slice is used up, a thread of a much lower priority may have the next, up to the kernel's next tick: 4 ms on many machines. So the slice of a prompt thread
//! is longer than a usual request takes. Threads and processes begin with the slice of the thread that starts them.
#![allow(unsafe_code, reason = "no library has the system call")]

use rustix::io::Errno;

/// How soon a thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promptness {
    /// As soon as it wakes.
    First,
    /// After those, and before the rest of the machine.
    Second,
    /// After everything else.
    Last,
}

impl Promptness {
    /// The slice, in nanoseconds. The first has a few usual requests. The kernel's own slice has 700,000 or more, and it lets only a shorter one interrupt that.
    const fn slice_ns(self) -> u64 {
        match self {
            Self::First => 500_000,
            Self::Second => 600_000,
            Self::Last => 4_000_000,
        }
    }
}
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

/// Says how soon this thread runs when it wakes. It keeps its priority.
pub(crate) fn be_prompt(promptness: Promptness) {
    if let Err(error) = ask_for_slice(promptness.slice_ns()) {
        tracing::debug!(%error, "a thread keeps its slice");
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
    fn a_thread_has_the_slice_of_its_promptness_and_its_own_priority() {
        let before = present();
        let slices = [Promptness::First, Promptness::Second, Promptness::Last].map(|promptness| {
            be_prompt(promptness);
            let after = present();
            assert_eq!((after.policy, after.nice), (before.policy, before.nice));
            // A kernel before 6.12 says 0 for every ordinary thread.
            let asked = if before.runtime_ns == 0 { 0 } else { promptness.slice_ns() };
            assert_eq!(after.runtime_ns, asked, "{before:?}");
            promptness.slice_ns()
        });
        assert!(slices.is_sorted_by(|one, next| one < next), "a thread interrupts only those with a longer slice");
    }
}
