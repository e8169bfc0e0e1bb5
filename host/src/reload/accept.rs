//! The components of a pinned folder that an operator has accepted.
//!
//! A build is accepted by its *face* ([`face`]): what it imports, what it is told of, and its tools as clients see them. A new build with the same face goes live by itself; one that
//! is new, asks for more or shows clients something else waits until an operator has seen the difference and accepted it.

pub mod face;
pub mod text;

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

pub use self::face::{Face, FaceChange};
use crate::files::write_durably;

/// The version of the file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;

/// Why what was accepted is not known, or something is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The file could not be read or written.
    #[error("cannot use {path}, which says what was accepted")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No build of the component waits.
    #[error("no build of `{0}` waits to be accepted")]
    NothingWaits(String),
    /// Another build waits now.
    #[error("another build of `{component}` waits now, {waiting}; look at it first")]
    Another {
        /// The component.
        component: String,
        /// The build that waits.
        waiting: String,
    },
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AcceptedFile {
    version: u32,
    components: BTreeMap<String, Face>,
}

/// The accepted builds, and those that wait to be accepted.
#[derive(Debug)]
pub struct Accepted {
    path: PathBuf,
    waiting: Mutex<BTreeMap<String, Face>>,
}

impl Accepted {
    /// The accepted builds in the file `path`, which may not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, waiting: Mutex::default() }
    }

    fn failed(&self, source: io::Error) -> AcceptError {
        AcceptError::Io { path: self.path.clone(), source }
    }

    fn read(&self) -> Result<AcceptedFile, AcceptError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(AcceptedFile::default()),
            Err(error) => return Err(self.failed(error)),
        };
        let file: AcceptedFile = serde_json::from_slice(&text).map_err(|error| self.failed(error.into()))?;
        if file.version != FORMAT_VERSION {
            return Err(self.failed(io::Error::other(format!("it has version {}", file.version))));
        }
        Ok(file)
    }

    /// The changes that an operator must accept before this build may serve; empty if there are none.
    pub fn check(&self, component: &str, face: Face) -> Result<Vec<String>, AcceptError> {
        let file = self.read()?;
        let difference = face.difference(file.components.get(component));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if difference.is_empty() {
            waiting.remove(component);
        } else {
            waiting.insert(component.to_owned(), face);
        }
        Ok(difference)
    }

    /// The builds that wait: which component, which build, and what is different.
    pub fn waiting(&self) -> Result<Vec<Waiting>, AcceptError> {
        let file = self.read()?;
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = waiting.iter().map(|(component, face)| Waiting {
            component: component.clone(),
            digest: face.digest.clone(),
            difference: face.difference(file.components.get(component)),
            changes: face.changes(file.components.get(component)),
        });
        Ok(shown.collect())
    }

    /// Accepts the build of this digest.
    pub fn accept(&self, component: &str, digest: &str) -> Result<(), AcceptError> {
        let mut file = self.read()?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let face = waiting.get(component).ok_or_else(|| AcceptError::NothingWaits(component.to_owned()))?;
        if face.digest != digest {
            return Err(AcceptError::Another { component: component.to_owned(), waiting: face.digest.clone() });
        }
        file.version = FORMAT_VERSION;
        file.components.insert(component.to_owned(), face.clone());
        let text = serde_json::to_vec_pretty(&file).map_err(|error| self.failed(error.into()))?;
        write_durably(&self.path, &text).map_err(|error| self.failed(error))?;
        waiting.remove(component);
        Ok(())
    }
}

/// A build that waits to be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The component.
    pub component: String,
    /// The build.
    pub digest: String,
    /// The differences from the build that was accepted before, in lines: of long texts the part around the first difference.
    pub difference: Vec<String>,
    /// The same with the whole of each text.
    #[serde(default)]
    pub changes: Vec<FaceChange>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face(digest: &str, description: &str) -> Face {
        Face::for_test(digest, &[("tool", description)])
    }

    #[test]
    fn what_was_seen_is_what_is_accepted() {
        let folder = tempfile::tempdir().expect("a folder");
        let accepted = Accepted::new(folder.path().join("accepted.json"));
        let (first, second) = (face("1", "Adds."), face("2", "Subtracts."));
        assert!(matches!(accepted.accept("c", "1"), Err(AcceptError::NothingWaits(_))));
        assert!(!accepted.check("c", first.clone()).expect("read").is_empty());
        assert!(!accepted.check("c", second).expect("read").is_empty());
        assert!(
            matches!(accepted.accept("c", "1"), Err(AcceptError::Another { .. })),
            "the file was changed meanwhile"
        );
        accepted.check("c", first.clone()).expect("read");
        accepted.accept("c", "1").expect("accepted");
        assert!(accepted.check("c", first).expect("read").is_empty() && accepted.waiting().expect("read").is_empty());
        std::fs::write(folder.path().join("accepted.json"), "{").expect("written");
        assert!(matches!(accepted.check("c", face("1", "")), Err(AcceptError::Io { .. })));
    }
}
