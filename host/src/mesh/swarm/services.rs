//! Services in the distributed hash table: those that this host provides, and searches for those of others.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use libp2p::kad;
use tokio::sync::oneshot;

use super::SwarmTask;
use crate::mesh::{
    PeerId,
    services::{MAX_PROVIDED, MAX_PROVIDERS_FOUND, ServiceOrder, ServicesError},
};

/// Searches that run at the same time. Each has a few requests in flight and ends by itself.
const MAX_SEARCHES: usize = 32;

/// A search, and who waits for it.
#[derive(Debug)]
struct ServiceSearch {
    found: BTreeSet<PeerId>,
    until: Instant,
    reply: oneshot::Sender<Result<Vec<PeerId>, ServicesError>>,
}

/// The services of this host, and its searches.
#[derive(Debug, Default)]
pub(super) struct ServiceDesk {
    provided: BTreeSet<String>,
    searches: HashMap<kad::QueryId, ServiceSearch>,
}

/// The key of a service in a namespace.
fn key(namespace: &str, service: &str) -> kad::RecordKey {
    // The length keeps `a` of `b/c` from `a/b` of `c`.
    let text = format!("mcpp service {} {namespace} {service}", namespace.len());
    kad::RecordKey::new(&blake3::hash(text.as_bytes()).as_bytes())
}

impl SwarmTask {
    pub(super) fn on_service(&mut self, order: ServiceOrder) {
        match order {
            ServiceOrder::Provide { service, reply } => drop(reply.send(self.provide(service))),
            ServiceOrder::Withdraw { service } => {
                if let Some(dht) = self.swarm.behaviour_mut().dht.as_mut()
                    && self.services.provided.remove(&service)
                {
                    dht.stop_providing(&key(self.ways.namespace(), &service));
                }
            }
            ServiceOrder::Find { service, until, reply } => {
                let key = key(self.ways.namespace(), &service);
                let Some(dht) = self.swarm.behaviour_mut().dht.as_mut() else {
                    return drop(reply.send(Err(ServicesError::Off)));
                };
                if self.services.searches.len() >= MAX_SEARCHES {
                    return drop(reply.send(Err(ServicesError::Busy)));
                }
                let search = ServiceSearch { found: BTreeSet::new(), until, reply };
                self.services.searches.insert(dht.get_providers(key), search);
            }
        }
    }

    fn provide(&mut self, service: String) -> Result<(), ServicesError> {
        let key = key(self.ways.namespace(), &service);
        let dht = self.swarm.behaviour_mut().dht.as_mut().ok_or(ServicesError::Off)?;
        let provided = &mut self.services.provided;
        if provided.len() >= MAX_PROVIDED && !provided.contains(&service) {
            return Err(ServicesError::Busy);
        }
        dht.start_providing(key).map_err(|_| ServicesError::Busy)?;
        provided.insert(service);
        Ok(())
    }

    /// Tells the table again what this host provides: somebody new may keep it.
    pub(super) fn provide_again(&mut self) {
        let Some(dht) = self.swarm.behaviour_mut().dht.as_mut() else { return };
        for service in &self.services.provided {
            let _or_next_time = dht.start_providing(key(self.ways.namespace(), service));
        }
    }

    /// Notes what a search has found; whether the event was one of a search.
    pub(super) fn on_search(&mut self, event: &kad::Event) -> bool {
        let kad::Event::OutboundQueryProgressed { id, result: kad::QueryResult::GetProviders(result), step, .. } =
            event
        else {
            return false;
        };
        let own = *self.swarm.local_peer_id();
        let Some(search) = self.services.searches.get_mut(id) else { return false };
        if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result {
            let others = providers.iter().filter(|peer| **peer != own).map(PeerId::from_network);
            for peer in others {
                if search.found.len() < MAX_PROVIDERS_FOUND {
                    search.found.insert(peer);
                }
            }
        }
        if step.last || search.found.len() >= MAX_PROVIDERS_FOUND {
            self.end_search(id);
        }
        true
    }

    /// Answers the searches whose time is over, and lets go of those for which nobody waits.
    pub(super) fn tend_searches(&mut self, now: Instant) {
        let is_over = |search: &ServiceSearch| search.until <= now || search.reply.is_closed();
        let over = self.services.searches.iter().filter(|(_, search)| is_over(search)).map(|(id, _)| *id);
        for id in over.collect::<Vec<_>>() {
            self.end_search(&id);
        }
    }

    fn end_search(&mut self, id: &kad::QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().dht.as_mut().and_then(|dht| dht.query_mut(id)) {
            query.finish();
        }
        if let Some(search) = self.services.searches.remove(id) {
            let _or_gone = search.reply.send(Ok(search.found.into_iter().collect()));
        }
    }
}
