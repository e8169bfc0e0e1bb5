//! `mesh`: what a component may see of this host's peers, and do with them. Nothing by default.

use serde::Deserialize;

use crate::{
    mesh::PeerId,
    names::{ComponentName, ToolName, ToolPattern, TopicPattern},
};

/// Most entries of each list.
const MAX_ENTRIES: usize = 256;
/// Every peer that the tenant knows.
const EVERY: &str = "*";

/// What a component may see and do in the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeshGrant {
    /// Whether it may see this host and its tenant's peers.
    pub see: bool,
    /// The peers that it may connect and disconnect.
    pub connect: ConnectGrants,
    /// The tools of peers that it may call.
    pub call: PeerToolGrants,
    /// The services that it may provide.
    pub provide: MeshNames,
    /// The services that it may look for.
    pub discover: MeshNames,
    /// Its own topics on which it may announce.
    pub announce: MeshNames,
    /// The topics that it may hear: `<component>/<name>`, or `<component>/*`.
    pub hear: HeardTopics,
}

/// A list of a grant, bounded.
fn bounded<T, E>(
    texts: Vec<String>,
    parse: impl Fn(String) -> Result<T, E>,
    show: impl Fn(E) -> String,
) -> Result<Vec<T>, String> {
    if texts.len() > MAX_ENTRIES {
        return Err(format!("{} entries; at most {MAX_ENTRIES} are read", texts.len()));
    }
    texts.into_iter().map(|text| parse(text).map_err(&show)).collect()
}

/// Whether each entry of one list is in another.
fn within<T: PartialEq>(before: &[T], now: &[T]) -> bool {
    before.iter().all(|entry| now.contains(entry))
}

/// Names of services or of own topics: 1 to 64 characters of `a-z A-Z 0-9 _ -`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct MeshNames(Vec<ComponentName>);

impl TryFrom<Vec<String>> for MeshNames {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let name = |text: String| {
            ComponentName::new(&text).map_err(|_| format!("{text:?} is not 1 to 64 characters of `a-z A-Z 0-9 _ -`"))
        };
        bounded(texts, name, |error| error).map(Self)
    }
}

impl MeshNames {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a name is among them.
    pub fn has(&self, name: &ComponentName) -> bool {
        self.0.contains(name)
    }
}

/// Topics that a component may hear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct HeardTopics(Vec<TopicPattern>);

impl TryFrom<Vec<String>> for HeardTopics {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        bounded(texts, TopicPattern::try_from, |error| error).map(Self)
    }
}

impl HeardTopics {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a topic is among them.
    pub fn has(&self, topic: &crate::names::Topic) -> bool {
        self.0.iter().any(|pattern| pattern.matches(topic))
    }
}

/// A peer that a component may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ConnectGrant {
    /// Each one that its tenant knows.
    Every,
    /// This one, wherever it is.
    Peer(PeerId),
    /// This one, also at this address.
    At(PeerId, String),
}

/// The peers that a component may connect and disconnect: `*`, ids, and addresses that end in `/p2p/ID`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ConnectGrants(Vec<ConnectGrant>);

impl TryFrom<Vec<String>> for ConnectGrants {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let parse = |text: String| match text.as_str() {
            EVERY => Ok(ConnectGrant::Every),
            address if address.starts_with('/') => PeerId::of_address(address)
                .map(|peer| ConnectGrant::At(peer, address.to_owned()))
                .map_err(|error| error.to_string()),
            peer => PeerId::new(peer).map(ConnectGrant::Peer).map_err(|error| error.to_string()),
        };
        bounded(texts, parse, |error| error).map(Self)
    }
}

/// Whether a component may connect a peer, and what the operator knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MayConnect {
    /// No.
    No,
    /// If its tenant knows the peer.
    IfKnown,
    /// Yes, and these are the addresses in the grant.
    At(Vec<String>),
}

impl ConnectGrants {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a peer is among them.
    pub fn of(&self, peer: &PeerId) -> MayConnect {
        let mut named = false;
        let mut addresses = Vec::new();
        for grant in &self.0 {
            match grant {
                ConnectGrant::Peer(granted) if granted == peer => named = true,
                ConnectGrant::At(granted, address) if granted == peer => addresses.push(address.clone()),
                _ => {}
            }
        }
        if named || !addresses.is_empty() {
            MayConnect::At(addresses)
        } else if self.0.contains(&ConnectGrant::Every) {
            MayConnect::IfKnown
        } else {
            MayConnect::No
        }
    }
}

/// Tools of one peer, or of every peer that the tenant may call: `PEER: text_*` or `*: text_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PeerToolGrant {
    peer: Option<PeerId>,
    tools: ToolPattern,
}

/// The tools of peers that a component may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct PeerToolGrants(Vec<PeerToolGrant>);

impl TryFrom<Vec<String>> for PeerToolGrants {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let parse = |text: String| {
            let (peer, tools) = text.split_once(':').ok_or_else(|| {
                format!("{text:?} is not `PEER: TOOL`, such as \"12D3KooW…: text_*\" or \"*: text_*\"")
            })?;
            let peer = match peer.trim() {
                EVERY => None,
                peer => Some(PeerId::new(peer).map_err(|error| error.to_string())?),
            };
            let tools = tools.trim().parse()?;
            Ok::<_, String>(PeerToolGrant { peer, tools })
        };
        bounded(texts, parse, |error| error).map(Self)
    }
}

