//! What a mount shows, from what was accepted and what its peers offer now. Pure.
//!
//! A tool is shown for as long as some peer offers it as it was accepted, or may still do so. A tool that all peers offer otherwise is withheld: its old texts would describe something else.

use std::collections::BTreeMap;

use crate::{names::ToolName, reload::accept::face::ToolFace};

/// A peer of a mount, as it is known now.
#[derive(Debug)]
pub(super) struct PeerSight<'a> {
    /// The tools that it offers, and that this host may call there; none if it never told.
    pub(super) tools: Option<BTreeMap<&'a ToolName, &'a ToolFace>>,
    /// Whether that is known to be so now.
    pub(super) is_fresh: bool,
    /// Whether this host may call the tool there.
    pub(super) may_call: BTreeMap<&'a ToolName, bool>,
}

/// An interface that waits to be accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WaitingOffer<'a> {
    /// The peers that offer it.
    pub(super) peers: Vec<usize>,
    /// The tools that are new or changed.
    pub(super) tools: BTreeMap<&'a ToolName, &'a ToolFace>,
}

/// What a mount shows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountPlan<'a> {
    /// The tools that are shown, each with the peers that offer it now as it was accepted, by place in the list of peers.
    pub(super) shown: BTreeMap<&'a ToolName, Vec<usize>>,
    /// Tools that were accepted, and that every peer offers otherwise now.
    pub(super) withheld: Vec<&'a ToolName>,
    /// What waits, by the digest of it.
    pub(super) waiting: BTreeMap<String, WaitingOffer<'a>>,
}

impl<'a> MountPlan<'a> {
    pub(super) fn new(accepted: &BTreeMap<&'a ToolName, &'a ToolFace>, peers: &[PeerSight<'a>]) -> Self {
        let mut plan = Self::default();
        for (&tool, &face) in accepted {
            let (mut ready, mut may_come, mut differs) = (Vec::new(), false, false);
            for (at, peer) in peers.iter().enumerate() {
                if peer.may_call.get(tool) != Some(&true) {
                    continue;
                }
                match peer.tools.as_ref().map(|tools| tools.get(tool)) {
                    None => may_come = true,
                    Some(Some(offered)) if **offered == *face => {
                        may_come = true;
                        if peer.is_fresh {
                            ready.push(at);
                        }
                    }
                    Some(Some(_)) => differs = true,
                    Some(None) => {}
                }
            }
            if may_come {
                plan.shown.insert(tool, ready);
            } else if differs {
                plan.withheld.push(tool);
            }
        }
        for (at, peer) in peers.iter().enumerate() {
            let news = peer.tools.iter().flatten().filter(|(tool, face)| accepted.get(*tool) != Some(*face));
            let news: BTreeMap<&ToolName, &ToolFace> = news.map(|(tool, face)| (*tool, *face)).collect();
            if !news.is_empty() {
                let offer = plan.waiting.entry(digest(&news));
                offer.or_insert_with(|| WaitingOffer { peers: Vec::new(), tools: news }).peers.push(at);
            }
        }
        plan
    }
}

/// Identifies what an operator looks at.
fn digest(tools: &BTreeMap<&ToolName, &ToolFace>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (tool, face) in tools {
        hasher.update(&tool.as_str().len().to_le_bytes());
        hasher.update(tool.as_str().as_bytes());
        hasher.update(face.digest().as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ToolName {
        ToolName::new(text).expect("legal")
    }

    fn face(text: &str) -> ToolFace {
        serde_json::from_value(serde_json::json!({
            "title": null, "description": text, "hints": "", "input": {}, "output": null
        }))
        .expect("a face")
    }

    /// A peer that offers tool `t` with this text.
    fn sight<'a>(tool: &'a ToolName, offered: Option<Option<&'a ToolFace>>, is_fresh: bool) -> PeerSight<'a> {
        let tools = offered.map(|face| face.into_iter().map(|face| (tool, face)).collect());
        PeerSight { tools, is_fresh, may_call: [(tool, true)].into() }
    }

    #[test]
    fn a_tool_is_shown_while_somebody_offers_it_as_it_was_accepted() {
        let (tool, old, new) = (name("t"), face("old"), face("new"));
        let accepted = BTreeMap::from([(&tool, &old)]);
        for (peers, shown, withheld, waiting) in [
            (vec![(None, false)], Some(vec![]), false, 0),
            (vec![(Some(Some(&old)), true)], Some(vec![0]), false, 0),
            (vec![(Some(Some(&old)), false)], Some(vec![]), false, 0),
            (vec![(Some(Some(&new)), true)], None, true, 1),
            (vec![(Some(None), true)], None, false, 0),
            (vec![(Some(Some(&new)), true), (Some(Some(&old)), true)], Some(vec![1]), false, 1),
            (vec![(Some(Some(&new)), true), (Some(Some(&new)), true)], None, true, 1),
            (vec![(Some(Some(&new)), true), (None, false)], Some(vec![]), false, 1),
        ] {
            let sights: Vec<_> = peers.iter().map(|(offered, fresh)| sight(&tool, *offered, *fresh)).collect();
            let plan = MountPlan::new(&accepted, &sights);
            let ready = plan.shown.get(&tool).cloned();
            assert_eq!((ready, !plan.withheld.is_empty(), plan.waiting.len()), (shown, withheld, waiting), "{peers:?}");
        }
    }

    #[test]
    fn a_peer_that_may_not_be_called_offers_nothing() {
        let (tool, old) = (name("t"), face("old"));
        let accepted = BTreeMap::from([(&tool, &old)]);
        let revoked = PeerSight { tools: None, is_fresh: false, may_call: [(&tool, false)].into() };
        assert_eq!(MountPlan::new(&accepted, &[revoked]), MountPlan::default());
    }

    #[test]
    fn what_waits_is_identified_by_all_of_it() {
        let (a, b, one, two) = (name("a"), name("b"), face("1"), face("2"));
        let digests = [
            digest(&[(&a, &one)].into()),
            digest(&[(&b, &one)].into()),
            digest(&[(&a, &two)].into()),
            digest(&[(&a, &one), (&b, &two)].into()),
            digest(&[(&a, &two), (&b, &one)].into()),
        ];
        let different: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(different.len(), digests.len());
    }
}
