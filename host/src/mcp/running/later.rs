//! By what a component knows the answer of a call that has put it off.

use tokio::sync::oneshot;

/// The handle of an answer that comes later, once the call has put it off.
#[derive(Debug, Default)]
pub(in crate::mcp) struct DeferredHandle {
    /// None if the call puts nothing off, or its handle is there.
    coming: Option<oneshot::Receiver<String>>,
    handle: Option<String>,
}

impl DeferredHandle {
    /// The one that comes.
    pub(in crate::mcp) fn new(coming: oneshot::Receiver<String>) -> Self {
        Self { coming: Some(coming), handle: None }
    }

    /// Whether the call has put off its answer.
    pub(in crate::mcp) fn is_there(&mut self) -> bool {
        if let Some(Ok(handle)) = self.coming.as_mut().map(oneshot::Receiver::try_recv) {
            (self.coming, self.handle) = (None, Some(handle));
        }
        self.handle.is_some()
    }

    /// The handle, once. Never, if the answer was not put off.
    pub(super) async fn next(&mut self) -> String {
        if let Some(handle) = self.handle.take() {
            return handle;
        }
        if let Some(coming) = &mut self.coming {
            let came = coming.await;
            self.coming = None;
            if let Ok(handle) = came {
                return handle;
            }
        }
        std::future::pending().await
    }
}
