//! Where the attempt of a step ran, as its record keeps it.

use mcpp_tool::builds::Place;

use super::job::Done;
use crate::{
    definition::TASK,
    run::{Node, State},
    scheduler::Outcome,
};

/// Longest kept id of a peer, in bytes. Ids of peers have about 50.
const MAX_HOST_BYTES: usize = 128;
/// How a status names this host.
pub(crate) const HERE: &str = "here";

/// A place as a record keeps it; none for one that is not known, or too long to be one.
pub(super) fn host(place: Option<Place>) -> Option<String> {
    match place? {
        Place::Here => Some(HERE.to_owned()),
        Place::Peer(peer) => Some(peer).filter(|peer| peer.len() <= MAX_HOST_BYTES),
    }
}

/// Notes with a node where its attempt ran. An undo leaves the place of its step, and a call for which there was no room that of the attempt before. A
/// task is handed over here, and done by a worker that the queue may name.
pub(super) fn note(node: &mut Node, done: &Done) {
    if matches!(node.state, State::Running { .. }) && !matches!(done.outcome, Outcome::Busy { .. }) {
        node.host = done.host.clone().filter(|_| node.step.action != TASK);
    }
}

/// Where the last attempt of a node ran, for its status: none while another one runs.
pub(crate) fn shown(node: &Node) -> Option<&str> {
    let runs = matches!(node.state, State::Running { .. });
    node.host.as_deref().filter(|_| !runs)
}
