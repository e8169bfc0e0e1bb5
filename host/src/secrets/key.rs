//! The key under which secrets are sealed: the environment's, or a file's that only its owner can read.

use std::{
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use zeroize::Zeroizing;

use super::{SecretError, file::Sealed};
use crate::tenant::home::KEY_FILE;

/// The variable of the environment that has the key, in hexadecimal or base64.
pub const KEY_VARIABLE: &str = "MCPP_SECRETS_KEY";
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// A key file larger than this is none.
const MAX_FILE_BYTES: u64 = 1 << 10;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file does not work.
    #[error("cannot use the key file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others can read it.
    #[error(
        "the key file {path} can be read by others; `chmod 600` it, and set the secrets again under a new key if somebody may have read it"
    )]
    Readable {
        /// The file.
        path: PathBuf,
    },
    /// There is none, and there are secrets sealed under one.
    #[error(
        "there is no key file {path}, and {KEY_VARIABLE} is not set; the secrets cannot be opened without the key they were sealed under"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The key is malformed.
    #[error("the key in {0} is not 32 bytes in hexadecimal or base64")]
    Malformed(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Where the key is.
#[derive(Clone)]
pub struct KeySource {
    variable: Option<Zeroizing<String>>,
    file: PathBuf,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySource").field("file", &self.file).finish_non_exhaustive()
    }
}

impl KeySource {
    /// The key of the host with this data directory and environment.
    pub fn new(data_dir: &Path, variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = variable(KEY_VARIABLE).filter(|text| !text.is_empty()).map(Zeroizing::new);
        Self { variable, file: data_dir.join(KEY_FILE) }
    }

    /// The key that there is.
    pub fn load(&self) -> Result<Key, KeyError> {
        match &self.variable {
            Some(text) => Key::parse(text).ok_or_else(|| KeyError::Malformed(KEY_VARIABLE.to_owned())),
            None => self.read()?.ok_or_else(|| KeyError::Missing { path: self.file.clone() }),
        }
    }

    /// The key that there is, or a new one in the file.
    pub fn load_or_make(&self) -> Result<Key, KeyError> {
        if self.variable.is_some() {
            return self.load();
        }
        if let Some(key) = self.read()? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *bytes).map_err(KeyError::Random)?;
        let mut text = Zeroizing::new(STANDARD.encode(bytes.as_slice()));
        text.push('\n');
        match create(&self.file, text.as_bytes()) {
            // Two programs may make it at the same moment: the first one's counts.
            Ok(()) => self.load(),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.load(),
            Err(source) => Err(KeyError::File { path: self.file.clone(), source }),
        }
    }

    fn read(&self) -> Result<Option<Key>, KeyError> {
        use std::os::unix::fs::PermissionsExt as _;
        let fail = |source| KeyError::File { path: self.file.clone(), source };
        let meta = match fs::metadata(&self.file) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(KeyError::Readable { path: self.file.clone() });
        }
        let malformed = || KeyError::Malformed(self.file.display().to_string());
        if meta.len() > MAX_FILE_BYTES {
            return Err(malformed());
        }
        let text = Zeroizing::new(fs::read_to_string(&self.file).map_err(fail)?);
        Key::parse(&text).ok_or_else(malformed).map(Some)
    }
}

/// Makes a file of its owner's that appears whole, unless it is there already.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    crate::files::private_folder(dir)?;
    let temporary = crate::files::temporary(path)?;
    let written = crate::files::private(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&temporary, path)?;
        fs::File::open(dir)?.sync_all()
    });
    let _nothing_left_behind = fs::remove_file(&temporary);
    written
}

/// 32 bytes that seal and open.
pub struct Key(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// Takes a key in hexadecimal or base64.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let bytes =
            Zeroizing::new(if text.len() == KEY_BYTES * 2 { unhex(text)? } else { STANDARD.decode(text).ok()? });
        <[u8; KEY_BYTES]>::try_from(bytes.as_slice()).ok().map(|key| Self(Zeroizing::new(key)))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }

    pub(super) fn seal(&self, value: &[u8], bound: &[u8]) -> Result<Sealed, SecretError> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(KeyError::Random)?;
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), Payload { msg: value, aad: bound });
        let text = sealed.map_err(|_| SecretError::Value("it cannot be sealed"))?;
        Ok(Sealed { nonce: STANDARD.encode(nonce), sealed: STANDARD.encode(text) })
    }

    pub(super) fn open(&self, sealed: &Sealed, bound: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let nonce = <[u8; NONCE_BYTES]>::try_from(STANDARD.decode(&sealed.nonce).ok()?).ok()?;
        let text = STANDARD.decode(&sealed.sealed).ok()?;
        self.cipher().decrypt(&XNonce::from(nonce), Payload { msg: &text, aad: bound }).ok().map(Zeroizing::new)
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}
