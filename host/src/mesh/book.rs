//! The address book: where peers were last found. Bounded in peers, addresses and bytes, and written in one piece.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use super::{PeerId, address};
use crate::files::{private_folder, write_atomically};

/// Peers in the book. One more puts out the one that was seen least recently.
pub(super) const MAX_PEERS: usize = 1_024;
/// Addresses of one peer. One more puts out the oldest that nobody gave, or else the oldest.
pub(super) const MAX_ADDRESSES: usize = 16;
/// The file, in the mesh's folder.
pub(super) const BOOK_NAME: &str = "peers.json";
/// A larger file is not read. The book at its fullest takes about 10 MiB: 16,384 addresses of 512 bytes, and names.
const MAX_BOOK_BYTES: u64 = 16 << 20;
const FORMAT_VERSION: u32 = 1;

/// One address of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BookAddress {
    pub(super) address: String,
    /// Whether the operator gave it, rather than a peer told it.
    pub(super) given: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BookPeer {
    /// When it was last connected or noted, in seconds of Unix time.
    seen: u64,
    addresses: Vec<BookAddress>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BookFile {
    version: u32,
    peers: BTreeMap<PeerId, BookPeer>,
}

/// Where peers were last found.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    peers: BTreeMap<PeerId, BookPeer>,
    changed: bool,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl AddressBook {
    /// Reads the book in a folder; an empty one if there is none.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let file = match fs::File::open(folder.join(BOOK_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(MAX_BOOK_BYTES).read_to_string(&mut text)?;
        let BookFile { version, peers } = serde_json::from_str(&text).map_err(io::Error::other)?;
        if version != FORMAT_VERSION {
            return Err(io::Error::other(format!("version {version} of the format is not {FORMAT_VERSION}")));
        }
        let mut book = Self::default();
        for (peer, BookPeer { seen, addresses }) in peers {
            for BookAddress { address, given } in addresses {
                if let Ok(address) = address::parse_of(&address, &peer) {
                    book.note(&peer, &address, given);
                }
            }
            if let Some(entry) = book.peers.get_mut(&peer) {
                entry.seen = seen;
            }
        }
        book.changed = false;
        Ok(book)
    }

    /// Writes a text that [`AddressBook::take_changes`] gave.
    pub(super) fn write(folder: &Path, text: &str) -> io::Result<()> {
        private_folder(folder)?;
        write_atomically(&folder.join(BOOK_NAME), text.as_bytes())
    }

    /// The text of the book, if it is another than when this was asked last.
    pub(super) fn take_changes(&mut self) -> Option<String> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        serde_json::to_string(&BookFile { version: FORMAT_VERSION, peers: self.peers.clone() }).ok()
    }

    /// Notes an address of a peer.
    pub(super) fn note(&mut self, peer: &PeerId, address: &Multiaddr, given: bool) {
        let text = address::without_peer(address.clone()).to_string();
        if text.len() > address::MAX_ADDRESS_BYTES {
            return;
        }
        if !self.peers.contains_key(peer) && self.peers.len() >= MAX_PEERS {
            let oldest = self.peers.iter().min_by_key(|(_, entry)| entry.seen).map(|(peer, _)| peer.clone());
            oldest.map(|oldest| self.peers.remove(&oldest));
        }
        let entry = self.peers.entry(peer.clone()).or_default();
        entry.seen = now();
        self.changed = true;
        match entry.addresses.iter_mut().find(|known| known.address == text) {
            Some(known) => known.given |= given,
            None => {
                if entry.addresses.len() >= MAX_ADDRESSES {
                    let out = entry.addresses.iter().position(|known| !known.given).unwrap_or(0);
                    entry.addresses.remove(out);
                }
                entry.addresses.push(BookAddress { address: text, given });
            }
        }
    }

    /// Notes that a peer is there.
    pub(super) fn saw(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.seen = now();
            self.changed = true;
        }
    }

    /// The addresses of a peer.
    pub(super) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let known = self.peers.get(peer).map(|entry| entry.addresses.as_slice()).unwrap_or_default();
        known.iter().filter_map(|known| known.address.parse().ok()).collect()
    }

    /// All addresses that were given.
    pub(super) fn given(&self) -> Vec<Multiaddr> {
        let all = self.peers.values().flat_map(|entry| &entry.addresses);
        all.filter(|known| known.given).filter_map(|known| known.address.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        PeerId::from_network(&libp2p::PeerId::random())
    }

    fn address(number: usize) -> Multiaddr {
        address::parse(&format!("/ip4/192.0.2.1/tcp/{number}")).expect("legal")
    }

    #[test]
    fn the_book_comes_back_from_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mesh = folder.path().join("mesh");
        let mut book = AddressBook::read(&mesh).expect("none yet");
        let (a, b) = (peer(), peer());
        book.note(&a, &address(1), true);
        book.note(&b, &address(2), false);
        AddressBook::write(&mesh, &book.take_changes().expect("changed")).expect("written");
        assert!(book.take_changes().is_none());
        let again = AddressBook::read(&mesh).expect("read");
        assert_eq!((again.addresses(&a), again.addresses(&b)), (vec![address(1)], vec![address(2)]));
        assert_eq!(again.given(), [address(1)]);
        fs::write(mesh.join(BOOK_NAME), "{").expect("written");
        assert!(AddressBook::read(&mesh).is_err());
    }

    #[test]
    fn the_book_is_bounded_and_keeps_what_was_given() {
        let mut book = AddressBook::default();
        let one = peer();
        book.note(&one, &address(1), true);
        for number in 2..100 {
            book.note(&one, &address(number), false);
        }
        let kept = book.addresses(&one);
        assert_eq!((kept.len(), kept.contains(&address(1)), kept.contains(&address(99))), (MAX_ADDRESSES, true, true));
        for _ in 0..MAX_PEERS {
            book.note(&peer(), &address(1), false);
        }
        assert_eq!(book.peers.len(), MAX_PEERS);
        let text = book.take_changes().expect("changed");
        assert!(text.len() < usize::try_from(MAX_BOOK_BYTES).expect("small"));
    }
}
