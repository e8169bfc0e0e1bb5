//! The fetching side: a build of a digest comes in chunks from all peers that offer it, each of which takes the next missing chunk as soon as it has given one.
//!
//! A peer that gives a wrong chunk, refuses or falls silent is asked for nothing more; what it owed is asked of the others. What has come stays for the next attempt.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    PROTOCOL,
    chunks::ChunkList,
    message::{self, ComponentAnswer, ComponentOffer, ComponentRequest, ConversationError, MAX_OFFERS},
    part::PartFile,
};
use crate::{
    mesh::{PeerId, PeerStream, Unreachable, dial::Dial},
    names::{ComponentName, TenantId},
    peers::known::KnownPeers,
    tenant::{Incarnation, home::Homes},
};

/// Peers of which one build is fetched.
pub const MAX_SOURCES: usize = 8;
/// Time for a peer to be reached, and for an answer of it.
const OPEN_TIME: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Time for the whole; what has come stays.
const FETCH_TIME: Duration = Duration::from_secs(900);
/// Builds that are fetched at the same time, all tenants together.
const MAX_FETCHES: usize = 4;
/// The shortest beginning of a digest that names a build.
const MIN_DIGEST: usize = 8;

/// Why a build was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The tenant has joined none of the peers.
    #[error("tenant {tenant} has not joined {peer}; run `mcpp join TICKET` first")]
    NotJoined {
        /// The tenant.
        tenant: TenantId,
        /// The peer.
        peer: PeerId,
    },
    /// There are too many peers, or none.
    #[error("a build is fetched from 1 to {MAX_SOURCES} peers, not {0}")]
    Peers(usize),
    /// No peer offers it.
    #[error("none of the peers offers {wanted:?}{said}")]
    NotOffered {
        /// What was asked for.
        wanted: String,
        /// What each of them says.
        said: String,
    },
    /// The peers offer several builds of that name.
    #[error("the peers offer several builds of {wanted:?}: {digests}; name one by its digest")]
    Several {
        /// What was asked for.
        wanted: String,
        /// The builds.
        digests: String,
    },
    /// The name is none.
    #[error("{0:?} is no name for a component; give one with --as")]
    Name(String),
    /// The build is being fetched.
    #[error("the build is being fetched already")]
    Already,
    /// As many are being fetched as may be.
    #[error("{MAX_FETCHES} builds are being fetched; try again")]
    Busy,
    /// No peer gives the rest.
    #[error("{have} of {all} chunks have come, and stay for the next attempt{said}")]
    Incomplete {
        /// Chunks that are there.
        have: usize,
        /// Chunks of the whole.
        all: usize,
        /// What each peer says.
        said: String,
    },
    /// The file cannot be written.
    #[error("cannot write to {path}")]
    File {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A build that is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchOrder {
    /// The component by its name there, or a build by its digest or the beginning of it.
    pub component: String,
    /// The peers.
    pub peers: Vec<PeerId>,
    /// The component's name here; as there, if there is none.
    pub name: Option<String>,
}

/// A build that has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fetched {
    /// The component's name here.
    pub name: String,
    /// The build.
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// Chunks that were there from an attempt before.
    pub resumed: usize,
    /// Chunks that each peer gave.
    pub chunks: BTreeMap<PeerId, usize>,
    /// What went wrong with peers.
    pub problems: BTreeMap<PeerId, String>,
}

/// The offers of one peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct OffersOfPeer {
    /// What it offers.
    pub offers: Vec<ComponentOffer>,
    /// Why there are none.
    pub problem: Option<String>,
}

/// Fetches builds. Clones share what is going on.
#[derive(Debug, Clone)]
pub struct Fetcher {
    dial: Arc<dyn Dial>,
    peers: Arc<KnownPeers>,
    homes: Homes,
    running: Arc<Mutex<BTreeSet<(TenantId, String)>>>,
}

/// One build that is being fetched; no more when this is dropped.
#[derive(Debug)]
struct FetchPermit(Arc<Mutex<BTreeSet<(TenantId, String)>>>, (TenantId, String));

impl Drop for FetchPermit {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A peer and its stream, with what it offers.
struct PullSource {
    peer: PeerId,
    stream: PeerStream,
    offers: Vec<ComponentOffer>,
}

/// The chunks that are missing, and who gave which.
#[derive(Debug, Default)]
struct PullProgress {
    missing: VecDeque<usize>,
    /// Chunks that were asked for and have not come.
    asked: usize,
    chunks: BTreeMap<PeerId, usize>,
    problems: BTreeMap<PeerId, String>,
}

impl Fetcher {
    /// Fetches by `dial` what `peers` knows that tenants have joined.
    pub fn new(dial: Arc<dyn Dial>, peers: Arc<KnownPeers>, homes: Homes) -> Self {
        Self { dial, peers, homes, running: Arc::default() }
    }

