use super::{
    super::{MAX_COUNT, MAX_KEPT_NODES},
    *,
};

const TOLD: Extent = Extent { nodes: 4_096, bytes: 256 << 10 };
const KEPT: Extent = Extent { nodes: MAX_KEPT_NODES, bytes: MAX_KEPT_NODES * MAX_NODE_BYTES };

/// The rules of a clock that takes the teller's counter alone.
fn alone<'a>(is_known: &'a dyn Fn(&str) -> bool) -> ToldRules<'a> {
    ToldRules { told: TOLD, kept: KEPT, third: ThirdNodes::Known(is_known) }
}

/// The rules of a clock that takes third nodes too.
fn with_third(new: usize) -> ToldRules<'static> {
    ToldRules { told: TOLD, kept: Extent { nodes: 5, bytes: 20 }, third: ThirdNodes::New(new) }
}

fn of(node: &str, vector: &[(&str, u64)]) -> VectorClock {
    let vector = vector.iter().map(|(node, count)| ((*node).to_owned(), *count)).collect();
    VectorClock { root: root(&vector), node_id: node.to_owned(), vector }
}

#[test]
fn a_peer_tells_its_own_state_alone() {
    for rules in [alone(&|_| false), ToldRules { kept: KEPT, ..with_third(1) }] {
        // The contract's vectors.
        let mut service = VectorClock::new("taskqueue-service");
        let mut peer = VectorClock::new("peer-a");
        peer.tick();
        assert_eq!(service.merge_told(&peer, "peer-a", &rules), Ok(1));
        assert_eq!(service.root().to_string(), "96b4942a14424cd86ac2ff1278e2742ecd09f0f8c9be8b1ae6a2de026e864089");
        let mut clock = of("a", &[("a", 3), ("b", 5), ("gone", 9)]);
        let before = clock.clone();
        for (wrong, word) in [
            (of("b", &[("a", 4), ("b", 1)]), "\"a\", the counter 4, but this node counts 3"),
            (of("b", &[("a", MAX_COUNT)]), "own state alone"),
            (of("b", &[("b", MAX_TOLD + 1)]), "at most 1099511627776"),
        ] {
            let error = clock.merge_told(&wrong, "b", &rules).expect_err("refused");
            assert!(error.to_string().contains(word), "{error}");
        }
        for name in ["", "a\nb", &"x".repeat(MAX_NODE_BYTES + 1)] {
            assert_eq!(clock.merge_told(&of("b", &[("b", 1)]), name, &rules), Err(RefusedClock::Name));
        }
        assert_eq!(clock, before, "what is refused changes nothing");
    }
    let mut clock = of("a", &[("a", 3), ("b", 5), ("gone", 9)]);
    let theirs = of("b", &[("a", 3), ("b", 7), ("c", 4), ("d", MAX_COUNT)]);
    assert_eq!(clock.merge_told(&theirs, "b", &alone(&|node| node == "c")), Ok(0));
    assert_eq!(clock, of("a", &[("a", 4), ("b", 7)]), "of c it will hear from c; nobody knows d and gone");
    clock.merge_told(&of("b", &[("b", 2)]), "b", &alone(&|_| true)).expect("taken");
    assert_eq!(clock.vector()["b"], 7, "the greater one");
}

#[test]
fn third_nodes_are_taken_within_bounds() {
    let start = of("a", &[("a", 3), ("b", 5), ("c", 9)]);
    let told = of("b", &[("a", 3), ("b", 4), ("c", 10), ("d", 1), ("far", MAX_TOLD + 1), ("x\ny", 1)]);
    let mut clock = start.clone();
    assert_eq!(clock.merge_told(&told, "b", &with_third(1)), Ok(1));
    assert_eq!(clock, of("a", &[("a", 4), ("b", 5), ("c", 10), ("d", 1)]), "but for a damaged counter and a name");
    let mut clock = start.clone();
    assert_eq!(clock.merge_told(&told, "b", &with_third(0)), Err(RefusedClock::TooManyNew { new: 1, most: 0 }));
    let kept = with_third(9).kept;
    for many in [of("b", &[("d", 1), ("e", 1), ("f", 1)]), of("b", &[("a name of 18 bytes", 1)])] {
        assert_eq!(clock.merge_told(&many, "b", &with_third(9)), Err(RefusedClock::NoRoom { most: kept }));
    }
    assert_eq!(clock, start, "what is refused changes nothing");
    // One that an earlier build let grow further takes news of the nodes that it has.
    let mut clock = of("a", &[("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1), ("f", 1)]);
    assert_eq!(clock.merge_told(&of("b", &[("f", 8)]), "b", &with_third(9)), Ok(0));
    assert_eq!(clock.vector()["f"], 8);
}

#[test]
fn a_told_clock_is_bounded_in_nodes_and_bytes() {
    let mut clock = VectorClock::new("a");
    let with = |nodes: usize, width: usize| {
        let mut theirs = VectorClock::new("b");
        theirs.vector.extend((1..nodes).map(|n| (format!("{n:0>width$}"), 1)));
        theirs
    };
    let rules = alone(&|_| true);
    assert_eq!(clock.merge_told(&with(TOLD.nodes, 8), "b", &rules), Ok(1));
    assert!(matches!(clock.merge_told(&with(TOLD.nodes + 1, 8), "b", &rules), Err(RefusedClock::TooLarge { .. })));
    assert_eq!(clock.merge_told(&with(TOLD.bytes / 200, 200), "b", &rules), Ok(0));
    assert!(matches!(clock.merge_told(&with(3_900, 200), "b", &rules), Err(RefusedClock::TooLarge { .. })));
    assert_eq!(clock.vector().len(), 2);
    // As many known peers as there can be.
    clock.vector.extend((2..MAX_KEPT_NODES - 1).map(|n| (format!("{n:0>200}"), MAX_TOLD)));
    assert_eq!(clock.merge_told(&of("one", &[("one", 1)]), "one", &rules), Ok(1));
    for peer in ["two", "three"] {
        let refused = clock.merge_told(&of(peer, &[(peer, 1)]), peer, &rules);
        assert_eq!(refused, Err(RefusedClock::NoRoom { most: KEPT }));
    }
    assert_eq!(clock.merge_told(&of("one", &[("one", 2)]), "one", &rules), Ok(0), "a known one is heard");
    assert_eq!(clock.vector().len(), MAX_KEPT_NODES);
    assert!(serde_json::to_vec(&clock).expect("JSON").len() < 1 << 20);
}

#[test]
fn a_damaged_clock_heals() {
    let mut clock = of("a", &[("a", MAX_COUNT), ("b", 2), ("c", MAX_COUNT - 1), ("junk", 1)]);
    assert!(clock.is_damaged());
    assert!(clock.heal(|node| node != "junk"));
    assert_eq!(clock, of("a", &[("a", 0), ("b", 2)]));
    assert!(!clock.is_damaged() && !clock.heal(|_| true));
    let mut clock = of("a", &[("a", MAX_COUNT), ("junk", 1)]);
    clock.merge_told(&of("b", &[("b", 1)]), "b", &alone(&|_| false)).expect("taken");
    assert_eq!(clock, of("a", &[("a", 1), ("b", 1)]));
}
