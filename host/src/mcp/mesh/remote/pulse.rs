//! Whether a peer with calls in flight is still there. A peer of which nothing is heard is asked for a sign of life; one that gives none is silent, until something is heard of it again.

use std::{convert::Infallible, sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tokio::time::Instant;

use super::{Health, Remote, Remotes, message::meta};
use crate::{call::Observer, mesh::PeerId};

/// A peer of which nothing was heard for so long while a call waits there is asked for a sign of life.
const QUIET: Duration = Duration::from_millis(300);
/// How long it has to give one. Together with [`QUIET`] it is less than a second.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);
/// How long a peer counts as silent, if nothing is heard of it; then it is tried again.
const SILENT_FOR: Duration = Duration::from_secs(5);
/// Signs of life that a peer fails to give, one after the other, before the calls that wait there end: after four seconds. A network says it later, and over QUIC only after fifteen.
const MISSED_SIGNS: u32 = 5;
/// How long a peer without room is passed over at the most, whatever it says.
const LONGEST_BUSY: Duration = Duration::from_secs(5);

impl Health {
    /// Whether it has not answered while calls waited.
    pub fn is_silent(&self) -> bool {
        self.silent_until.is_some_and(|(until, _)| until > Instant::now())
    }

    /// Whether it said that it takes no calls for now.
    pub fn is_busy(&self) -> bool {
        self.busy_until.is_some_and(|until| until > Instant::now())
    }

    /// Whether calls that can go elsewhere should.
    pub fn is_avoided(&self) -> bool {
        self.rests() || self.is_busy() || self.is_silent()
    }
}

impl Remote {
    pub(super) fn health_now(&self) -> Health {
        let heard = self.heard.load(Ordering::Relaxed);
        let mut health = self.health();
        health.silent_until = health.silent_until.filter(|(_, before)| *before == heard);
        *health
    }
}

impl Remotes {
    /// Notes that a peer has no room, or stops: others are asked first until then.
    pub fn note_busy(&self, peer: &PeerId, retry_after: Duration) {
        let until = Instant::now().checked_add(retry_after.min(LONGEST_BUSY));
        self.remote(peer).health().busy_until = until;
    }

    /// Waits for a call of a peer's tool, and watches meanwhile whether the peer is there.
    pub(super) async fn watched<T>(&self, peer: &PeerId, remote: &Remote, calling: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = calling => done,
            never = self.watch(peer, remote) => match never {},
        }
    }

    /// Watches a peer for as long as this is awaited, and ends its line when it is gone. One call of those in flight does.
    async fn watch(&self, peer: &PeerId, remote: &Remote) -> Infallible {
        let _one_watches = remote.pulse.lock().await;
        let heard = || remote.heard.load(Ordering::Relaxed);
        let mut missed = 0_u32;
        loop {
            let before = heard();
            tokio::time::sleep(QUIET).await;
            if heard() != before {
                missed = 0;
                continue;
            }
            // While its line is opened, the time to open one bounds the wait.
            let open = remote.line.try_lock().ok().and_then(|line| line.clone()).filter(|line| !line.is_closed());
            let Some(line) = open else { continue };
            let ask = async {
                let params = |_| json!({ "_meta": meta() }).to_string();
                if let Some(mut asked) = line.ask("ping", params, Observer::default()).await {
                    let _heard_is_enough = asked.answer().await;
                }
            };
            let _or_late = tokio::time::timeout(SIGN_OF_LIFE, ask).await;
            if heard() != before || line.is_closed() {
                missed = 0;
            } else {
                missed = missed.saturating_add(1);
                let silent = Instant::now().checked_add(SILENT_FOR).map(|until| (until, before));
                let was_silent = std::mem::replace(&mut remote.health().silent_until, silent).is_some();
                if !was_silent {
                    metrics::counter!("mcpp_mesh_silences_total").increment(1);
                    tracing::warn!(%peer, "a peer with calls in flight gives no sign of life");
                }
                if missed >= MISSED_SIGNS {
                    missed = 0;
                    tracing::warn!(%peer, "the calls that wait at a peer end: it has given no sign of life for seconds");
                    line.give_up("it gives no sign of life");
                }
            }
        }
    }
}
