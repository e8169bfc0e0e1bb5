//! Files by which hosts of one machine or of one volume find each other: a bootstrap file that is read, an announce file that is written.
//!
//! The announce file is that of the MCP++ task queues, `{"peer_id":…,"multiaddr":…}`, so that their clients find this host and it finds them.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::{
    files::write_atomically,
    mesh::{PeerId, address},
};

/// A bootstrap file, and each file of a bootstrap folder, is read up to here.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Addresses and files that are looked at.
const MAX_ENTRIES: usize = 64;

/// What an announce file says; registries of peers add fields that say nothing here.
#[derive(Debug, Serialize, Deserialize)]
struct AnnounceFile {
    peer_id: String,
    multiaddr: String,
}

/// The peers of a bootstrap file: addresses line by line, or an announce file; or of a folder of announce files. What is none is passed over.
pub(super) fn read_bootstrap(path: &Path) -> Vec<(libp2p::PeerId, Multiaddr)> {
    let texts = match fs::read_dir(path) {
        Ok(folder) => {
            let mut files: Vec<PathBuf> = folder.take(MAX_ENTRIES).flatten().map(|entry| entry.path()).collect();
            files.sort();
            files.iter().filter(|file| file.extension().is_some_and(|e| e == "json")).map(|file| read(file)).collect()
        }
        Err(_) => vec![read(path)],
    };
    let mut peers = Vec::new();
    for text in texts {
        match text {
            Ok(text) => peers.extend(parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(file = %path.display(), %error, "the bootstrap file cannot be read"),
        }
    }
    peers.truncate(MAX_ENTRIES);
    peers
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn parse(text: &str) -> Vec<(libp2p::PeerId, Multiaddr)> {
    if text.trim_start().starts_with('{') {
        let announced = serde_json::from_str::<AnnounceFile>(text).ok();
        return announced.and_then(|announced| announced.peer()).into_iter().collect();
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| address::parse_with_peer(line).ok()).collect()
}

impl AnnounceFile {
    fn peer(&self) -> Option<(libp2p::PeerId, Multiaddr)> {
        let peer = PeerId::new(&self.peer_id).ok()?;
        let address = address::parse_of(&self.multiaddr, &peer).ok()?;
        Some((peer.to_network()?, address))
    }
}

/// Writes this host's announce file.
pub(super) fn write_announce(path: &Path, peer: &PeerId, address: &str) {
    let file = AnnounceFile { peer_id: peer.to_string(), multiaddr: address.to_owned() };
    let written = serde_json::to_vec(&file).map_err(io::Error::other).and_then(|text| write_atomically(path, &text));
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), %error, "the announce file cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    #[test]
    fn a_file_of_addresses_an_announce_file_and_a_folder_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
        let address = format!("/ip4/127.0.0.1/tcp/9710/p2p/{PEER}");
        write("list", &format!("# ours\n\n{address}\nnonsense\n/ip4/127.0.0.1/tcp/1\n"));
        assert_eq!(read_bootstrap(&folder.path().join("list")).len(), 1);
        let peer = PeerId::new(PEER).expect("legal");
        write_announce(&folder.path().join("a.json"), &peer, &address);
        let read = read_bootstrap(&folder.path().join("a.json"));
        assert_eq!(read.first().map(|(_, at)| at.to_string()), Some(address));
        // A registry's record has more fields, and another's key in an address is refused.
        write("b.json", &format!(r#"{{"peer_id":"{PEER}","multiaddr":"/ip4/127.0.0.1/tcp/1","runner_name":"r"}}"#));
        write("c.json", r#"{"peer_id":"x","multiaddr":"/ip4/127.0.0.1/tcp/1"}"#);
        assert_eq!(read_bootstrap(folder.path()).len(), 2);
        assert!(read_bootstrap(&folder.path().join("none")).is_empty());
    }
}
