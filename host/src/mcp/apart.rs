//! Work on large messages, away from the doors' threads: at the guests' priority, on threads that may block.

use tokio::sync::Semaphore;

use super::lane::LARGE_MESSAGE_BYTES;
use crate::{control::admission::Share, engine::Engine, threads::processors};

/// Does `work` on a message of `bytes`: here if it is not large, else apart. `None` if it broke off.
pub(super) async fn read_apart<T: Send + 'static>(
    engine: &Engine,
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    if bytes <= LARGE_MESSAGE_BYTES { Some(work()) } else { engine.spawn_blocking(work).await.ok() }
}

/// Those who write large results: one of a tenant at a time, and in all as many as leave the doors something.
#[derive(Debug)]
pub(super) struct Writers {
    /// On whose threads they write; without one on any that may block.
    engine: Option<Engine>,
    all: Semaphore,
}

impl Writers {
    pub(super) fn new(engine: Option<Engine>) -> Self {
        Self { engine, all: Semaphore::new((processors() / 2).max(1)) }
    }

    /// Has `work` write a result of the tenant whose share this is; without one, of a tenant that is gone. `None` if it broke off.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        share: Option<&Share>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Neither is ever closed. A tenant waits for itself before it takes what others wait for.
        let _own = match share {
            Some(share) => share.door.writers.acquire().await.ok(),
            None => None,
        };
        let _any = self.all.acquire().await;
        let written = match &self.engine {
            Some(engine) => engine.spawn_blocking(work),
            None => tokio::task::spawn_blocking(work),
        };
        written.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{engine::EngineConfig, limits::TenantLimits};

    fn thread() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn only_a_long_message_is_read_on_the_guests_threads() {
        let engine = Engine::new(&EngineConfig::default()).expect("an engine");
        assert_eq!(read_apart(&engine, LARGE_MESSAGE_BYTES, thread).await, Some(thread()));
        assert_eq!(read_apart(&engine, LARGE_MESSAGE_BYTES + 1, thread).await, Some(Some("mcpp-guest".to_owned())));
    }

    #[tokio::test]
    async fn a_result_is_written_on_the_guests_threads_one_of_a_tenant_at_a_time() {
        let engine = Engine::new(&EngineConfig::default()).expect("an engine");
        let [share, other] = [(); 2].map(|()| Share::alone(TenantLimits::default()));
        let writers = Writers::new(Some(engine));
        assert_eq!(writers.write(Some(&share), thread).await, Some(Some("mcpp-guest".to_owned())));
        let another = share.door.writers.acquire().await.expect("open");
        let mut waits = std::pin::pin!(writers.write(Some(&share), thread));
        assert!(timeout(Duration::from_millis(50), &mut waits).await.is_err(), "another result is being written");
        assert!(writers.write(Some(&other), thread).await.is_some(), "another tenant does not wait for that");
        drop(another);
        assert!(waits.await.is_some());
    }
}
