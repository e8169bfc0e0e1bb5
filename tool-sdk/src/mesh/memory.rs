//! A mesh in memory, for native tests: one for each thread, off at first. It has the host's bounds on names and announcements, and asks no grant.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;

use super::{Announcement, Connection, Link, Measures, MeshError, Origin, Path, Peer, PeerCallError, ThisHost};
use crate::Output;

const MAX_PAGE: usize = 64;
const MAX_PAYLOAD_BYTES: usize = 3 << 10;
const MAX_NAME_BYTES: usize = 64;
const LEASE_S: std::ops::RangeInclusive<u64> = 60..=3_600;

/// A tool of a peer in memory.
type PeerTool = Box<dyn Fn(&Value) -> Result<Output, PeerCallError>>;

#[derive(Default)]
struct MeshState {
    id: Option<String>,
    peers: BTreeMap<String, (Peer, Measures)>,
    tools: BTreeMap<(String, String), PeerTool>,
    provided: BTreeSet<String>,
    links: BTreeMap<String, Link>,
    providers: BTreeMap<String, BTreeSet<String>>,
    announced: Vec<(String, Vec<u8>)>,
    heard: Vec<(String, Announcement)>,
}

thread_local! {
    static MESH: RefCell<MeshState> = RefCell::default();
}

/// Makes this thread's host part of an empty mesh, under this id.
pub fn start(id: &str) {
    MESH.with_borrow_mut(|mesh| *mesh = MeshState { id: Some(id.to_owned()), ..MeshState::default() });
}

/// Turns this thread's mesh off and forgets all of it.
pub fn clear() {
    MESH.with_borrow_mut(|mesh| *mesh = MeshState::default());
}

/// A peer with which the tenant deals, not connected and without tools, unless it is there.
pub fn add_peer(peer: &str) {
    change(peer, |_, _| {});
}

/// Gives a peer a tool that the tenant may call. The peer is added if it is not there.
pub fn add_tool(peer: &str, tool: &str, run: impl Fn(&Value) -> Result<Output, PeerCallError> + 'static) {
    change(peer, |peer, _| peer.tools_there.push(tool.to_owned()));
    MESH.with_borrow_mut(|mesh| drop(mesh.tools.insert((peer.to_owned(), tool.to_owned()), Box::new(run))));
}

/// Sets what was measured of a peer. The peer is added if it is not there.
pub fn set_measures(peer: &str, measures: Measures) {
    change(peer, |_, known| *known = measures);
}

/// Sets what is known of a peer's connection. It shows while the peer is connected.
pub fn set_link(peer: &str, link: Link) {
    MESH.with_borrow_mut(|mesh| drop(mesh.links.insert(peer.to_owned(), link)));
}

/// Has a peer say that it provides a service.
pub fn add_provider(service: &str, peer: &str) {
    MESH.with_borrow_mut(|mesh| {
        mesh.providers.entry(service.to_owned()).or_default().insert(peer.to_owned());
    });
}

/// Has a peer announce something on `<component>/<topic>`.
pub fn hear(peer: &str, topic: &str, payload: &[u8]) {
    MESH.with_borrow_mut(|mesh| {
        let number = u64::try_from(mesh.heard.len()).unwrap_or(u64::MAX).saturating_add(1);
        let announcement = Announcement { number, peer: peer.to_owned(), payload: payload.to_vec(), time_ms: 0 };
        mesh.heard.push((topic.to_owned(), announcement));
    });
}

/// What was announced on this thread, oldest first: topics and payloads.
pub fn announced() -> Vec<(String, Vec<u8>)> {
    MESH.with_borrow(|mesh| mesh.announced.clone())
}

/// The services that this thread's host provides.
pub fn provided() -> Vec<String> {
    MESH.with_borrow(|mesh| mesh.provided.iter().cloned().collect())
}

