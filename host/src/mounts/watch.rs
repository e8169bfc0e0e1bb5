//! What one peer offers one tenant, for as long as some mount wants to know: fetched over the line that also tells of changes, so that what is fresh is known to be so.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::{
    mcp::mesh::remote::{
        Remotes,
        list::{ListError, PeerTool},
    },
    memory::{Account, MemoryUse, Reservation},
    mesh::PeerId,
};

/// Changes that come within this time after one are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A peer's list is fetched so often at the most, however often it changes; for each MiB of it later by as much.
const FETCH_EVERY: Duration = Duration::from_secs(1);
/// And so often at the least, as a change may be told before anybody listens.
const FETCH_AGAIN: Duration = Duration::from_secs(60);
/// How long a peer that cannot be asked is left alone: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The tools of a peer at one moment, and the tenant's memory that they take.
#[derive(Debug)]
pub(super) struct PeerListing {
    pub(super) tools: Vec<PeerTool>,
    mib: u32,
    _memory: Reservation,
}

/// What is known of a peer's tools.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerOffer {
    /// What it told last.
    pub(super) listing: Option<Arc<PeerListing>>,
    /// Whether that is so now.
    pub(super) is_fresh: bool,
    /// Why it is not.
    pub(super) trouble: Option<String>,
    /// Fetches that have ended, well or not.
    pub(super) fetches: u64,
}

/// A task that knows what a peer offers. It ends with the value.
#[derive(Debug)]
pub(super) struct PeerWatch {
    offer: watch::Receiver<PeerOffer>,
    task: AbortHandle,
}

impl Drop for PeerWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PeerWatch {
    /// Begins to watch a peer. What it offers is charged to `account`.
    pub(super) fn begin(remotes: Remotes, peer: PeerId, account: Arc<Account>) -> Self {
        let (told, offer) = watch::channel(PeerOffer::default());
        let task = tokio::spawn(async move { watch_peer(&remotes, &peer, &account, &told).await }).abort_handle();
        Self { offer, task }
    }

    /// What is known, and news of it.
    pub(super) fn offer(&self) -> watch::Receiver<PeerOffer> {
        self.offer.clone()
    }
}

async fn watch_peer(remotes: &Remotes, peer: &PeerId, account: &Arc<Account>, told: &watch::Sender<PeerOffer>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let fetched = told.borrow().fetches;
        let trouble = follow(remotes, peer, account, told).await;
        if told.borrow().is_fresh {
            pause = FIRST_PAUSE;
        }
        tracing::debug!(%peer, trouble, "what a peer offers is not known now");
        told.send_modify(|offer| {
            let failed = u64::from(offer.fetches == fetched);
            *offer = PeerOffer {
                listing: offer.listing.take(),
                is_fresh: false,
                trouble: Some(trouble),
                fetches: offer.fetches.saturating_add(failed),
            };
        });
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
    }
}

/// Fetches the list, and again whenever it changes, until the line ends or the peer breaks a rule. Why it ended.
async fn follow(remotes: &Remotes, peer: &PeerId, account: &Arc<Account>, told: &watch::Sender<PeerOffer>) -> String {
    let mut news = match remotes.listen(peer).await {
        Ok(news) => news,
        Err(error) => return error.to_string(),
    };
    loop {
        let fetched_at = Instant::now();
        let listing = match fetch(remotes, peer, account).await {
            Ok(listing) => listing,
            Err(trouble) => return trouble,
        };
        let next = fetched_at + FETCH_EVERY.saturating_mul(listing.mib.saturating_add(1));
        told.send_modify(|offer| {
            let same = offer.listing.take().filter(|before| before.tools == listing.tools);
            *offer = PeerOffer {
                listing: Some(same.unwrap_or_else(|| Arc::new(listing))),
                is_fresh: true,
                trouble: None,
                fetches: offer.fetches.saturating_add(1),
            };
        });
        tokio::select! {
            goes_on = news.changed() => {
                if !goes_on {
                    return "its stream has ended".to_owned();
                }
                // Calls wait until it is known what they would reach.
                told.send_modify(|offer| offer.is_fresh = false);
                tokio::time::sleep(DEBOUNCE).await;
                tokio::time::sleep_until(next).await;
            }
            () = tokio::time::sleep(FETCH_AGAIN) => {}
        }
    }
}

async fn fetch(remotes: &Remotes, peer: &PeerId, account: &Arc<Account>) -> Result<PeerListing, String> {
    let tools = remotes.list(peer).await.map_err(|error: ListError| error.to_string())?;
    let texts = tools.iter().map(|tool| {
        let more = [tool.title.as_ref(), tool.output_schema.as_ref()].into_iter().flatten();
        let texts = [&tool.name, &tool.description, &tool.input_schema].into_iter().chain(more);
        texts.map(String::len).fold(size_of::<PeerTool>(), usize::saturating_add)
    });
    let bytes = u64::try_from(texts.fold(0, usize::saturating_add)).unwrap_or(u64::MAX);
    let memory = account.reserve(MemoryUse::Code, bytes);
    let memory = memory.map_err(|full| format!("this tenant has no memory for its list of tools: {full}"))?;
    Ok(PeerListing { tools, mib: u32::try_from(bytes >> 20).unwrap_or(u32::MAX), _memory: memory })
}
