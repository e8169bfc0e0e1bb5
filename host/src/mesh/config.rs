//! The section `[mesh]` of the configuration: what the mesh listens on, how it finds peers, and its bounds.
//!
//! Out of the box it listens on this machine alone and asks nobody. One line opens each way.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    address::{self, AddressReach},
    identity::Identity,
    peer::PeerId,
    roster::Callers,
};
use crate::names::{ComponentName, ToolPattern};

/// The port of the mesh, unless it is taken and the operator named none. The MCP++ task queues listen there too.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:9710";
/// Entries of one list in the configuration.
const MAX_ENTRIES: usize = 256;

/// The hash table that only hosts of this program are part of. The public one is `/ipfs/kad/1.0.0`.
pub const DEFAULT_DHT: &str = "/mcpp/kad/1.0.0";
/// The longest name of a namespace, in bytes: a rendezvous takes no longer one.
const MAX_NAMESPACE_BYTES: usize = 128;

/// A host's part in the distributed hash table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtMode {
    /// None.
    #[default]
    Off,
    /// It asks, and answers once others reach it.
    Auto,
    /// It asks.
    Client,
    /// It asks and answers.
    Server,
}

/// Mounts that the configuration names, peers of one, and its patterns.
const MAX_MOUNTS: usize = 32;
const MAX_MOUNT_PEERS: usize = 8;
const MAX_MOUNT_TOOLS: usize = 64;
/// The longest name of a mount, in bytes.
const MAX_MOUNT_NAME: usize = 32;

/// A mount of the tenant `local`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfiguredMount {
    /// The peer whose tools it has, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerId>,
    /// The peers, if they are several.
    pub peers: Vec<PeerId>,
    /// The tools, by their names there.
    pub tools: Vec<ToolPattern>,
}

impl ConfiguredMount {
    /// All its peers, each once.
    pub fn all_peers(&self) -> Vec<PeerId> {
        let mut all: Vec<PeerId> = Vec::new();
        for peer in self.peer.iter().chain(&self.peers) {
            if !all.contains(peer) {
                all.push(peer.clone());
            }
        }
        all
    }

    fn check(&self, name: &str) -> Result<(), String> {
        if ComponentName::new(name).is_err() || name.len() > MAX_MOUNT_NAME {
            return Err(format!(
                "mesh.mounts: {name:?} is not 1 to {MAX_MOUNT_NAME} characters of a-z, A-Z, 0-9, _ and -"
            ));
        }
        let peers = self.all_peers().len();
        if peers == 0 || peers > MAX_MOUNT_PEERS || self.tools.is_empty() || self.tools.len() > MAX_MOUNT_TOOLS {
            return Err(format!(
                "mesh.mounts.{name} names 1 to {MAX_MOUNT_PEERS} peers and 1 to {MAX_MOUNT_TOOLS} tools"
            ));
        }
        Ok(())
    }
}

/// The network half of the mesh.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Whether this host is part of a mesh.
    pub enabled: bool,
    /// Where to listen: socket addresses (TCP and QUIC at one port) or multiaddresses.
    pub listen: Vec<String>,
    /// Addresses at which others reach this host, if it cannot know them itself.
    pub external_addresses: Vec<String>,
    /// Who may connect.
    pub callers: Callers,
    /// Addresses of peers to which this host connects and goes back.
    pub peers: Vec<String>,
    /// The name under which the hosts of one mesh find each other and announce.
    pub namespace: String,
    /// Whether to look for hosts on the same link by multicast.
    pub mdns: bool,
    /// Addresses of peers through which others are found.
    pub bootstrap: Vec<String>,
    /// A file of addresses, an announce file, or a folder of those; looked at again and again.
    pub bootstrap_file: Option<PathBuf>,
    /// Where to write this host's own announce file.
    pub announce_file: Option<PathBuf>,
    /// Addresses of rendezvous points at which this host registers, and which it asks for others.
    pub rendezvous: Vec<String>,
    /// Whether this host is a rendezvous point.
    pub rendezvous_server: bool,
    /// The part of this host in the distributed hash table.
    pub dht: DhtMode,
    /// The protocol of that table.
    pub dht_protocol: String,
    /// Addresses of relays through which others reach this host.
    pub relays: Vec<String>,
    /// Whether this host relays for others, and tries their addresses when they ask whether these work.
    pub relay_server: bool,
    /// Whether this host hears announcements, and passes them on.
    pub announcements: bool,
    /// Connections in all.
    pub max_connections: usize,
    /// Inbound connections of peers that the host does not know.
    pub max_strangers: usize,
    /// Inbound connections of one range of addresses: an IPv4 /24, an IPv6 /48, or all relayed ones.
    pub max_per_range: usize,
    /// The part of the memory that this process may have, in percent, beyond which it takes no further inbound connection.
    pub max_memory_percent: u64,
    /// Streams that one peer that the host knows has open.
    pub max_streams_per_peer: usize,
    /// Streams that any other peer has open.
    pub max_streams_per_stranger: usize,
    /// Mounts of the tenant `local`, by name: there from the start, and accepted by the operator.
    pub mounts: BTreeMap<String, ConfiguredMount>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: vec![DEFAULT_LISTEN.into()],
            external_addresses: Vec::new(),
            callers: Callers::Everyone,
            peers: Vec::new(),
            namespace: "mcpp".into(),
            mdns: false,
            bootstrap: Vec::new(),
            bootstrap_file: None,
            announce_file: None,
            rendezvous: Vec::new(),
            rendezvous_server: false,
            dht: DhtMode::Off,
            dht_protocol: DEFAULT_DHT.into(),
            relays: Vec::new(),
            relay_server: false,
            announcements: false,
            max_connections: 1_024,
            max_strangers: 64,
            max_per_range: 64,
            max_memory_percent: 90,
            max_streams_per_peer: 48,
            max_streams_per_stranger: 4,
            mounts: BTreeMap::new(),
        }
    }
}

