//! From a name to its addresses. Only names that a rule allows get here.

use std::{fmt, io, net::IpAddr, sync::Arc};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

/// Look-ups at once, of the whole host: each may hold a thread for as long as the system's resolver takes.
const MAX_LOOKUPS: usize = 64;

/// Finds the addresses of names.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// All addresses of `name`.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of a host; the system's by default.
#[derive(Debug, Clone, Default)]
pub struct Resolver(Option<Arc<dyn Resolve>>);

impl Resolver {
    /// One of the embedder's own.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self(Some(resolver))
    }

    pub(super) fn get(&self) -> Arc<dyn Resolve> {
        self.0.clone().unwrap_or_else(|| Arc::new(System(Arc::new(Semaphore::new(MAX_LOOKUPS)))))
    }
}

impl PartialEq for Resolver {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// The system's resolver.
#[derive(Debug)]
struct System(Arc<Semaphore>);

impl Resolve for System {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        let (places, name) = (Arc::clone(&self.0), name.to_owned());
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            // A task of its own: the thread that looks up cannot be stopped, and its place is taken until it is done.
            let lookup = tokio::spawn(async move {
                let _until_done = place;
                let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}