fn change(peer: &str, change: impl FnOnce(&mut Peer, &mut Measures)) {
    MESH.with_borrow_mut(|mesh| {
        let (known, measures) = mesh.peers.entry(peer.to_owned()).or_insert_with(|| {
            let id = peer.to_owned();
            let peer = Peer { id, connection: None, tools_there: Vec::new(), tools_here: Vec::new() };
            (peer, Measures::default())
        });
        change(known, measures);
    });
}

/// Does something in the mesh, if there is one.
fn in_mesh<T>(work: impl FnOnce(&mut MeshState) -> Result<T, MeshError>) -> Result<T, MeshError> {
    MESH.with_borrow_mut(|mesh| if mesh.id.is_some() { work(mesh) } else { Err(MeshError::Off) })
}

fn check_name(name: &str) -> Result<(), MeshError> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let is_name = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(is_legal);
    if is_name { Ok(()) } else { Err(MeshError::Invalid) }
}

pub(super) fn identify() -> Result<ThisHost, MeshError> {
    in_mesh(|mesh| Ok(ThisHost { id: mesh.id.clone().unwrap_or_default(), addresses: Vec::new() }))
}

pub(super) fn known(after: Option<&str>) -> Result<Vec<Peer>, MeshError> {
    in_mesh(|mesh| {
        let rest = mesh.peers.iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after));
        Ok(rest.map(|(_, (peer, _))| peer.clone()).take(MAX_PAGE).collect())
    })
}

pub(super) fn metrics(peer: &str) -> Result<Measures, MeshError> {
    in_mesh(|mesh| mesh.peers.get(peer).map(|(_, measures)| *measures).ok_or(MeshError::NotFound))
}

pub(super) fn link(peer: &str) -> Result<Option<Link>, MeshError> {
    in_mesh(|mesh| {
        let (known, _) = mesh.peers.get(peer).ok_or(MeshError::NotFound)?;
        Ok(known.connection.map(|_| mesh.links.get(peer).cloned().unwrap_or_default()))
    })
}

pub(super) fn connect(peer: &str, _within: Duration) -> Result<Path, MeshError> {
    in_mesh(|mesh| {
        let (known, measures) = mesh.peers.get_mut(peer).ok_or(MeshError::NotFound)?;
        let new = Connection { path: Path::Direct, origin: Origin::Dialed, since_ms: 0 };
        let path = known.connection.get_or_insert(new).path;
        measures.path = Some(path);
        Ok(path)
    })
}

pub(super) fn disconnect(peer: &str) -> Result<(), MeshError> {
    in_mesh(|mesh| {
        let (known, measures) = mesh.peers.get_mut(peer).ok_or(MeshError::NotFound)?;
        known.connection = None;
        measures.path = None;
        Ok(())
    })
}

pub(super) fn provide(service: &str, lease: Duration) -> Result<(), MeshError> {
    in_mesh(|mesh| {
        check_name(service)?;
        if !LEASE_S.contains(&lease.as_secs()) {
            return Err(MeshError::Invalid);
        }
        mesh.provided.insert(service.to_owned());
        Ok(())
    })
}

pub(super) fn withdraw(service: &str) -> Result<bool, MeshError> {
    in_mesh(|mesh| check_name(service).map(|()| mesh.provided.remove(service)))
}

pub(super) fn discover(service: &str, _within: Duration) -> Result<Vec<String>, MeshError> {
    in_mesh(|mesh| {
        check_name(service)?;
        Ok(mesh.providers.get(service).into_iter().flatten().cloned().collect())
    })
}

pub(super) fn announce(topic: &str, payload: &[u8]) -> Result<(), MeshError> {
    in_mesh(|mesh| {
        check_name(topic)?;
        if payload.len() > MAX_PAYLOAD_BYTES {
            return Err(MeshError::Invalid);
        }
        mesh.announced.push((topic.to_owned(), payload.to_vec()));
        Ok(())
    })
}

