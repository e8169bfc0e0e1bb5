//! Services: names under which hosts of a namespace find each other in the distributed hash table.
//!
//! An entry of the table is a peer's word and proves nothing. A host says that it provides a few services, because peers keep few of one host.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Mesh, PeerId, swarm::MeshCommand};

/// Services that one host provides at once. Peers keep 16 keys of one provider, and one of them is that of the namespace.
pub const MAX_PROVIDED: usize = 12;
/// Providers of one service that a search gives. Peers keep no more of one key.
pub const MAX_PROVIDERS_FOUND: usize = 20;

/// Why the table was not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// The operator has not turned it on, or there is no mesh.
    #[error("the distributed hash table is off; set mesh.dht")]
    Off,
    /// The mesh has too much to do, or this host provides as much as it may.
    #[error("the mesh does not take this now")]
    Busy,
}

/// An order about a service.
#[derive(Debug)]
pub(super) enum ServiceOrder {
    /// Say that this host provides it.
    Provide { service: String, reply: oneshot::Sender<Result<(), ServicesError>> },
    /// Say so no longer.
    Withdraw { service: String },
    /// Find the hosts that provide it.
    Find { service: String, until: Instant, reply: oneshot::Sender<Result<Vec<PeerId>, ServicesError>> },
}

impl Mesh {
    /// Says that this host provides a service, until [`Mesh::withdraw`]. Again is no error.
    ///
    /// # Errors
    /// [`ServicesError`].
    pub async fn provide(&self, service: &str) -> Result<(), ServicesError> {
        let (reply, answer) = oneshot::channel();
        self.order_service(ServiceOrder::Provide { service: service.to_owned(), reply })?;
        tokio::time::timeout(super::LEAVE_TIME, answer)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or(Err(ServicesError::Busy))
    }

    /// Says it no longer. Peers forget what they were told within a day.
    pub fn withdraw(&self, service: &str) {
        // With the queue full the entry is told on until the host ends.
        let _or_later = self.order_service(ServiceOrder::Withdraw { service: service.to_owned() });
    }

    /// The other hosts that say they provide a service, as far as they are found within a time; at most [`MAX_PROVIDERS_FOUND`].
    ///
    /// # Errors
    /// [`ServicesError`].
    pub async fn find_service(&self, service: &str, within: Duration) -> Result<Vec<PeerId>, ServicesError> {
        let (reply, answer) = oneshot::channel();
        let until = Instant::now() + within;
        self.order_service(ServiceOrder::Find { service: service.to_owned(), until, reply })?;
        // The swarm's task answers in time with what it has found.
        let answer = tokio::time::timeout(within.saturating_add(super::LEAVE_TIME), answer).await;
        answer.map_or(Err(ServicesError::Busy), |found| found.unwrap_or(Err(ServicesError::Off)))
    }

    fn order_service(&self, order: ServiceOrder) -> Result<(), ServicesError> {
        self.commands.try_send(MeshCommand::Service(order)).map_err(|error| match error {
            tokio::sync::mpsc::error::TrySendError::Full(_) => ServicesError::Busy,
            tokio::sync::mpsc::error::TrySendError::Closed(_) => ServicesError::Off,
        })
    }
}
