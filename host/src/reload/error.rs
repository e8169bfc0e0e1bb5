//! Reasons for which the host does not load a component, each with the remedy.

use std::{path::PathBuf, sync::Arc};

use super::accept::AcceptError;
use crate::{
    grants::GrantsError,
    guest::component::ComponentError,
    memory::NoMemory,
    names::{ComponentName, InvalidComponentName, TenantId},
    registry::error::InstallError,
    store::StoreError,
};

/// Reason for which the host does not load a component.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The component itself is at fault, or its build.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// It does not fit what serves already.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Its name is not legal.
    #[error("{0}; rename the file")]
    Name(InvalidComponentName),
    /// The host could not read the file.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Its grant is not valid.
    #[error("its grant is not valid, so it has none: {}", crate::error::chain(&**.0))]
    Grant(Arc<GrantsError>),
    /// No person has accepted it yet.
    #[error("it waits until it is accepted: `mcpp accept {component} --tenant {tenant}`; {}", difference.join("; "))]
    NotAccepted {
        /// The component.
        component: ComponentName,
        /// The tenant that it belongs to.
        tenant: TenantId,
        /// Parts of it that are new.
        difference: Vec<String>,
    },
    /// The host does not know which builds were accepted.
    #[error(transparent)]
    Accepted(#[from] AcceptError),
    /// Its data has a newer format.
    #[error(
        "its data has format {data} and this build reads {build}; load a build for format {data}, or put back a backup"
    )]
    Downgrade {
        /// The data's format.
        data: u32,
        /// The build's.
        build: u32,
    },
    /// A migration has begun and another build is loaded.
    #[error(
        "a migration of its data from format {from} to {to} has begun and this build reads {build}; load a build for format {to}"
    )]
    MigrationUnderWay {
        /// The data's format before.
        from: u32,
        /// The format after.
        to: u32,
        /// The build's.
        build: u32,
    },
    /// The build before did not come to rest in time.
    #[error("its data has to be migrated, and calls of the build before did not end within {seconds} s; it serves on")]
    NotDrained {
        /// Seconds that its calls had to finish.
        seconds: u64,
    },
    /// Its migration does not end.
    #[error("its migration did not end within {most}, and was stopped; `mcpp reload` lets it go on from where it is")]
    MigrationEndless {
        /// The limit that it met, in seconds or steps.
        most: String,
    },
    /// Its file is a link out of its tenant's folder.
    #[error("{path} is a link that leads out of the tenant's folder; copy the file instead")]
    LeadsOut {
        /// The file.
        path: PathBuf,
    },
    /// Its file keeps changing.
    #[error("the file goes on changing, {seconds} s by now, and is no component yet: {error}")]
    NeverSettles {
        /// Seconds that the host waited.
        seconds: u64,
        /// The fault of the last attempt.
        error: Box<LoadError>,
    },
    /// It took too long.
    #[error("loading it took more than {seconds} s")]
    TooLong {
        /// Seconds that it may take.
        seconds: u64,
    },
    /// The host has no memory to load it.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
    /// Its store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes that were kept of a pinned build are others.
    #[error("the bytes that the host kept of the build are not its bytes")]
    NotThatBuild,
    /// The host itself failed.
    #[error("the host failed while it was loaded; its log says how")]
    Broke,
    /// Its tenant was closed, or its grant changed while it was loaded.
    #[error("its tenant was closed or its grant changed while it was loaded")]
    Cancelled,
    /// The host is stopping.
    #[error("the host is stopping")]
    Stopping,
}

impl From<InvalidComponentName> for LoadError {
    fn from(error: InvalidComponentName) -> Self {
        Self::Name(error)
    }
}

impl LoadError {
    /// Whether the file looks like one that is still being written.
    pub fn may_be_partial(&self) -> bool {
        matches!(self, Self::Component(error) if error.may_be_partial())
    }

    /// Whether the same file with the same grant would fail the same way again. Otherwise another attempt may succeed.
    pub fn is_of_the_file(&self) -> bool {
        match self {
            Self::Component(error) => error.is_of_the_file(),
            Self::Install(error) => error.is_of_the_file(),
            _ => false,
        }
    }
}
