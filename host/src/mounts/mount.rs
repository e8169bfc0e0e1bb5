//! One mount of one tenant: it follows its peers' offers and rights, and shows in the tenant's catalog what was accepted and is there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle};

use super::{
    offer::{MountOffer, OfferedTool, ToolMaker},
    plan::{MountPlan, PeerSight},
    record::{MountName, MountRecord},
    rows::{MountRow, MountedPeer},
    watch::{PeerOffer, PeerWatch},
};
use crate::{
    limits::Limits,
    mcp::mesh::remote::{Remotes, list::PeerTool},
    memory::Account,
    mesh::PeerId,
    names::{TenantId, ToolName},
    peers::known::KnownPeers,
    registry::{
        Registry,
        catalog::mounted::{MountedTools, owner},
        tool::Tool,
    },
    reload::accept::{Waiting, face::ToolFace},
    tenant::{Incarnation, Principal},
};

/// How often a mount looks whether a right has ended by its time.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The parts of the host that mounts use.
#[derive(Debug, Clone)]
pub(super) struct MountParts {
    pub(super) registry: Registry,
    pub(super) remotes: Remotes,
    pub(super) peers: Arc<KnownPeers>,
    /// The limits of a call.
    pub(super) limits: Limits,
}

/// Whose a mount is.
#[derive(Debug, Clone)]
pub(super) struct MountOwner {
    pub(super) tenant: TenantId,
    pub(super) incarnation: Incarnation,
    pub(super) account: Arc<Account>,
}

/// A mount that is followed. Its task ends with it.
#[derive(Debug)]
pub(super) struct Mount {
    shared: Arc<MountShared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct MountShared {
    parts: MountParts,
    owner: MountOwner,
    name: MountName,
    peers: Vec<MountPeer>,
    maker: ToolMaker,
    state: Mutex<MountState>,
    /// Counts orders to look at all peers.
    wanted: watch::Sender<u64>,
    /// The orders that were carried out.
    looked: watch::Sender<u64>,
    /// Held while its tools are put into the catalog.
    showing: Mutex<()>,
    ended: AtomicBool,
}

#[derive(Debug)]
struct MountPeer {
    id: PeerId,
    watch: Arc<PeerWatch>,
}

#[derive(Debug, Default)]
struct MountState {
    /// The tools that the operator accepted.
    accepted: BTreeMap<ToolName, Arc<OfferedTool>>,
    /// Tools that were accepted and cannot be made any more.
    lost: Vec<String>,
    /// What each peer offers.
    offers: Vec<MountOffer>,
    /// The tools in the catalog.
    shown: BTreeMap<ToolName, Arc<Tool>>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mount {
    /// Begins to follow a mount.
    pub(super) fn begin(
        parts: MountParts,
        owner: MountOwner,
        name: MountName,
        record: MountRecord,
        watches: Vec<Arc<PeerWatch>>,
    ) -> Self {
        let MountRecord { peers, tools, accepted, .. } = record;
        let account = Arc::clone(&owner.account);
        let maker = ToolMaker::new(name.clone(), tools, parts.limits, account, parts.remotes.clone());
        let offers = peers.iter().map(|_| MountOffer::default()).collect();
        let peers = peers.into_iter().zip(watches).map(|(id, watch)| MountPeer { id, watch }).collect();
        let shared = Arc::new(MountShared {
            parts,
            owner,
            name,
            peers,
            maker,
            state: Mutex::new(MountState { offers, ..MountState::default() }),
            wanted: watch::Sender::new(0),
            looked: watch::Sender::new(0),
            showing: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let following = Arc::clone(&shared);
        let task = tokio::spawn(async move { following.follow(accepted).await }).abort_handle();
        Self { shared, task }
    }

    /// Waits until each peer has told what it offers, or that it does not, and the mount has looked at that; or for a while.
    pub(super) async fn settled(&self, patience: Duration) {
        let settling = async {
            for peer in &self.shared.peers {
                let mut offer = peer.watch.offer();
                let _or_ended = offer.wait_for(|offer| offer.fetches > 0).await.is_ok();
            }
            let wanted = self.shared.look_again();
            let mut looked = self.shared.looked.subscribe();
            let _or_ended = looked.wait_for(|looked| *looked >= wanted).await.is_ok();
        };
        let _or_not = tokio::time::timeout(patience, settling).await;
    }

    /// What waits to be accepted.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        self.shared.with_plan(|state, plan| {
            let waiting = plan.waiting.iter().map(|(digest, offer)| {
                let changes: Vec<_> = offer
                    .tools
                    .iter()
                    .flat_map(|(tool, face)| {
                        let mounted = self.shared.name.of_tool(tool).map_or_else(String::new, String::from);
                        let known = state.accepted.get(*tool).map(|known| &known.face);
                        face.changes(&mounted, known)
                    })
                    .collect();
                let peers = offer.peers.iter().filter_map(|at| self.shared.peers.get(*at));
                let of = peers.map(|peer| format!("offered by {}", peer.id));
                Waiting {
                    component: self.shared.name.to_string(),
                    digest: digest.clone(),
                    difference: of.chain(changes.iter().map(|change| change.line())).collect(),
                    changes,
                }
            });
            waiting.collect()
        })
    }

