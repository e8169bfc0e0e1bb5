//! The tags of workflow tasks, as the MCP++ programs name them, and what follows from them.

use serde::{Deserialize, Serialize};

/// A tag. Its value has hyphens; callers may name it by that or by its name in capitals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkflowTag {
    /// The task needs GitHub's API.
    GithubApi,
    /// Peers may run it.
    P2pEligible,
    /// Only peers may run it.
    P2pOnly,
    /// It runs tests.
    UnitTest,
    /// It writes code.
    CodeGeneration,
    /// It reads pages of the web.
    WebScraping,
    /// It works on data.
    DataProcessing,
}

impl WorkflowTag {
    /// Every tag.
    pub const ALL: [Self; 7] = [
        Self::GithubApi,
        Self::P2pEligible,
        Self::P2pOnly,
        Self::UnitTest,
        Self::CodeGeneration,
        Self::WebScraping,
        Self::DataProcessing,
    ];

    /// Its value on the wire.
    pub const fn value(self) -> &'static str {
        match self {
            Self::GithubApi => "github-api",
            Self::P2pEligible => "p2p-eligible",
            Self::P2pOnly => "p2p-only",
            Self::UnitTest => "unit-test",
            Self::CodeGeneration => "code-generation",
            Self::WebScraping => "web-scraping",
            Self::DataProcessing => "data-processing",
        }
    }

    /// The tag that a caller names: case means nothing, and neither does hyphen or underscore.
    pub fn parse(text: &str) -> Option<Self> {
        let wanted = text.to_ascii_lowercase().replace('_', "-");
        Self::ALL.into_iter().find(|tag| tag.value() == wanted)
    }
}

/// Whether tasks with these tags go past GitHub to the peers. The kinds of work alone do not say so.
pub fn should_bypass_github(tags: &[WorkflowTag]) -> bool {
    tags.iter().any(|tag| matches!(tag, WorkflowTag::P2pEligible | WorkflowTag::P2pOnly))
}

/// Whether only peers may run tasks with these tags.
pub fn is_p2p_only(tags: &[WorkflowTag]) -> bool {
    tags.contains(&WorkflowTag::P2pOnly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_named_by_value_or_by_name() {
        for (text, tag) in [
            ("p2p-only", Some(WorkflowTag::P2pOnly)),
            ("P2P_ONLY", Some(WorkflowTag::P2pOnly)),
            ("Github-API", Some(WorkflowTag::GithubApi)),
            ("code_gen", None),
            (" p2p-only", None),
            ("", None),
        ] {
            assert_eq!(WorkflowTag::parse(text), tag, "{text:?}");
        }
        for tag in WorkflowTag::ALL {
            assert_eq!(serde_json::to_value(tag).expect("JSON"), tag.value());
        }
    }

    #[test]
    fn only_the_two_tags_of_peers_go_past_github() {
        for tag in WorkflowTag::ALL {
            let for_peers = matches!(tag, WorkflowTag::P2pOnly | WorkflowTag::P2pEligible);
            assert_eq!(should_bypass_github(&[tag]), for_peers, "{tag:?}");
            assert_eq!(is_p2p_only(&[WorkflowTag::UnitTest, tag]), tag == WorkflowTag::P2pOnly, "{tag:?}");
        }
        assert!(!should_bypass_github(&[]) && !is_p2p_only(&[]));
    }
}