pub(super) fn heard(topic: &str, after: u64) -> Result<Vec<Announcement>, MeshError> {
    in_mesh(|mesh| {
        let wanted = mesh.heard.iter().filter(|(on, heard)| on == topic && heard.number > after);
        Ok(wanted.map(|(_, heard)| heard.clone()).take(MAX_PAGE).collect())
    })
}

pub(super) fn call(
    peer: &str,
    tool: &str,
    arguments: &str,
    _within: Option<Duration>,
) -> Result<Output, PeerCallError> {
    let arguments: Value =
        serde_json::from_str(arguments).map_err(|error| PeerCallError::InvalidArguments(error.to_string()))?;
    if !arguments.is_object() {
        return Err(PeerCallError::InvalidArguments("the arguments are no JSON object".to_owned()));
    }
    MESH.with_borrow(|mesh| {
        if mesh.id.is_none() {
            return Err(PeerCallError::Off);
        }
        let run = mesh.tools.get(&(peer.to_owned(), tool.to_owned())).ok_or(PeerCallError::NotFound)?;
        run(&arguments)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh;

    #[test]
    fn there_is_no_mesh_until_a_test_makes_one() {
        clear();
        assert_eq!(mesh::identify(), Err(MeshError::Off));
        assert_eq!(mesh::call("a", "t", &serde_json::json!({})), Err(PeerCallError::Off));
        start("me");
        assert_eq!(mesh::identify().map(|me| me.id), Ok("me".to_owned()));
        assert_eq!(mesh::peers(), Ok(Vec::new()));
    }

    #[test]
    fn peers_are_listed_connected_and_called() {
        start("me");
        (0..130).for_each(|n| add_peer(&format!("peer{n:03}")));
        add_tool("peer007", "echo", |arguments| Ok(Output::text(arguments.to_string())));
        let peers = mesh::peers().expect("there");
        assert_eq!(peers.len(), 130);
        assert!(peers[7].may_call("echo") && !peers[8].may_call("echo"));
        assert_eq!(mesh::connect("peer007", Duration::from_secs(1)), Ok(Path::Direct));
        assert_eq!(mesh::metrics("peer007").map(|measures| measures.path), Ok(Some(Path::Direct)));
        assert_eq!(mesh::metrics("nobody"), Err(MeshError::NotFound));
        let echo = |arguments| mesh::call("peer007", "echo", &arguments);
        assert_eq!(echo(serde_json::json!({ "a": 1 })), Ok(Output::text(r#"{"a":1}"#)));
        assert!(matches!(echo(serde_json::json!([])), Err(PeerCallError::InvalidArguments(_))));
        assert_eq!(mesh::call("peer008", "echo", &serde_json::json!({})), Err(PeerCallError::NotFound));
    }

    #[test]
    fn services_and_announcements_have_the_hosts_bounds() {
        start("me");
        let hour = Duration::from_secs(3_600);
        assert_eq!(mesh::provide("gpu", hour), Ok(()));
        assert_eq!(mesh::provide("gpu", hour + Duration::from_secs(1)), Err(MeshError::Invalid));
        assert_eq!(mesh::provide("no name", hour), Err(MeshError::Invalid));
        assert_eq!(provided(), ["gpu"]);
        assert_eq!((mesh::withdraw("gpu"), mesh::withdraw("gpu")), (Ok(true), Ok(false)));
        add_provider("gpu", "peer");
        assert_eq!(mesh::discover("gpu", hour), Ok(vec!["peer".to_owned()]));
        assert_eq!(mesh::announce("ready", &[0; MAX_PAYLOAD_BYTES]), Ok(()));
        assert_eq!(mesh::announce("ready", &[0; MAX_PAYLOAD_BYTES + 1]), Err(MeshError::Invalid));
        assert_eq!(announced().len(), 1);
        hear("peer", "queue/ready", b"x");
        let heard = mesh::heard("queue/ready", 0).expect("heard");
        assert_eq!((heard.len(), mesh::heard("queue/ready", heard[0].number)), (1, Ok(Vec::new())));
    }
}
