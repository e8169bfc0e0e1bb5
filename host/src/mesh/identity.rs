//! The host's own key: Ed25519, in a file that only its owner can read, made when it is first asked for.
//!
//! The file holds the libp2p protobuf of the private key, as other implementations of libp2p write it.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use libp2p::identity::Keypair;
use zeroize::Zeroizing;

use super::PeerId;
use crate::files::{FILE_MODE, lock, private_folder, write_durably};

/// The file of the key, in the mesh's folder.
pub const KEY_NAME: &str = "identity.key";
/// No key is larger; an RSA key of 4,096 bits takes about 2,400 bytes.
const MAX_KEY_BYTES: u64 = 4_096;
const SECRET_BYTES: usize = 32;

/// The key that says who this host is.
#[derive(Clone)]
pub struct Identity(Keypair);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer())
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or made.
    #[error("cannot read or make the host's key {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others could read it.
    #[error(
        "the host's key {path} is open to others than its owner (mode {mode:04o}); run `chmod 600 {path}`, or remove it for a new identity if somebody may have read it"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its rights.
        mode: u32,
    },
    /// It is no key that the mesh works with.
    #[error("{path} is no private key of the kinds Ed25519 and secp256k1 in libp2p's format")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

impl Identity {
    /// A key that is nobody's yet and is kept nowhere.
    pub fn generate() -> io::Result<Self> {
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        getrandom::fill(secret.as_mut_slice()).map_err(io::Error::other)?;
        Keypair::ed25519_from_bytes(secret.as_mut_slice()).map(Self).map_err(io::Error::other)
    }

    /// Reads the key in the mesh's folder, or makes one.
    pub fn open(folder: &Path) -> Result<Self, IdentityError> {
        let path = folder.join(KEY_NAME);
        let failed = |source| IdentityError::File { path: path.clone(), source };
        match fs::File::open(&path) {
            Ok(file) => Self::read(&path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                private_folder(folder).map_err(failed)?;
                // Two programs that ask at once get the same key.
                let _held = lock(&path).map_err(failed)?;
                if let Ok(file) = fs::File::open(&path) {
                    return Self::read(&path, file);
                }
                let made = Self::generate().map_err(failed)?;
                let bytes = made.0.to_protobuf_encoding().map_err(|error| failed(io::Error::other(error)))?;
                write_durably(&path, &Zeroizing::new(bytes)).map_err(failed)?;
                Ok(made)
            }
            Err(error) => Err(failed(error)),
        }
    }

    fn read(path: &Path, file: fs::File) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File { path: path.to_owned(), source };
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & !FILE_MODE != 0 {
            return Err(IdentityError::Open { path: path.to_owned(), mode });
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX_KEY_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        Keypair::from_protobuf_encoding(&bytes).map(Self).map_err(|_| IdentityError::NoKey { path: path.to_owned() })
    }

    /// The peer that this key makes the host.
    pub fn peer(&self) -> PeerId {
        PeerId::from_network(&self.0.public().to_peer_id())
    }

    pub(super) fn keypair(&self) -> &Keypair {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let mesh = folder.path().join("mesh");
        let first = Identity::open(&mesh).expect("made").peer();
        assert_eq!(Identity::open(&mesh).expect("read").peer(), first);
        let path = mesh.join(KEY_NAME);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&mesh)), (0o600, 0o700));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        let error = Identity::open(&mesh).expect_err("open to a group").to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_key_is_neither_taken_nor_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(KEY_NAME);
        write_durably(&path, b"not a key").expect("written");
        assert!(matches!(Identity::open(folder.path()), Err(IdentityError::NoKey { .. })));
        assert_eq!(fs::read(&path).expect("there"), b"not a key");
    }

    #[test]
    fn a_secp256k1_key_is_taken_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = Keypair::generate_secp256k1();
        write_durably(&folder.path().join(KEY_NAME), &key.to_protobuf_encoding().expect("encoded")).expect("written");
        let peer = Identity::open(folder.path()).expect("read").peer();
        assert_eq!(peer.to_network(), Some(key.public().to_peer_id()));
    }
}
