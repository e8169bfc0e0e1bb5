//! Which peer should run a task: the one whose hashed id differs in the fewest bits from the hash of clock and task.
//!
//! A form of rendezvous hashing. It is salted with the local clock, so two nodes with different views may choose different owners: it spreads work, and excludes nobody. A task whose
//! owner is alive and idle waits for it; that is by design, and why placement can be switched off.

use crate::hash::Hash;

/// The hash of a task of the queue.
pub fn task_hash(task_id: &str, task_type: &str, model_name: &str) -> Hash {
    Hash::of(&format!("{task_id}:{task_type}:{model_name}"))
}

/// The hash of a step of a workflow.
pub fn step_hash(task_id: &str, workflow_id: &str) -> Hash {
    Hash::of(&format!("{task_id}:{workflow_id}"))
}

/// The hash of clock and task together.
pub fn combined(clock_root: &Hash, task_hash: &Hash) -> Hash {
    Hash::of(&format!("{clock_root}:{task_hash}"))
}

/// The owner among `peers`; of two that are equally near, the first. None if there are no peers.
pub fn owner<'a>(combined: &Hash, peers: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    peers.into_iter().min_by_key(|peer| combined.distance(&Hash::of(peer)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VectorClock;

    const PEERS: [&str; 3] = ["peer-a", "peer-b", "peer-c"];

    fn distances(combined: &Hash) -> [u32; 3] {
        PEERS.map(|peer| combined.distance(&Hash::of(peer)))
    }

    #[test]
    fn owners_are_those_of_the_other_programs() {
        let task = task_hash("t1", "text-generation", "gpt2");
        assert_eq!(task.to_string(), "507a3262877b0e07c486980ffaba51f36c2fe59bf3693efa10fe1ca5e2407738");
        let mut service = VectorClock::new("taskqueue-service");
        let first = combined(&service.root(), &task);
        assert_eq!(first.to_string(), "19425211157a137b556755eeae2e5d449823489bfe5152f12c2b50271bb955e9");
        assert_eq!((distances(&first), owner(&first, PEERS)), ([131, 128, 134], Some("peer-b")));
        let mut peer = VectorClock::new("peer-a");
        peer.tick();
        service.merge(&peer);
        let second = combined(&service.root(), &task);
        assert_eq!(second.to_string(), "bb1c883d16f6644199b0551e9f3aa2f53c62fb015b29e3ce9ce34f44fd01bb74");
        assert_eq!((distances(&second), owner(&second, PEERS)), ([128, 117, 119], Some("peer-b")));
        let step = step_hash("t1", "wf1");
        assert_eq!(step.to_string(), "beb43a15b6fb460810d343f9aa4fa9c7c1a8456a3d797d78172ac370b55c3570");
        let third = combined(&VectorClock::new("peer-a").root(), &step);
        assert_eq!(third.to_string(), "cdf8990b772a8afd0807b02ad5a8ef8e077b68f563dc3378ad53ac6fed2b1028");
        assert_eq!((distances(&third), owner(&third, PEERS)), ([133, 120, 128], Some("peer-b")));
        assert_eq!(Hash::of("peer-a").to_string(), "bdb94c73d53c44023a715a2970a10c4d54fa9550b70fd9d34cc4b0a2de5ddcbe");
        assert_eq!(Hash::of("peer-b").to_string(), "02f95dcab675d8f7fdd23cdfdc05e684fc20dd4708fa3b491df6e9065ba9be4a");
    }

    #[test]
    fn of_equals_the_first_is_the_owner() {
        let hash = Hash::of("x");
        assert_eq!(owner(&hash, ["same", "same"]), Some("same"));
        assert_eq!(owner(&hash, []), None);
    }

    #[test]
    fn hashes_are_parsed_strictly() {
        let text = Hash::of("x").to_string();
        assert_eq!(Hash::parse(&text), Some(Hash::of("x")));
        assert_eq!(Hash::parse(&text.to_uppercase()), Some(Hash::of("x")));
        for wrong in ["", "0", &text[1..], &format!("{text}0"), &text.replace(&text[..1], "g"), &"é".repeat(32)] {
            assert_eq!(Hash::parse(wrong), None, "{wrong:?}");
        }
    }
}