    /// What peers offer to this host.
    ///
    /// # Errors
    /// The tenant has not joined one of them, or there are too many.
    pub async fn offers(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        peers: &[PeerId],
    ) -> Result<BTreeMap<PeerId, OffersOfPeer>, FetchError> {
        let (sources, problems) = self.open(tenant, incarnation, peers).await?;
        let offered =
            sources.into_iter().map(|source| (source.peer, OffersOfPeer { offers: source.offers, problem: None }));
        let silent = problems
            .into_iter()
            .map(|(peer, problem)| (peer, OffersOfPeer { offers: Vec::new(), problem: Some(problem) }));
        Ok(offered.chain(silent).collect())
    }

    /// Fetches a build into the tenant's folder of fetched components.
    ///
    /// `may_have` says whether the component may have its name there.
    ///
    /// # Errors
    /// [`FetchError`], or what `may_have` says. What has come stays for the next attempt.
    pub async fn fetch<E: From<FetchError>>(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        order: FetchOrder,
        may_have: impl FnOnce(&str) -> Result<(), E>,
    ) -> Result<Fetched, E> {
        let (sources, problems) = self.open(tenant, incarnation, &order.peers).await?;
        let offer = choose(&order.component, &sources, &problems)?;
        let named = order.name.clone().unwrap_or_else(|| offer.name.clone());
        let name = ComponentName::new(&named).map_err(|_| FetchError::Name(named.chars().take(80).collect()))?;
        may_have(name.as_str())?;
        let digest = blake3::Hash::from_hex(&offer.digest);
        let digest =
            digest.map_err(|_| FetchError::NotOffered { wanted: order.component.clone(), said: said(&problems) })?;
        let _permit = self.begin(tenant, &offer.digest)?;
        let has = |source: &PullSource| source.offers.iter().any(|other| other.digest == offer.digest);
        let sources = sources.into_iter().filter(has).collect();
        let mut progress = PullProgress { problems, ..PullProgress::default() };
        let agreed = agree(&digest, sources, &mut progress).await;
        let (list, sources) = agreed.ok_or_else(|| FetchError::NotOffered {
            wanted: order.component.clone(),
            said: said(&progress.problems),
        })?;
        Ok(self.pull(tenant, &name, &digest, list, sources, progress).await?)
    }

    fn begin(&self, tenant: &TenantId, digest: &str) -> Result<FetchPermit, FetchError> {
        let key = (tenant.clone(), digest.to_owned());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.len() >= MAX_FETCHES {
            return Err(FetchError::Busy);
        }
        if !running.insert(key.clone()) {
            return Err(FetchError::Already);
        }
        drop(running);
        Ok(FetchPermit(Arc::clone(&self.running), key))
    }

    /// Opens a stream to each peer, and asks what it offers.
    async fn open(
        &self,
        tenant: &TenantId,
        incarnation: &Incarnation,
        peers: &[PeerId],
    ) -> Result<(Vec<PullSource>, BTreeMap<PeerId, String>), FetchError> {
        let peers: BTreeSet<&PeerId> = peers.iter().collect();
        if peers.is_empty() || peers.len() > MAX_SOURCES {
            return Err(FetchError::Peers(peers.len()));
        }
        if let Some(peer) = peers.iter().find(|peer| self.peers.membership(tenant, incarnation, peer).is_none()) {
            return Err(FetchError::NotJoined { tenant: tenant.clone(), peer: PeerId::clone(peer) });
        }
        let opened =
            join_all(peers.into_iter().map(|peer| async move { (peer.clone(), self.open_one(peer).await) })).await;
        let (mut sources, mut problems) = (Vec::new(), BTreeMap::new());
        for (peer, opened) in opened {
            match opened {
                Ok((stream, offers)) => sources.push(PullSource { peer, stream, offers }),
                Err(problem) => drop(problems.insert(peer, problem)),
            }
        }
        Ok((sources, problems))
    }

