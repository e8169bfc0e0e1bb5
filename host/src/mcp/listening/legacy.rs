//! Clients of the legacy era: a session is told of changes for as long as it lives.

use std::sync::Arc;

use rmcp::{RoleServer, model::ResourceUpdatedNotificationParam, service::Peer};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::next_updates;
use crate::{
    control::admission::Share,
    mcp::session::Sessions,
    registry::{Generations, changes::ResourceListener},
};

/// A legacy client that is told of changes until its session ends.
pub(in crate::mcp) struct LegacyListening {
    pub(in crate::mcp) peer: Peer<RoleServer>,
    /// None if the tenant is gone.
    pub(in crate::mcp) share: Option<Arc<Share>>,
    pub(in crate::mcp) lists: watch::Receiver<Generations>,
    /// Whether resources and prompts are there for it.
    pub(in crate::mcp) may_read: bool,
    pub(in crate::mcp) listener: Option<Arc<ResourceListener>>,
    /// Its session's record, if it has one.
    pub(in crate::mcp) record: Option<(Arc<Sessions>, String)>,
    /// What it was told of before its session was parked.
    pub(in crate::mcp) known: Option<Generations>,
    pub(in crate::mcp) alive: CancellationToken,
}

impl LegacyListening {
    pub(in crate::mcp) async fn run(mut self) {
        let mut told = self.known.unwrap_or(*self.lists.borrow_and_update());
        loop {
            let now = *self.lists.borrow_and_update();
            if self.tell_lists(told, now).await.is_none() {
                return;
            }
            told = now;
            if let Some((sessions, session)) = &self.record {
                sessions.set_generations(session, told);
            }
            tokio::select! {
                changed = self.lists.changed() => if changed.is_err() { return },
                uris = next_updates(self.listener.as_deref()) => {
                    if self.tell_updates(&uris).await.is_none() {
                        return;
                    }
                }
                () = self.alive.cancelled() => return,
            }
        }
    }

    /// Waits until one more notification may be sent; `None` if the session ends first.
    async fn turn(&self) -> Option<()> {
        let share = self.share.as_ref()?;
        tokio::select! {
            () = self.alive.cancelled() => None,
            () = share.notices.wait() => Some(()),
        }
    }

    /// `None` if the session was parked or ended: its client is told when it comes back.
    async fn tell_updates(&self, uris: &[Arc<str>]) -> Option<()> {
        for (at, uri) in uris.iter().enumerate() {
            let updated = ResourceUpdatedNotificationParam::new(&**uri);
            if self.turn().await.is_none() || self.peer.notify_resource_updated(updated).await.is_err() {
                let untold = uris.iter().skip(at);
                untold.for_each(|uri| self.listener.iter().for_each(|listener| listener.mark(uri)));
                return None;
            }
        }
        Some(())
    }

    /// `None` if the client is gone.
    async fn tell_lists(&self, told: Generations, now: Generations) -> Option<()> {
        if now.tools != told.tools {
            self.turn().await?;
            self.peer.notify_tool_list_changed().await.ok()?;
        }
        if self.may_read && now.resources != told.resources {
            self.turn().await?;
            self.peer.notify_resource_list_changed().await.ok()?;
        }
        if self.may_read && now.prompts != told.prompts {
            self.turn().await?;
            self.peer.notify_prompt_list_changed().await.ok()?;
        }
        Some(())
    }
}