impl PeerToolGrants {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a tool of a peer is among them.
    pub fn allow(&self, peer: &PeerId, tool: &ToolName) -> bool {
        let covers = |grant: &PeerToolGrant| grant.peer.as_ref().is_none_or(|granted| granted == peer);
        self.0.iter().any(|grant| covers(grant) && grant.tools.matches(tool))
    }
}

/// The line of a grant that allows the call of a peer's tool.
pub fn call_line(peer: &PeerId, tool: &ToolName) -> String {
    format!("mesh.call = [\"{peer}: {tool}\"]")
}

impl MeshGrant {
    /// Whether it gives nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `now` also gives all of this.
    pub(super) fn is_within(&self, now: &Self) -> bool {
        (now.see || !self.see)
            && within(&self.connect.0, &now.connect.0)
            && within(&self.call.0, &now.call.0)
            && within(&self.provide.0, &now.provide.0)
            && within(&self.discover.0, &now.discover.0)
            && within(&self.announce.0, &now.announce.0)
            && within(&self.hear.0, &now.hear.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::ComponentGrant;

    const PEER: &str = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo";
    const OTHER: &str = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Yo";

    fn parse(text: &str) -> Result<MeshGrant, String> {
        toml::from_str::<ComponentGrant>(text).map(|grant| grant.mesh).map_err(|error| error.to_string())
    }

    fn peer(text: &str) -> PeerId {
        text.parse().expect("a peer")
    }

    fn tool(name: &str) -> ToolName {
        ToolName::new(name).expect("legal")
    }

    #[test]
    fn nothing_is_given_by_default_and_only_what_is_written_otherwise() {
        let nothing = parse("").expect("valid");
        assert!(nothing.is_empty() && !nothing.see && nothing.connect.of(&peer(PEER)) == MayConnect::No);
        assert!(!nothing.call.allow(&peer(PEER), &tool("text_hash")));
        let at = format!("/ip4/192.0.2.7/tcp/9710/p2p/{PEER}");
        let grant = parse(&format!(
            "[mesh]\nsee = true\nconnect = ['{at}']\ncall = ['{PEER}: text_*', '*:echo']\nprovide = ['gpu']\n\
             announce = ['ready']\nhear = ['queue/*']\n"
        ));
        let grant = grant.expect("valid");
        assert!(grant.see && grant.call.allow(&peer(PEER), &tool("text_hash")));
        assert!(grant.call.allow(&peer(OTHER), &tool("echo")) && !grant.call.allow(&peer(OTHER), &tool("text_hash")));
        assert_eq!(grant.connect.of(&peer(PEER)), MayConnect::At(vec![at]));
        assert_eq!(grant.connect.of(&peer(OTHER)), MayConnect::No);
        assert_eq!(parse("mesh.connect = ['*']").expect("valid").connect.of(&peer(OTHER)), MayConnect::IfKnown);
        let name = |name: &str| ComponentName::new(name).expect("legal");
        assert!(grant.provide.has(&name("gpu")) && !grant.discover.has(&name("gpu")));
        let topic = |text: &str| crate::names::Topic::parse(text, &name("c")).expect("a topic");
        assert!(grant.hear.has(&topic("queue/ready")) && !grant.hear.has(&topic("other/ready")));
    }

    #[test]
    fn a_right_that_is_gone_is_lost() {
        let full = format!(
            "[mesh]\nsee = true\nconnect = ['*']\ncall = ['{PEER}: a']\nprovide = ['p']\ndiscover = ['d']\n\
             announce = ['t']\nhear = ['c/t']\n"
        );
        let before = parse(&full).expect("valid");
        assert!(before.is_within(&before));
        for line in full.lines().skip(1) {
            let less = parse(&full.replace(line, "")).expect("valid");
            assert!(!before.is_within(&less) && less.is_within(&before), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        let many: Vec<String> = (0..=MAX_ENTRIES).map(|n| format!("'s{n}'")).collect();
        for (text, says) in [
            ("mesh.see = 'yes'".to_owned(), "invalid type"),
            ("mesh.subscribe = ['a']".to_owned(), "unknown field `subscribe`"),
            ("mesh.call = ['text_*']".to_owned(), "is not `PEER: TOOL`"),
            ("mesh.call = ['peer-a: text_*']".to_owned(), "is no peer id"),
            (format!("mesh.call = ['{PEER}: *_a']"), "neither a tool name nor a prefix"),
            ("mesh.connect = ['/ip4/192.0.2.7/tcp/9710']".to_owned(), "does not end in /p2p/PEER-ID"),
            ("mesh.connect = ['192.0.2.7:9710']".to_owned(), "is no peer id"),
            ("mesh.announce = ['other/topic']".to_owned(), "is not 1 to 64 characters"),
            ("mesh.hear = ['topic']".to_owned(), "is not a topic"),
            (format!("mesh.provide = [{}]", many.join(", ")), "at most 256"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(says), "{text} gave {error:?}, which does not say {says:?}");
        }
    }
}
