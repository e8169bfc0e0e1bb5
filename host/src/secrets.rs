//! A tenant's secrets: encrypted at rest, opened one at a time and only to be put into a request.
//!
//! One file for each tenant, `secrets.toml`, in which each value is sealed with XChaCha20-Poly1305 under the host's key; tenant and name are bound to it as associated data, so
//! that no entry can stand in for another. The key is the environment's or a file's ([`Key`]). A running host looks at the file again when its stamp changes. Values are wiped from memory
//! when they are dropped and are in no log, error or result.

mod file;
mod key;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use serde::Deserialize;
use zeroize::Zeroizing;

use self::file::{Sealed, SecretsFile};
pub use self::key::{KEY_VARIABLE, Key, KeyError, KeySource};
use crate::{names::TenantId, tenant::home::Home};

/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// The file's name, in its tenant's directory.
const FILE: &str = "secrets.toml";

/// A secret's name: an upper-case letter, then up to 63 upper-case letters, digits and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct SecretName(Arc<str>);

/// A name that breaks the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a secret's name, 1 to 64 of `A-Z`, `0-9` and `_`, a letter first")]
pub struct InvalidSecretName(String);

impl SecretName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, InvalidSecretName> {
        let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        let first = name.chars().next().is_some_and(|c| c.is_ascii_uppercase());
        if !first || name.len() > MAX_NAME_BYTES || !name.chars().all(legal) {
            return Err(InvalidSecretName(name.chars().take(MAX_NAME_BYTES).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The placeholder that a guest writes where the value shall stand.
    pub fn placeholder(&self) -> String {
        format!("{PLACEHOLDER_START}{}{PLACEHOLDER_END}", self.0)
    }
}

/// The beginning of a placeholder.
pub const PLACEHOLDER_START: &str = "{{secret:";
/// The end of a placeholder.
pub const PLACEHOLDER_END: &str = "}}";

impl TryFrom<String> for SecretName {
    type Error = InvalidSecretName;

    fn try_from(name: String) -> Result<Self, InvalidSecretName> {
        Self::new(&name)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a secret is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file does not work.
    #[error("cannot use the secrets in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not one of secrets.
    #[error("the file of secrets {path} is not valid: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The error, without a word of the file's contents.
        reason: String,
    },
    /// There is no key, or not the right one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// An entry does not open.
    #[error("the secret {name} does not open: it was sealed under another key, for another tenant, or changed")]
    Sealed {
        /// Which.
        name: SecretName,
    },
    /// There is no such secret.
    #[error("there is no secret {name}; `mcpp secret set {name}` makes it")]
    Unknown {
        /// Which.
        name: SecretName,
    },
    /// A value is not taken.
    #[error("the value is not taken: {0}")]
    Value(&'static str),
}

/// One tenant's secrets.
#[derive(Debug)]
pub struct Secrets {
    tenant: TenantId,
    path: PathBuf,
    key: KeySource,
    read: Mutex<Option<(SecretsStamp, BTreeMap<SecretName, Sealed>)>>,
}

/// The properties of the file that change when somebody writes it.
type SecretsStamp = (u64, SystemTime, u64);

impl Secrets {
    /// The secrets of a tenant in its home; nothing is read yet.
    pub fn new(home: &Home, key: KeySource) -> Self {
        Self { tenant: home.tenant.clone(), path: home.path.join(FILE), key, read: Mutex::default() }
    }

    /// Their names.
    pub fn list(&self) -> Result<Vec<SecretName>, SecretError> {
        Ok(SecretsFile::read(&self.path)?.entries.into_keys().collect())
    }

    /// Sets a secret; its earlier value is gone. A line's end after the value does not belong to it. Blocks on the disk.
    pub fn set(&self, name: &SecretName, value: &[u8]) -> Result<(), SecretError> {
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        if value.is_empty() {
            return Err(SecretError::Value("it is empty"));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(SecretError::Value("it is longer than 64 KiB"));
        }
        if std::str::from_utf8(value).is_err() {
            return Err(SecretError::Value("it is not UTF-8 text"));
        }
        let sealed = self.key.load_or_make()?.seal(value, self.bound(name).as_bytes())?;
        SecretsFile::change(&self.path, |entries| {
            entries.insert(name.clone(), sealed);
            true
        })
        .map(drop)
    }

    /// Removes one; whether there was one. Blocks on the disk.
    pub fn remove(&self, name: &SecretName) -> Result<bool, SecretError> {
        SecretsFile::change(&self.path, |entries| entries.remove(name).is_some())
    }

    /// The value of one, as it is in the file now. Blocks on the disk.
    pub fn open(&self, name: &SecretName) -> Result<Zeroizing<String>, SecretError> {
        let sealed = self.sealed(name)?.ok_or_else(|| SecretError::Unknown { name: name.clone() })?;
        let opened = self.key.load()?.open(&sealed, self.bound(name).as_bytes());
        let opened = opened.ok_or_else(|| SecretError::Sealed { name: name.clone() })?;
        match std::str::from_utf8(&opened) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(SecretError::Sealed { name: name.clone() }),
        }
    }

    fn sealed(&self, name: &SecretName) -> Result<Option<Sealed>, SecretError> {
        let fail = |source| SecretError::File { path: self.path.clone(), source };
        let stamp = stamp(&self.path).map_err(fail)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match &*read {
            Some((known, entries)) if *known == stamp => Ok(entries.get(name).cloned()),
            _ => {
                let entries = SecretsFile::read(&self.path)?.entries;
                let sealed = entries.get(name).cloned();
                *read = Some((stamp, entries));
                Ok(sealed)
            }
        }
    }

    /// The text to which an entry is bound: its tenant and its name.
    fn bound(&self, name: &SecretName) -> String {
        format!("mcpp secret 1\0{}\0{name}", self.tenant)
    }
}

/// A file that is not there has a stamp of its own.
fn stamp(path: &Path) -> io::Result<SecretsStamp> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata(path) {
        Ok(meta) => Ok((meta.len(), meta.modified()?, meta.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((0, SystemTime::UNIX_EPOCH, 0)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
