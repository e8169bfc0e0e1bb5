//! The turns of a node at its keys. The caller knows the numbers of the keys; here is what becomes of the node.

use super::Nodes;
use crate::run::{Limited, Line, Node, Number, State, Turn};

/// Has a node that is ready wait in a line. It keeps its priority and its age.
pub fn wait_in_line<N: Nodes>(nodes: &mut N, mut node: Node, turn: Turn, line: Line) -> Result<(), N::Error> {
    node.turn = Some(Turn { is_next: false, ..turn });
    node.state = State::InLine(line);
    nodes.save(&node)
}

/// Gives the first node of a line its turn; false if it does not wait there (any more).
pub fn let_on<N: Nodes>(nodes: &mut N, number: Number) -> Result<bool, N::Error> {
    let mut node = nodes.node(number)?;
    let (State::InLine(line), Some(turn)) = (&node.state, &mut node.turn) else { return Ok(false) };
    match line.of {
        Limited::Concurrency => turn.has_slot = true,
        Limited::Rate => turn.is_next = true,
    }
    node.state = State::Ready;
    nodes.save(&node)?;
    Ok(true)
}
