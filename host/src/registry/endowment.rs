//! The host's side of an instance: the grant of its revision, and the principal for whom it runs.

use std::sync::Arc;

use super::{
    Registry,
    request::Ticket,
    tool::{Powers, Tool},
};
use crate::{
    call::{Observer, Request, TraceContext, effect::Effects, inputs::ClientLine},
    capability::{container::ContainerAccess, http::HttpAccess, mesh::MeshAccess, state::Running, store::StoreAccess},
    grants::ledger::Witness,
    guest::kept::Keeping,
    store::Space,
    tenant::Principal,
};

impl Registry {
    /// Which guests of a tool stay.
    pub(super) fn keeping(&self, tool: &Tool, ticket: &Ticket<Tool>) -> Option<Keeping> {
        if !tool.stays() {
            return None;
        }
        let most = ticket.share().limits.kept;
        let build = Arc::downgrade(&tool.service.powers.life);
        Some(Keeping { keeper: self.0.keeper.clone(), build, most, reuse: tool.reuse })
    }

    /// The host's side of an instance that serves a request.
    pub(super) fn running_for(
        &self,
        powers: &Powers,
        request: Request,
        what: Arc<str>,
        cause: Arc<str>,
    ) -> Box<Running> {
        let mut running = self.running(powers, request.principal, what, cause);
        running.trace = request.trace;
        running.observer = request.observer;
        running.depth = request.depth;
        running.hops = request.hops;
        running.chain = request.chain;
        running.session = request.session;
        running.effects = Arc::new(Effects::new(request.effect));
        running.client = request.client;
        running
    }

    /// The host's side of an instance of a revision.
    pub(super) fn running(
        &self,
        powers: &Powers,
        principal: Principal,
        tool: Arc<str>,
        cause: Arc<str>,
    ) -> Box<Running> {
        let space = Space { tenant: principal.tenant.clone(), component: powers.component.clone() };
        let witness = Witness::new(
            Arc::clone(&self.0.ledger),
            principal.tenant.clone(),
            powers.component.clone(),
            Arc::clone(&tool),
        );
        let access = |quota_bytes| StoreAccess {
            store: Arc::clone(&self.0.store),
            space,
            quota_bytes,
            subscriptions: Arc::clone(&self.0.subscriptions),
        };
        let http = powers.http.as_ref().map(|grant| HttpAccess {
            outbound: Arc::clone(&self.0.outbound),
            grant: Arc::clone(grant),
            secrets: self.0.outbound.secrets(&principal.tenant),
        });
        let mesh = powers.mesh.as_ref().map(|grant| MeshAccess { grant: Arc::clone(grant), mesh: self.guest_mesh() });
        let containers = powers
            .container
            .as_ref()
            .map(|grant| ContainerAccess { grant: Arc::clone(grant), engine: self.0.containers.get().cloned() });
        let hooks = self.hooks_of(&principal.tenant);
        Box::new(Running {
            principal,
            component: powers.component.shared(),
            tool,
            trace: TraceContext::root(),
            observer: Observer::default(),
            depth: 0,
            hops: 0,
            may_call: Arc::clone(&powers.may_call),
            dispatch: Arc::new(self.clone()),
            witness,
            store: powers.quota_bytes.map(access),
            files: powers.files.clone(),
            config: Arc::clone(&powers.config),
            http,
            mesh,
            containers,
            cause,
            session: None,
            client: ClientLine::default(),
            chain: 0,
            effects: Arc::default(),
            hooks,
            stopping: self.0.stopping.clone(),
            resting: Arc::clone(&self.0.resting),
        })
    }
}
