//! The file of sealed values: read whole, replaced whole, readable by its owner only.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{MAX_VALUE_BYTES, SecretError, SecretName};

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
        write(path, text.as_bytes()).map_err(fail)?;
        Ok(true)
    }
}

/// Held by who changes the file. It is a file beside it, as the file itself is replaced.
fn lock(path: &Path) -> io::Result<fs::File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let lock = path.with_extension("lock");
    let file = match private(&lock) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::OpenOptions::new().write(true).open(&lock)?,
        opened => opened?,
    };
    file.lock()?;
    Ok(file)
}

/// Writes a file that is either as before or whole, and on disk.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    let written = private(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    });
    if written.is_err() {
        let _nothing_left_behind = fs::remove_file(&temporary);
    }
    written
}

/// A new file that only its owner can read.
pub(super) fn private(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A name beside `path` that nobody else has.
pub(super) fn temporary(path: &Path) -> io::Result<PathBuf> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(io::Error::other)?;
    Ok(path.with_extension(format!("tmp-{:016x}", u64::from_le_bytes(suffix))))
}