impl NetworkConfig {
    /// Refuses values that do not work.
    pub fn check(&self) -> Result<(), String> {
        let named = [
            ("peers", &self.peers),
            ("bootstrap", &self.bootstrap),
            ("rendezvous", &self.rendezvous),
            ("relays", &self.relays),
        ];
        let own = [("listen", &self.listen), ("external_addresses", &self.external_addresses)];
        for (name, list) in own.into_iter().chain(named) {
            if list.len() > MAX_ENTRIES {
                return Err(format!("mesh.{name} has {} entries; {MAX_ENTRIES} are the most", list.len()));
            }
        }
        for text in &self.listen {
            address::parse_listen(text)
                .map_err(|error| format!("mesh.listen: {error}, or a socket address such as \"0.0.0.0:9710\""))?;
        }
        for text in &self.external_addresses {
            address::parse(text).map_err(|error| format!("mesh.external_addresses: {error}"))?;
        }
        for (name, list) in named {
            for text in list {
                address::parse_with_peer(text).map_err(|error| format!("mesh.{name}: {error}"))?;
            }
        }
        if self.namespace.is_empty() || self.namespace.len() > MAX_NAMESPACE_BYTES {
            return Err(format!("mesh.namespace has 1 to {MAX_NAMESPACE_BYTES} bytes"));
        }
        if self.mounts.len() > MAX_MOUNTS {
            return Err(format!("mesh.mounts has {} entries; {MAX_MOUNTS} are the most", self.mounts.len()));
        }
        if !(1..=100).contains(&self.max_memory_percent) {
            return Err("mesh.max_memory_percent is a number from 1 to 100".to_owned());
        }
        self.mounts.iter().try_for_each(|(name, mount)| mount.check(name))?;
        if !self.dht_protocol.starts_with('/') {
            return Err(format!("mesh.dht_protocol = {:?} does not begin with a slash", self.dht_protocol));
        }
        for (name, value) in [
            ("max_connections", self.max_connections),
            ("max_strangers", self.max_strangers),
            ("max_per_range", self.max_per_range),
            ("max_streams_per_peer", self.max_streams_per_peer),
            ("max_streams_per_stranger", self.max_streams_per_stranger),
        ] {
            if value == 0 {
                return Err(format!("mesh.{name} must be at least 1"));
            }
        }
        Ok(())
    }

    /// Whether the host asks others to try its addresses: only where it listens beyond its machine.
    pub(super) fn asks_whether_reachable(&self) -> bool {
        let listens = self.listen.iter().filter_map(|text| address::parse_listen(text).ok()).flatten();
        listens.into_iter().any(|address| address::reach(&address) != Some(AddressReach::Machine))
    }

    /// Whether the operator left it to the host where to listen.
    pub(super) fn listens_anywhere(&self) -> bool {
        self.listen == [DEFAULT_LISTEN]
    }
}

/// All that a mesh is started with.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// What the operator set.
    pub network: NetworkConfig,
    /// Who this host is.
    pub identity: Identity,
    /// The folder of the address book; it is kept nowhere without one.
    pub folder: Option<PathBuf>,
}
