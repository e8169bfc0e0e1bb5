//! The offering side: what a peer's grant names of the tenant's live builds, given in chunks.
//!
//! The grant is asked for anew with each request. A chunk is read from the component's file and held to the live build's list before it goes out, so that a file that changed meanwhile, or
//! a link that leads elsewhere now, gives nothing.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    num::NonZeroU32,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rustix::fs::OFlags;
use tokio::{
    io::AsyncWriteExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    chunks::ChunkList,
    message::{self, ComponentAnswer, ComponentOffer, ComponentRequest, MAX_OFFERS, MAX_REQUEST_BYTES, OfferRefusal},
};
use crate::{
    mesh::{
        PeerId, PeerStream,
        frame::{self, FrameError},
    },
    peers::{PeerGrant, known::KnownPeers},
    registry::{Registry, catalog::Revision},
};

/// Streams by which one peer fetches at the same time, and all peers together.
const STREAMS_PER_PEER: usize = 2;
const MAX_STREAMS: usize = 32;
/// Requests of one peer in a minute: 512 MiB of chunks. Further ones wait.
const REQUESTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(2_048).expect("not zero");
/// Peers whose requests are counted; those that fetch nothing are forgotten first, after [`REMEMBERED`].
const MAX_PULLERS: usize = 1_024;
const REMEMBERED: Duration = Duration::from_secs(60);
/// Lists of chunks that are kept, each of at most 32 KiB.
const MAX_LISTS: usize = 64;
/// Files that are read at the same time: each takes a thread.
const READS_AT_ONCE: usize = 2;
/// A stream on which nothing is asked for so long ends; as does one that takes so long with a message.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for a stream that is refused.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The door for peers that fetch components. Clones are the same.
#[derive(Debug, Clone)]
pub struct ComponentDoor(Arc<OfferDesk>);

#[derive(Debug)]
struct OfferDesk {
    registry: Registry,
    peers: Arc<KnownPeers>,
    streams: Arc<Semaphore>,
    pullers: Mutex<HashMap<PeerId, Arc<Puller>>>,
    lists: Mutex<BTreeMap<String, Arc<ChunkList>>>,
    reads: Semaphore,
    stop: CancellationToken,
}

/// A peer that fetches.
#[derive(Debug)]
struct Puller {
    streams: Arc<Semaphore>,
    requests: DefaultDirectRateLimiter,
    last: Mutex<Instant>,
}

impl Puller {
    fn new() -> Self {
        let quota = Quota::per_minute(REQUESTS_PER_MINUTE);
        let streams = Arc::new(Semaphore::new(STREAMS_PER_PEER));
        Self { streams, requests: RateLimiter::direct(quota), last: Mutex::new(Instant::now()) }
    }

    fn was_here(&self) -> bool {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < REMEMBERED
    }
}

impl ComponentDoor {
    /// A door that offers the live builds of a registry. `stop` ends its streams.
    pub fn new(registry: Registry, peers: Arc<KnownPeers>, stop: CancellationToken) -> Self {
        metrics::describe_counter!(
            "mcpp_mesh_component_requests_total",
            "Requests of peers for components, by outcome"
        );
        metrics::describe_counter!("mcpp_mesh_component_bytes_total", "Bytes of components, by direction");
        Self(Arc::new(OfferDesk {
            registry,
            peers,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            pullers: Mutex::default(),
            lists: Mutex::default(),
            reads: Semaphore::new(READS_AT_ONCE),
            stop,
        }))
    }

    /// Serves a stream that `peer` has opened, beside all others. One too many, and one of a peer without a right, is told so and ends: it takes nothing from the others.
    pub fn accept(&self, peer: PeerId, mut stream: PeerStream) {
        let desk = Arc::clone(&self.0);
        tokio::spawn(async move {
            let admitted = desk.right(&peer).and_then(|_| desk.admit(&peer).ok_or(OfferRefusal::Busy));
            let (puller, _permits) = match admitted {
                Ok(admitted) => admitted,
                Err(error) => {
                    let _or_it_is_slow = tokio::time::timeout(LAST_WORDS, refuse(&mut stream, error)).await;
                    return;
                }
            };
            tokio::select! {
                ended = desk.serve(&peer, &puller, &mut stream) => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a stream for components ended");
                },
                () = desk.stop.cancelled() => {}
            }
            let _or_it_is_gone = stream.shutdown().await;
        });
    }
}

/// Answers the first request with a refusal.
async fn refuse(stream: &mut PeerStream, error: OfferRefusal) -> Result<(), FrameError> {
    let _whatever_it_asks = message::read::<ComponentRequest>(stream, MAX_REQUEST_BYTES).await?;
    message::write(stream, &ComponentAnswer::Refused { error }).await?;
    Ok(stream.shutdown().await?)
}

impl OfferDesk {
    /// What a peer may fetch now.
    fn right(&self, peer: &PeerId) -> Result<Arc<PeerGrant>, OfferRefusal> {
        let grant = self.peers.grant(peer).map_err(|_| OfferRefusal::NoGrant)?;
        let is_open = self.registry.is_open(&grant.tenant, &grant.incarnation);
        if grant.components.is_empty() || !is_open { Err(OfferRefusal::NoGrant) } else { Ok(grant) }
    }

    fn admit(&self, peer: &PeerId) -> Option<(Arc<Puller>, [OwnedSemaphorePermit; 2])> {
        let all = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        let puller = {
            let mut pullers = self.pullers.lock().unwrap_or_else(PoisonError::into_inner);
            if pullers.len() >= MAX_PULLERS && !pullers.contains_key(peer) {
                pullers.retain(|_, puller| Arc::strong_count(puller) > 1 || puller.was_here());
                if pullers.len() >= MAX_PULLERS {
                    return None;
                }
            }
            Arc::clone(pullers.entry(peer.clone()).or_insert_with(|| Arc::new(Puller::new())))
        };
        let own = Arc::clone(&puller.streams).try_acquire_owned().ok()?;
        *puller.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Some((puller, [all, own]))
    }