    async fn open_one(&self, peer: &PeerId) -> Result<(PeerStream, Vec<ComponentOffer>), String> {
        let mut stream = self.dial.dial(peer, PROTOCOL, OPEN_TIME).await.map_err(|error| match error {
            Unreachable::Unsupported { .. } => "it offers no components".to_owned(),
            other => other.to_string(),
        })?;
        let asking = message::ask(&mut stream, &ComponentRequest::List {});
        match in_time(asking).await {
            Ok(ComponentAnswer::List(mut offers)) => {
                offers.truncate(MAX_OFFERS);
                Ok((stream, offers))
            }
            Ok(_) => Err(ConversationError::Other.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn pull(
        &self,
        tenant: &TenantId,
        name: &ComponentName,
        digest: &blake3::Hash,
        list: ChunkList,
        sources: Vec<PullSource>,
        mut progress: PullProgress,
    ) -> Result<Fetched, FetchError> {
        let folder = self.homes.of(tenant).fetched();
        let failed = |source| FetchError::File { path: folder.clone(), source };
        let (at, of, list) = (folder.clone(), *digest, Arc::new(list));
        let known = Arc::clone(&list);
        let (part, missing) = apart(move || PartFile::open(&at, &of, &known)).await.map_err(failed)?;
        let all = list.values().len();
        let resumed = all.saturating_sub(missing.len());
        progress.missing = missing.into();
        let (progress, part, given_back) = (Mutex::new(progress), Arc::new(part), Notify::new());
        let pull = |source| pull_from(source, *digest, &list, &part, &progress, &given_back);
        let pulling = join_all(sources.into_iter().map(pull));
        let _or_the_time_is_over = tokio::time::timeout(FETCH_TIME, pulling).await;
        let PullProgress { missing, chunks, problems, .. } = std::mem::take(&mut *lock(&progress));
        let have = resumed.saturating_add(chunks.values().sum());
        if !missing.is_empty() || have < all {
            return Err(FetchError::Incomplete { have, all, said: said(&problems) });
        }
        let (file, of) = (name.to_string(), *digest);
        let finishing = apart(move || match Arc::try_unwrap(part) {
            Ok(mut part) => part.finish(&file, &of),
            Err(_) => Err(std::io::ErrorKind::ResourceBusy.into()),
        });
        finishing.await.map_err(failed)?;
        metrics::counter!("mcpp_mesh_component_bytes_total", "direction" => "in").increment(list.bytes());
        let (name, digest) = (name.to_string(), digest.to_hex().to_string());
        Ok(Fetched { name, digest, bytes: list.bytes(), resumed, chunks, problems })
    }
}

fn lock(progress: &Mutex<PullProgress>) -> MutexGuard<'_, PullProgress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn in_time<T>(asking: impl Future<Output = Result<T, ConversationError>>) -> Result<T, ConversationError> {
    tokio::time::timeout(ANSWER_TIME, asking).await.unwrap_or(Err(ConversationError::Late))
}

/// Reads and writes files, not on a thread of the doors.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

/// The build that is meant: the one of that name, or of that digest.
fn choose(
    wanted: &str,
    sources: &[PullSource],
    problems: &BTreeMap<PeerId, String>,
) -> Result<ComponentOffer, FetchError> {
    let of_digest = |offer: &&ComponentOffer| wanted.len() >= MIN_DIGEST && offer.digest.starts_with(wanted);
    let all = || sources.iter().flat_map(|source| &source.offers);
    let mut found: BTreeMap<&str, &ComponentOffer> =
        all().filter(of_digest).map(|offer| (&*offer.digest, offer)).collect();
    if found.is_empty() {
        found = all().filter(|offer| offer.name == wanted).map(|offer| (&*offer.digest, offer)).collect();
    }
    match found.len() {
        0 => Err(FetchError::NotOffered { wanted: wanted.chars().take(80).collect(), said: said(problems) }),
        1 => found.into_values().next().cloned().ok_or_else(|| FetchError::Name(wanted.to_owned())),
        _ => {
            let digests: Vec<String> =
                found.keys().take(MAX_SOURCES).map(|digest| digest.chars().take(16).collect()).collect();
            Err(FetchError::Several { wanted: wanted.chars().take(80).collect(), digests: digests.join(", ") })
        }
    }
}

/// What peers said, behind an error.
fn said(problems: &BTreeMap<PeerId, String>) -> String {
    problems.iter().map(|(peer, problem)| format!("; {peer}: {problem}")).collect()
}

/// The list of chunks, of the first peer whose list adds up to the digest; and the peers that are left.
async fn agree(
    digest: &blake3::Hash,
    mut sources: Vec<PullSource>,
    progress: &mut PullProgress,
) -> Option<(ChunkList, Vec<PullSource>)> {
    loop {
        let first = sources.first_mut()?;
        match in_time(message::ask_chunks(&mut first.stream, digest)).await {
            Ok(list) => return Some((list, sources)),
            Err(error) => {
                let bad = sources.remove(0);
                progress.problems.insert(bad.peer, error.to_string());
            }
        }
    }
}

/// Takes missing chunks from one peer until there are none, or the peer fails.
async fn pull_from(
    mut source: PullSource,
    digest: blake3::Hash,
    list: &Arc<ChunkList>,
    part: &Arc<PartFile>,
    progress: &Mutex<PullProgress>,
    given_back: &Notify,
) {
    loop {
        // A chunk that another peer owes may become this one's.
        let notified = given_back.notified();
        let index = {
            let mut progress = lock(progress);
            match progress.missing.pop_front() {
                None if progress.asked == 0 => return,
                index => {
                    progress.asked = progress.asked.saturating_add(usize::from(index.is_some()));
                    index
                }
            }
        };
        let Some(index) = index else {
            notified.await;
            continue;
        };
        let pulled = in_time(message::ask_chunk(&mut source.stream, &digest, list, index)).await;
        let kept = match pulled {
            Ok(bytes) => {
                let part = Arc::clone(part);
                apart(move || part.keep(index, &bytes)).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        let mut progress = lock(progress);
        progress.asked = progress.asked.saturating_sub(1);
        given_back.notify_waiters();
        match kept {
            Ok(()) => {
                let given = progress.chunks.entry(source.peer.clone()).or_default();
                *given = given.saturating_add(1);
            }
            Err(problem) => {
                // Somebody else is asked for it.
                progress.missing.push_back(index);
                progress.problems.insert(source.peer.clone(), problem);
                return;
            }
        }
    }
}
