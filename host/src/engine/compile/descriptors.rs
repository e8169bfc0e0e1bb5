//! Descriptors that a child inherited by accident. The child closes them before it does anything else.
#![allow(
    unsafe_code,
    reason = "closing descriptors by number; sound because it happens before anything in this process owns one"
)]

use std::{fs, os::fd::RawFd};

/// Standard input, output and error.
const LAST_STANDARD: RawFd = 2;

/// Closes all but standard input, output and error. Call this first of all, while the process has one thread and no open file.
pub(super) fn close_inherited() {
    // Only Linux lists them here. Elsewhere the close-on-exec flag of each closes the host's own descriptors.
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The descriptor of the listing itself is closed by now.
    let still_open = |descriptor: &RawFd| fs::read_link(format!("/proc/self/fd/{descriptor}")).is_ok();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > LAST_STANDARD).filter(still_open) {
        // SAFETY: nothing in this process owns the descriptor, because the process has just begun.
        unsafe { rustix::io::close(descriptor) };
    }
}
