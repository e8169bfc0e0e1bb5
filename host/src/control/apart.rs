//! Work of the host for a call that may take long and cannot be interrupted. It runs on the guests' threads, a few at a time, and counts as the call's
//! processor time.

use std::time::Duration;

use super::{Control, pace::thread_time};
use crate::{call::CallError, engine::Engine};

/// Does `work` for a call on the guests' threads; returns its result and the processor time, which the caller charges to the call. It takes no turn of
/// others to compute: the threads give way to the doors, and less of such work runs at once than there are processors.
pub fn apart<T: Send + 'static>(
    engine: &Engine,
    control: &Control,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<(T, Duration), CallError>> + Send {
    // Few calls need it, and the futures of all others would have room for it.
    Box::pin(async move {
        let stopped = || control.stopped().unwrap_or(CallError::Cancelled);
        let permit = control.wait_in_place(engine.works().acquire_owned()).await.map_err(|_| stopped())?;
        let working = engine.spawn(async move {
            let _until_it_is_done = permit;
            let before = thread_time();
            let done = work();
            (done, Duration::from_nanos(thread_time().saturating_sub(before)))
        });
        let (done, took) = working.await.map_err(|_| CallError::Cancelled)?;
        control.pace().charge(took);
        control.check().map_err(|_| stopped())?;
        Ok((done, took))
    })
}
