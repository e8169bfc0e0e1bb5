//! The file of sealed values: read whole, replaced whole, readable by its owner only.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{MAX_VALUE_BYTES, SecretError, SecretName};
use crate::files::{lock, write_durably};

/// The version of the file format that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
/// Most secrets of one tenant.
const MAX_SECRETS: usize = 1_000;
/// A file larger than this is not one of ours: every value at its longest, in base64.
const MAX_FILE_BYTES: u64 = (MAX_SECRETS * (MAX_VALUE_BYTES * 4 / 3 + 300)) as u64;

/// One sealed value, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    pub(super) nonce: String,
    pub(super) sealed: String,
}

/// All of one tenant's.
#[derive(Debug, Default)]
pub(super) struct SecretsFile {
    pub(super) entries: BTreeMap<SecretName, Sealed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    #[serde(default)]
    secrets: BTreeMap<String, Sealed>,
}

impl SecretsFile {
    /// Reads a file; one that does not exist has no secrets.
    pub(super) fn read(path: &Path) -> Result<Self, SecretError> {
        let fail = |source| SecretError::File { path: path.to_owned(), source };
        let invalid = |reason: String| SecretError::Format { path: path.to_owned(), reason };
        match fs::metadata(path) {
            Ok(meta) if meta.len() > MAX_FILE_BYTES => return Err(invalid(format!("it has {} bytes", meta.len()))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(fail(error)),
        }
        let text = fs::read_to_string(path).map_err(fail)?;
        // The parser's own words may quote what should have been sealed.
        let parsed = toml::from_str::<Text>(&text);
        let text = parsed.map_err(|_| invalid("it is not what `mcpp secret set` writes".to_owned()))?;
        if text.version != FORMAT_VERSION {
            return Err(invalid(format!("it has version {}; this host reads version {FORMAT_VERSION}", text.version)));
        }
        let named = |(name, sealed): (String, Sealed)| Ok((SecretName::new(&name)?, sealed));
        let entries: Result<_, super::InvalidSecretName> = text.secrets.into_iter().map(named).collect();
        Ok(Self { entries: entries.map_err(|error| invalid(error.to_string()))? })
    }

    /// Changes a file, one program at a time; `change` says whether it did. Nothing is written if it did not.
    pub(super) fn change(
        path: &Path,
        change: impl FnOnce(&mut BTreeMap<SecretName, Sealed>) -> bool,
    ) -> Result<bool, SecretError> {
        let fail = |source| SecretError::File { path: path.to_owned(), source };
        let _until_dropped = lock(path).map_err(fail)?;
        let mut file = Self::read(path)?;
        if !change(&mut file.entries) {
            return Ok(false);
        }
        if file.entries.len() > MAX_SECRETS {
            return Err(SecretError::Value("there are 1,000 secrets already"));
        }
        let secrets = file.entries.into_iter().map(|(name, sealed)| (name.as_str().to_owned(), sealed)).collect();
        let text = toml::to_string(&Text { version: FORMAT_VERSION, secrets })
            .map_err(|error| fail(io::Error::other(error.to_string())))?;
        write_durably(path, text.as_bytes()).map_err(fail)?;
        Ok(true)
    }
}
