//! The threads on which file operations block: few, and for nothing else. A disk that hangs holds up file operations, and neither doors nor guests.

use std::{future::Future, sync::LazyLock};

use tokio::runtime::{Builder, EnterGuard, Runtime};

/// File operations at the same time; further ones queue, each until its call ends.
const THREADS: usize = 64;

/// No task ever drives this runtime: the host uses only its blocking threads.
static POOL: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let built = Builder::new_current_thread().max_blocking_threads(THREADS).thread_name("mcpp-files").build();
    built.inspect_err(|error| tracing::error!(%error, "file operations have no threads of their own")).ok()
});

/// While the guard lives, blocking work that begins runs on these threads.
pub(super) fn enter() -> Option<EnterGuard<'static>> {
    POOL.as_ref().map(Runtime::enter)
}

/// A future whose blocking parts run on these threads.
pub(super) async fn in_pool<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let _entered = enter();
        future.as_mut().poll(context)
    })
    .await
}

/// Runs blocking work, from its first poll on.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    wasmtime_wasi::runtime::spawn_blocking(work).await
}
