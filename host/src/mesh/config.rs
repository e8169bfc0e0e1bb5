//! The section `[mesh]` of the configuration: what the mesh listens on, how it finds peers, and its bounds.
//!
//! Out of the box it listens on this machine alone and asks nobody. One line opens each way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    address::{self, AddressReach},
    identity::Identity,
    roster::Callers,
};

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
    /// Streams that one peer that the host knows has open.
    pub max_streams_per_peer: usize,
    /// Streams that any other peer has open.
    pub max_streams_per_stranger: usize,
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
            max_streams_per_peer: 48,
            max_streams_per_stranger: 4,
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
