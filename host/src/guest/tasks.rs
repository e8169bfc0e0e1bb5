//! A call whose tasks wait side by side. While one of them computes, the call has a place among the running; while all wait, one among the waiting.
//!
//! A task may wait for something that is no call into the host, such as another task, so the host cannot race each wait against the call's end. It races the
//! whole call instead, and gives it up only while none of its tasks runs.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

use crate::{call::Budget, control::Control};

/// Tasks, streams, futures and resources that one call may have open, all together. Each may hold about a kilobyte of the host's memory.
pub const MAX_TASK_HANDLES: usize = 1_000;
/// Message of the engine when a call opens one too many.
const TOO_MANY: &str = "store handle limit exceeded";

/// Notes that a call can go on, and wakes the waiting task.
#[derive(Default)]
struct Woken {
    again: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        self.waiting.wake();
    }
}

/// Runs the call of an async function to its end, or until the call ends.
pub(super) async fn run(control: &Control, call: impl Future<Output = wasmtime::Result<()>>) -> wasmtime::Result<()> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut call = pin!(call);
    loop {
        let advanced = poll_fn(|context| {
            woken.waiting.register(context.waker());
            woken.again.store(false, Ordering::SeqCst);
            match call.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                // The guest waits for its turn, or in a call into the host, which gives the place up itself; or it only lets others run.
                Poll::Pending if control.is_held() || woken.again.load(Ordering::SeqCst) => Poll::Pending,
                Poll::Pending => Poll::Ready(None),
            }
        });
        if let Some(outcome) = advanced.await {
            return outcome.map_err(|error| explained(error, control));
        }
        let can_go_on = poll_fn(|context| {
            woken.waiting.register(context.waker());
            if woken.again.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
        });
        control.wait(can_go_on).await?;
    }
}

fn explained(error: wasmtime::Error, control: &Control) -> wasmtime::Error {
    if error.root_cause().to_string().contains(TOO_MANY) {
        return control.exceed(Budget::Tasks, u64::try_from(MAX_TASK_HANDLES).unwrap_or(u64::MAX));
    }
    error
}