    async fn serve(&self, peer: &PeerId, puller: &Puller, stream: &mut PeerStream) -> Result<(), FrameError> {
        let late = |_| FrameError::from(io::Error::from(io::ErrorKind::TimedOut));
        loop {
            let asked =
                tokio::time::timeout(PATIENCE, message::read(stream, MAX_REQUEST_BYTES)).await.map_err(late)??;
            let Some(asked) = asked else { return Ok(()) };
            puller.requests.until_ready().await;
            let answered = match asked {
                Ok(request) => self.answer(peer, request).await,
                Err(_) => Err(OfferRefusal::Invalid),
            };
            let outcome = if answered.is_ok() { "ok" } else { "refused" };
            metrics::counter!("mcpp_mesh_component_requests_total", "outcome" => outcome).increment(1);
            let (answer, bytes) = answered.unwrap_or_else(|error| (ComponentAnswer::Refused { error }, None));
            let telling = async {
                message::write(stream, &answer).await?;
                if let Some(bytes) = bytes {
                    frame::write(stream, &bytes).await?;
                    stream.flush().await?;
                    let sent = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    metrics::counter!("mcpp_mesh_component_bytes_total", "direction" => "out").increment(sent);
                }
                Ok::<_, FrameError>(())
            };
            tokio::time::timeout(PATIENCE, telling).await.map_err(late)??;
        }
    }

    async fn answer(
        &self,
        peer: &PeerId,
        request: ComponentRequest,
    ) -> Result<(ComponentAnswer, Option<Vec<u8>>), OfferRefusal> {
        let grant = self.right(peer)?;
        match request {
            ComponentRequest::List {} => Ok((ComponentAnswer::List(self.offers(&grant)), None)),
            ComponentRequest::Chunks { digest } => {
                let list = self.list(&self.offered(&grant, &digest)?).await?;
                let values = list.values().iter().map(|value| blake3::Hash::from_bytes(*value).to_hex().to_string());
                Ok((ComponentAnswer::Chunks { bytes: list.bytes(), values: values.collect() }, None))
            }
            ComponentRequest::Chunk { digest, index } => {
                let revision = self.offered(&grant, &digest)?;
                let list = self.list(&revision).await?;
                let (begin, length) = list.place(index).ok_or(OfferRefusal::Invalid)?;
                let bytes = self.apart(revision, move |file| read_at(file, begin, length)).await?;
                if !list.has(index, &bytes) {
                    return Err(OfferRefusal::Changed);
                }
                Ok((ComponentAnswer::Chunk { bytes: bytes.len() }, Some(bytes)))
            }
        }
    }

    /// The live builds that a grant names, by name.
    fn offers(&self, grant: &PeerGrant) -> Vec<ComponentOffer> {
        let catalog = self.registry.catalog(&grant.tenant);
        let offered = catalog.components().filter(|revision| is_offered(grant, revision));
        let offered = offered.map(|revision| ComponentOffer {
            name: revision.name.to_string(),
            digest: revision.digest.clone(),
            bytes: u64::try_from(revision.bytes).unwrap_or(u64::MAX),
        });
        offered.take(MAX_OFFERS).collect()
    }

    fn offered(&self, grant: &PeerGrant, digest: &str) -> Result<Arc<Revision>, OfferRefusal> {
        let catalog = self.registry.catalog(&grant.tenant);
        let mut offered = catalog.components().filter(|revision| is_offered(grant, revision));
        let found = offered.find(|revision| revision.digest == digest).cloned();
        found.ok_or(OfferRefusal::Unknown)
    }

    fn lists(&self) -> MutexGuard<'_, BTreeMap<String, Arc<ChunkList>>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The list of a live build's chunks, made once.
    async fn list(&self, revision: &Arc<Revision>) -> Result<Arc<ChunkList>, OfferRefusal> {
        if let Some(list) = self.lists().get(&revision.digest) {
            return Ok(Arc::clone(list));
        }
        let list = self.apart(Arc::clone(revision), |file| ChunkList::read(file)).await?;
        if list.digest().is_none_or(|digest| digest.to_hex().as_str() != revision.digest) {
            return Err(OfferRefusal::Changed);
        }
        let list = Arc::new(list);
        let mut lists = self.lists();
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        lists.insert(revision.digest.clone(), Arc::clone(&list));
        Ok(list)
    }

    /// Reads a build's file on a thread that may wait for the disk.
    async fn apart<T: Send + 'static>(
        &self,
        revision: Arc<Revision>,
        read: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> Result<T, OfferRefusal> {
        let _one_of_few = self.reads.acquire().await.map_err(|_| OfferRefusal::Busy)?;
        let reading = tokio::task::spawn_blocking(move || {
            let path = revision.origin.file().ok_or(io::ErrorKind::NotFound)?;
            read(&open(path)?)
        });
        let read = reading.await.map_err(|_| OfferRefusal::Busy)?;
        // Its name and its contents are another matter than the live build's.
        read.map_err(|_| OfferRefusal::Changed)
    }
}

/// What is shipped with this program every host has.
fn is_offered(grant: &PeerGrant, revision: &Revision) -> bool {
    revision.origin.file().is_some()
        && grant.components.iter().any(|pattern| pattern.matches_text(revision.name.as_str()))
}

/// Opens a regular file without waiting for anybody.
fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();
    let file = File::options().read(true).custom_flags(at_once).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

fn read_at(file: &File, begin: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(bytes)
}
