//! Threads of a runtime of their own, with a priority of their own: the kernel serves others before them.

mod prompt;

use std::{
    cell::Cell,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::runtime::{Builder, Handle, Runtime};

pub(crate) use self::prompt::{Promptness, be_prompt};

/// Niceness of what gives way to ordinary requests: guests that compute for long, large messages, strangers, loads. While something else wants the processor, it gets about
/// a third less of it.
pub(crate) const LOW_NICE: i32 = 5;

/// The threads of everything that has no others: the doors above all. They run as soon as they wake.
pub(crate) fn ordinary() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().on_thread_start(|| be_prompt(Promptness::First)).build()
}

/// Threads that run tasks. Dropping them leaves those that run to their end, and waits for none.
#[derive(Debug)]
pub(crate) struct Threads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Threads {
    /// Starts `count` threads. Each does `begin` first.
    pub(crate) fn start(name: &str, count: usize, begin: impl Fn() + Send + Sync + 'static) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name(name)
            .on_thread_start(begin)
            .enable_time()
            .enable_io()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// The way to them.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Processor time that this thread has used. The question is a system call.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, rest) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), rest.unwrap_or_default())
}

/// A future that counts the processor time of its polls.
#[derive(Debug)]
pub(crate) struct Metered<F> {
    future: Pin<Box<F>>,
    used: Duration,
}

impl<F: Future> Metered<F> {
    pub(crate) fn new(future: F) -> Self {
        Self { future: Box::pin(future), used: Duration::ZERO }
    }

    /// Processor time that its polls have taken.
    pub(crate) fn used(&self) -> Duration {
        self.used
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        let polled = self.future.as_mut().poll(context);
        self.used = self.used.saturating_add(thread_time().saturating_sub(before));
        polled
    }
}

thread_local! {
    /// Whether this thread's priority was lowered.
    static LOW: Cell<bool> = const { Cell::new(false) };
}

/// Lowers the thread's priority, by `nice` steps below the ordinary one, and lets those of a higher one interrupt it. Only Linux has a priority for each thread; elsewhere it is the whole process's.
pub(crate) fn give_way(nice: i32) {
    if !cfg!(target_os = "linux") || LOW.replace(true) {
        return;
    }
    // Not relative: a thread begins with the priority of the thread that started it.
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
    be_prompt(Promptness::Last);
}

/// Does `work` on a thread of `runtime` that may block. A new thread would begin with the priority of the thread that starts it, and it goes on to work for others. So a
/// thread of a low priority has it started by one of the runtime's own.
pub(crate) fn start_blocking(runtime: &Handle, work: impl FnOnce() + Send + 'static) {
    if LOW.get() {
        drop(runtime.spawn(async move { drop(tokio::task::spawn_blocking(work)) }));
    } else {
        drop(runtime.spawn_blocking(work));
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap_or(i32::MIN)
    }

    #[tokio::test]
    async fn a_thread_of_a_low_priority_starts_none_of_its_own_priority_for_others() {
        let (ordinary, low) = (niceness(), Threads::start("low", 1, || give_way(7)).expect("threads"));
        let (runtime, (tell, told)) = (Handle::current(), oneshot::channel());
        let started = low.handle().spawn(async move {
            start_blocking(&runtime, move || assert!(tell.send(niceness()).is_ok()));
            (niceness(), tokio::task::spawn_blocking(niceness).await)
        });
        let (own, blocking) = started.await.expect("no panic");
        // Threads that the low ones start for themselves have their priority, and not twice as low a one.
        assert_eq!((own, blocking.expect("no panic")), (7, 7));
        assert_eq!(told.await.expect("it ran"), ordinary);
    }
}