    /// The tools of an interface that waits, by its digest.
    pub(super) fn offered(&self, digest: &str) -> Option<BTreeMap<ToolName, PeerTool>> {
        self.shared.with_plan(|state, plan| {
            let offer = plan.waiting.get(digest)?;
            let offers = state.offers.get(*offer.peers.first()?)?;
            let tools =
                offer.tools.keys().filter_map(|tool| Some(((*tool).clone(), offers.tools.get(*tool)?.written.clone())));
            Some(tools.collect())
        })
    }

    /// Takes tools for accepted from now on; their record is kept already.
    pub(super) fn accept(&self, tools: &BTreeMap<ToolName, PeerTool>) {
        let mut state = self.shared.state();
        let made = tools.iter().filter_map(|(name, written)| {
            let mut offered = state.offers.iter().filter_map(|offer| offer.tools.get(name));
            Some((name.clone(), Arc::clone(offered.find(|tool| tool.written == *written)?)))
        });
        let made: Vec<_> = made.collect();
        state.accepted.extend(made);
        drop(state);
        self.shared.look_again();
    }

    /// How it does, for an operator.
    pub(super) fn row(&self) -> MountRow {
        let shared = &self.shared;
        let catalog = shared.parts.registry.catalog(&shared.owner.tenant);
        let hidden = catalog.hidden(shared.name.as_str()).iter().map(|tool| tool.name.clone()).collect();
        let problems = catalog.problems();
        let problem = problems.filter(|problem| problem.component == owner(shared.name.as_str()));
        let problem = problem.map(|problem| problem.error.clone()).next();
        shared.with_plan(|_, plan| {
            let peers = shared.peers.iter().enumerate().map(|(at, peer)| {
                let waits = plan.waiting.iter().filter(|(_, offer)| offer.peers.contains(&at));
                let waiting = waits.map(|(digest, offer)| (digest.clone(), offer.tools.len())).next();
                let serves = plan.shown.values().filter(|ready| ready.contains(&at)).count();
                let health = shared.parts.remotes.health(&peer.id);
                let offer = peer.watch.offer().borrow().clone();
                MountedPeer::new(peer.id.clone(), &health, &offer, shared.is_member(&peer.id), serves, waiting)
            });
            MountRow {
                name: shared.name.clone(),
                tools: plan.shown.keys().filter_map(|tool| shared.name.of_tool(tool)).collect(),
                hidden,
                withheld: plan.withheld.iter().filter_map(|tool| shared.name.of_tool(tool)).collect(),
                peers: peers.collect(),
                problem,
            }
        })
    }
}

impl Mount {
    /// Ends it: it shows nothing any more when this returns.
    pub(super) async fn end(&self) {
        self.shared.ended.store(true, Ordering::Release);
        self.task.abort();
        // A look that goes on now is the last one.
        let shared = Arc::clone(&self.shared);
        let _done = tokio::task::spawn_blocking(move || drop(shared.showing())).await;
    }
}

impl MountShared {
    fn showing(&self) -> MutexGuard<'_, ()> {
        self.showing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, MountState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Orders a look at all peers; its number.
    fn look_again(&self) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            *wanted = wanted.saturating_add(1);
            number = *wanted;
        });
        number
    }

    fn is_member(&self, peer: &PeerId) -> bool {
        self.parts.peers.membership(&self.owner.tenant, &self.owner.incarnation, peer).is_some()
    }

    /// Follows its peers until it is dropped.
    async fn follow(self: Arc<Self>, accepted: BTreeMap<ToolName, PeerTool>) {
        let this = Arc::clone(&self);
        // Peers wrote the schemas that are compiled here.
        let engine = self.parts.registry.engine().clone();
        let _ended_with_the_host = engine.spawn_blocking(move || this.remake(&accepted)).await;
        let mut offers: Vec<watch::Receiver<PeerOffer>> = self.peers.iter().map(|peer| peer.watch.offer()).collect();
        let mut rights = self.parts.peers.changes();
        let mut orders = self.wanted.subscribe();
        loop {
            let ordered = *orders.borrow_and_update();
            let now: Vec<PeerOffer> = offers.iter_mut().map(|offer| offer.borrow_and_update().clone()).collect();
            rights.mark_unchanged();
            let this = Arc::clone(&self);
            if engine.spawn_blocking(move || this.look(&now)).await.is_err() {
                tracing::error!(mount = %self.name, "what its peers offer was not looked at");
            }
            self.looked.send_replace(ordered);
            let changed = futures::future::select_all(offers.iter_mut().map(|offer| Box::pin(offer.changed())));
            tokio::select! {
                (told, ..) = changed => if told.is_err() {
                    // Nobody tells any more: what was told stays.
                    tokio::time::sleep(LOOK_AGAIN).await;
                },
                _ = rights.changed() => {}
                _ = orders.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Makes the tools that were accepted before the host was started. Blocks.
    fn remake(&self, accepted: &BTreeMap<ToolName, PeerTool>) {
        let (mut made, mut lost) = (BTreeMap::new(), Vec::new());
        for (name, written) in accepted {
            match self.maker.make(name, written) {
                Ok(tool) => drop(made.insert(name.clone(), Arc::new(tool))),
                Err(reason) => lost.push(format!("accepted tool `{name}`: {reason}")),
            }
        }
        let mut state = self.state();
        (state.accepted, state.lost) = (made, lost);
    }

    /// Looks at what the peers offer now, and shows what may be shown. Blocks for as long as new schemas take.
    fn look(&self, offers: &[PeerOffer]) {
        for (at, offer) in offers.iter().enumerate() {
            let Some(listing) = &offer.listing else { continue };
            let before = {
                let mut state = self.state();
                let Some(before) = state.offers.get_mut(at) else { continue };
                if before.listing.as_ref().is_some_and(|before| Arc::ptr_eq(before, listing)) {
                    continue;
                }
                std::mem::take(before)
            };
            let read = self.maker.read(listing, &before);
            if let Some(place) = self.state().offers.get_mut(at) {
                *place = read;
            }
        }
        self.show(offers);
    }

    /// Shows in the catalog what may be shown.
    fn show(&self, offers: &[PeerOffer]) {
        let _showing = self.showing();
        if self.ended.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state();
        let plan = self.plan(&state, offers);
        let ready = |places: &[usize]| {
            places.iter().filter_map(|at| Some(self.peers.get(*at)?.id.clone())).collect::<Vec<PeerId>>()
        };
        let mut shown = BTreeMap::new();
        for (name, places) in &plan.shown {
            let Some(accepted) = state.accepted.get(*name) else { continue };
            self.maker.route(name).set_ready(&ready(places));
            shown.insert((*name).clone(), Arc::clone(&accepted.tool));
        }
        for gone in state.shown.keys().filter(|name| !shown.contains_key(*name)) {
            self.maker.route(gone).set_ready(&[]);
        }
        let problem = problem(&self.name, &state, &plan, &self.peers);
        let tools: Vec<Arc<Tool>> = shown.values().cloned().collect();
        drop(plan);
        self.maker.keep_routes(|name| {
            state.accepted.contains_key(name) || state.offers.iter().any(|offer| offer.tools.contains_key(name))
        });
        state.shown = shown;
        drop(state);
        let mounted = MountedTools { mount: self.name.shared(), tools, problem };
        let MountOwner { tenant, incarnation, .. } = &self.owner;
        if let Err(gone) = self.parts.registry.mount(tenant, incarnation, mounted) {
            tracing::debug!(%tenant, mount = %self.name, %gone, "a mount's tools are not shown");
        }
    }

    fn with_plan<T>(&self, read: impl FnOnce(&MountState, &MountPlan<'_>) -> T) -> T {
        let offers: Vec<PeerOffer> = self.peers.iter().map(|peer| peer.watch.offer().borrow().clone()).collect();
        let state = self.state();
        let plan = self.plan(&state, &offers);
        read(&state, &plan)
    }

    fn plan<'a>(&self, state: &'a MountState, offers: &[PeerOffer]) -> MountPlan<'a> {
        let accepted: BTreeMap<&ToolName, &ToolFace> =
            state.accepted.iter().map(|(name, tool)| (name, &tool.face)).collect();
        let caller = Principal {
            incarnation: self.owner.incarnation.clone(),
            ..Principal::system(self.owner.tenant.clone(), self.name.component())
        };
        let sights = self.peers.iter().zip(&state.offers).zip(offers).map(|((peer, offered), now)| {
            let may_call = |tool: &ToolName| self.parts.peers.may_call(&caller, &peer.id, tool);
            let tools = offered.listing.as_ref().map(|_| {
                let tools = offered.tools.iter().filter(|(name, _)| may_call(name));
                tools.map(|(name, tool)| (name, &tool.face)).collect()
            });
            // A list that is not looked at yet is not what is known.
            let is_seen = match (&offered.listing, &now.listing) {
                (Some(seen), Some(now)) => Arc::ptr_eq(seen, now),
                _ => false,
            };
            let may_call = accepted.keys().map(|tool| (*tool, may_call(tool))).collect();
            PeerSight { tools, is_fresh: now.is_fresh && is_seen, may_call }
        });
        MountPlan::new(&accepted, &sights.collect::<Vec<_>>())
    }
}

/// Why some tools of a mount are not there.
fn problem(name: &MountName, state: &MountState, plan: &MountPlan<'_>, peers: &[MountPeer]) -> Option<String> {
    let mut problems = state.lost.clone();
    let list = |tools: &[&ToolName]| {
        tools
            .iter()
            .filter_map(|tool| name.of_tool(tool))
            .map(|tool| format!("`{tool}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !plan.withheld.is_empty() {
        problems.push(format!("withheld until the change is accepted: {}", list(&plan.withheld)));
    }
    let waiting: usize = plan.waiting.values().map(|offer| offer.tools.len()).sum();
    if waiting > 0 {
        problems.push(format!(
            "{waiting} new or changed tools wait; look at them with `mcpp accept --mount {name} --show`"
        ));
    }
    for (peer, offer) in peers.iter().zip(&state.offers) {
        problems.extend(offer.refused.iter().map(|refused| format!("{} offers what is refused: {refused}", peer.id)));
        let trouble = peer.watch.offer().borrow().trouble.clone();
        problems.extend(trouble.map(|trouble| format!("{}: {trouble}", peer.id)));
    }
    (!problems.is_empty()).then(|| problems.join("; "))
}
