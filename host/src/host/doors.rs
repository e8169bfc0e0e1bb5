//! The doors of a host as tasks: one that ends although nobody closed it ends the host. A host that says it serves and listens nowhere is worse than none.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The tasks of a host.
#[derive(Debug, Default)]
pub(super) struct DoorTasks {
    tasks: Vec<JoinHandle<()>>,
    /// Fires when one of them broke.
    broken: CancellationToken,
}

impl DoorTasks {
    /// Runs a door until it ends, which it should not before `closing` fires.
    pub(super) fn open(
        &mut self,
        name: &'static str,
        door: impl Future<Output = ()> + Send + 'static,
        closing: CancellationToken,
    ) {
        let broken = self.broken.clone();
        self.tasks.push(tokio::spawn(async move {
            let ended = tokio::spawn(door).await;
            if let Err(error) = &ended {
                tracing::error!(door = name, %error, "a door broke");
            }
            if ended.is_err() || !closing.is_cancelled() {
                broken.cancel();
            }
        }));
    }

    /// Resolves when a door broke.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    /// Waits until all have ended.
    pub(super) async fn ended(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a door's task broke");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_door_that_breaks_or_ends_by_itself_ends_the_host_and_one_that_is_closed_does_not() {
        let closing = CancellationToken::new();
        for (name, breaks) in [("panics", true), ("ends", false)] {
            let mut doors = DoorTasks::default();
            doors.open(
                name,
                async move { assert!(!breaks, "as a router with a path that it does not take") },
                closing.clone(),
            );
            doors.broken().await;
            doors.ended().await;
        }
        let mut doors = DoorTasks::default();
        let closed = closing.clone();
        doors.open("closed", async move { closed.cancelled().await }, closing.clone());
        closing.cancel();
        let broken = doors.broken.clone();
        doors.ended().await;
        assert!(!broken.is_cancelled());
    }
}
