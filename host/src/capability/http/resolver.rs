//! Finds the addresses of a name. Only names that a rule allows get here.

use std::{fmt, io, net::IpAddr, sync::Arc};

use futures::future::BoxFuture;

/// Finds the addresses of names.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// All addresses of `name`.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The resolver of a host; the system's by default.
#[derive(Debug, Clone, Default)]
pub struct Resolver(Option<Arc<dyn Resolve>>);

impl Resolver {
    /// A resolver of the embedder's own.
    pub fn new(resolver: Arc<dyn Resolve>) -> Self {
        Self(Some(resolver))
    }

    pub(super) fn get(&self) -> Arc<dyn Resolve> {
        self.0.clone().unwrap_or_else(|| Arc::new(System))
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
struct System;

impl Resolve for System {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}
