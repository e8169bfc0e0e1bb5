//! The `requestState` of a parked call: sealed with XChaCha20-Poly1305 under a key that lives as long as the process.
//!
//! It names the process, so that a client learns after a restart that it has to start over. All else is sealed: which call, which round, until when, and of whom.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use serde::{Deserialize, Serialize};

const BOOT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
/// Longest state that is looked at, in bytes of base64.
const MAX_STATE_BYTES: usize = 1 << 10;

/// Which call waits, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ParkedId {
    pub(super) call: u128,
    /// Rises with each time that the client is asked.
    pub(super) round: u32,
    /// When the host gives up waiting, in milliseconds since 1970.
    pub(super) until: u64,
    /// The hash of caller, method and parameters.
    pub(super) binding: [u8; 32],
}

/// Why a state is not one of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotOurs {
    /// It does not open.
    Broken,
    /// Another process wrote it.
    OtherProcess,
}

/// The key, and the name of the process.
pub(super) struct StateKey {
    cipher: XChaCha20Poly1305,
    boot: [u8; BOOT_BYTES],
}

impl std::fmt::Debug for StateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateKey").field("boot", &self.boot).finish_non_exhaustive()
    }
}

impl StateKey {
    /// A new key. None if the system gives no random bytes.
    pub(super) fn random() -> Option<Self> {
        let (mut key, mut boot) = ([0; 32], [0; BOOT_BYTES]);
        getrandom::fill(&mut key).ok()?;
        getrandom::fill(&mut boot).ok()?;
        Some(Self { cipher: XChaCha20Poly1305::new(&key.into()), boot })
    }

    /// Seals. None if the system gives no random bytes.
    pub(super) fn seal(&self, id: &ParkedId) -> Option<String> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).ok()?;
        let text = serde_json::to_vec(id).ok()?;
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), Payload { msg: &text, aad: &self.boot }).ok()?;
        Some(BASE64_URL_SAFE_NO_PAD.encode([&self.boot[..], &nonce[..], &sealed[..]].concat()))
    }

    /// Opens.
    pub(super) fn open(&self, state: &str) -> Result<ParkedId, NotOurs> {
        if state.len() > MAX_STATE_BYTES {
            return Err(NotOurs::Broken);
        }
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(state).map_err(|_| NotOurs::Broken)?;
        let (boot, rest) = bytes.split_at_checked(BOOT_BYTES).ok_or(NotOurs::Broken)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES).ok_or(NotOurs::Broken)?;
        if boot != self.boot {
            return Err(NotOurs::OtherProcess);
        }
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| NotOurs::Broken)?;
        let opened = self.cipher.decrypt(&XNonce::from(nonce), Payload { msg: sealed, aad: &self.boot });
        serde_json::from_slice(&opened.map_err(|_| NotOurs::Broken)?).map_err(|_| NotOurs::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_with_any_bit_changed_is_none_of_ours() {
        let key = StateKey::random().expect("random bytes");
        let id = ParkedId { call: u128::MAX, round: 3, until: 9, binding: [7; 32] };
        let state = key.seal(&id).expect("sealed");
        assert_eq!(key.open(&state), Ok(id.clone()));
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&state).expect("base64");
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let expected = if at < BOOT_BYTES { NotOurs::OtherProcess } else { NotOurs::Broken };
            assert_eq!(key.open(&BASE64_URL_SAFE_NO_PAD.encode(&changed)), Err(expected), "byte {at}");
        }
        for broken in ["", "!", &state[..40], &"A".repeat(MAX_STATE_BYTES + 1)] {
            assert_eq!(key.open(broken), Err(NotOurs::Broken), "{broken}");
        }
        let other = StateKey::random().expect("random bytes");
        assert_eq!(other.open(&state), Err(NotOurs::OtherProcess));
        assert_ne!(key.seal(&id), key.seal(&id), "each has a nonce of its own");
    }
}
