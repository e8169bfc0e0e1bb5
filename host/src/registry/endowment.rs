//! The host's side of an instance: the grant of its revision, and the principal for whom it runs.

use std::sync::Arc;

use super::{
    Registry,
    request::Ticket,
    tool::{Powers, Tool},
};
use crate::{
    call::{Request, effect::Effects},
    capability::{container::ContainerAccess, http::HttpAccess, mesh::MeshAccess, state::Running, store::StoreAccess},
    grants::ledger::Witness,
    guest::kept::Keeping,
    store::Space,
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

    /// The host's side of an instance of a revision that serves a request. Without a cause, the tool is called.
    pub(super) fn running(
        &self,
        powers: &Powers,
        request: Request,
        tool: Arc<str>,
        cause: Option<Arc<str>>,
    ) -> Box<Running> {
        let Request { principal, trace, observer, depth, hops, chain, session, effect, client, .. } = request;
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
            trace,
            observer,
            depth,
            hops,
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
            session,
            client,
            chain,
            effects: Arc::new(Effects::new(effect)),
            hooks,
            stopping: self.0.stopping.clone(),
            resting: Arc::clone(&self.0.resting),
        })
    }
}
