//! The issue that is the registry, and the records in its comments.
//!
//! Hosts that make the issue at once converge: each takes the one with the lowest number. A host has one comment; of several, the oldest counts, and the host deletes its others.

use mcpp_tool::{
    config,
    environment::now_ms,
    store::{Map, snapshot, transact},
};
use serde_json::{Value, json};

use crate::{
    github::{GithubError, Repository},
    record::{self, PeerRecord, marker},
};

/// Numbers of issues that were found, by repository and title.
const ISSUES: Map<String, u64> = Map::new("issues");
const DEFAULT_PREFIX: &str = "p2p-peer-registry";
const DEFAULT_TTL_MINUTES: u64 = 30;
/// Records that one clean-up deletes: a call may make 50 requests, of which finding the records takes up to 22.
const MAX_DELETED: usize = 20;

/// The registry of the settings.
#[derive(Debug)]
pub struct PeerRegistry {
    repository: Repository,
    repo: String,
    prefix: String,
    title: String,
    runner: String,
    ttl_ms: u64,
}

/// A record, and the comment that it stands in.
#[derive(Debug, Clone)]
struct Comment {
    id: u64,
    body: String,
    record: Option<PeerRecord>,
}

impl PeerRegistry {
    /// The registry of the settings `repo`, `cache_prefix`, `issue_title`, `RUNNER_NAME` and `peer_ttl_minutes`.
    ///
    /// # Errors
    /// [`GithubError::NotConfigured`].
    pub fn of_settings() -> Result<Self, GithubError> {
        let repository = Repository::of_settings()?;
        let runner = config::get("RUNNER_NAME").filter(|name| is_runner(name));
        let prefix = config::get("cache_prefix").filter(|name| is_runner(name)).unwrap_or(DEFAULT_PREFIX.to_owned());
        let minutes = config::get("peer_ttl_minutes").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_TTL_MINUTES);
        Ok(Self {
            repository,
            repo: config::get("repo").unwrap_or_default(),
            title: config::get("issue_title").filter(|title| !title.is_empty()).unwrap_or_else(|| prefix.clone()),
            prefix,
            runner: runner.unwrap_or_else(|| "unknown-runner".to_owned()),
            ttl_ms: minutes.clamp(1, 24 * 60).saturating_mul(60_000),
        })
    }

    /// The name of this host in the registry.
    pub fn runner(&self) -> &str {
        &self.runner
    }

    /// Writes this host's record; the number of its comment.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn register(&self, record: &PeerRecord) -> Result<u64, GithubError> {
        let (issue, comments) = self.comments(Missing::Make)?;
        let mine = self.mine(&comments);
        let body = json!({ "body": record.to_comment(&self.prefix) });
        let written = match mine.first() {
            Some(id) => match self.repository.write("PATCH", &format!("/issues/comments/{id}"), &body) {
                // Somebody deleted it meanwhile.
                Err(GithubError::NotFound) => {
                    self.repository.write("POST", &format!("/issues/{issue}/comments"), &body)?
                }
                written => written?,
            },
            None => self.repository.write("POST", &format!("/issues/{issue}/comments"), &body)?,
        };
        for id in mine.iter().skip(1) {
            self.repository.delete(&format!("/issues/comments/{id}"))?;
        }
        number(&written, "id").ok_or_else(|| GithubError::Away("a comment has no id".to_owned()))
    }

    /// The comments of this host, the oldest first.
    fn mine(&self, comments: &[Comment]) -> Vec<u64> {
        let own = marker(&self.prefix, &self.runner);
        let is_own =
            |comment: &&Comment| comment.body.trim_start().lines().next().map(str::trim_end) == Some(own.as_str());
        let mut mine: Vec<u64> = comments.iter().filter(is_own).map(|comment| comment.id).collect();
        mine.sort_unstable();
        mine
    }

    /// Deletes this host's record; how many comments.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn unregister(&self) -> Result<usize, GithubError> {
        let mine = self.mine(&self.comments(Missing::IsEmpty)?.1);
        for id in &mine {
            self.repository.delete(&format!("/issues/comments/{id}"))?;
        }
        Ok(mine.len())
    }

    /// The records of others that are not too old, the newest first.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn peers(&self, most: usize) -> Result<Vec<PeerRecord>, GithubError> {
        let (_, comments) = self.comments(Missing::IsEmpty)?;
        let now = now_ms();
        let mut fresh: Vec<(u64, PeerRecord)> = comments
            .into_iter()
            .filter_map(|comment| comment.record)
            .filter(|record| record.runner_name != self.runner)
            .filter_map(|record| Some((record.seen_ms()?, record)))
            .filter(|(seen, _)| seen.saturating_add(self.ttl_ms) > now)
            .collect();
        fresh.sort_by(|(a, one), (b, other)| b.cmp(a).then_with(|| one.runner_name.cmp(&other.runner_name)));
        Ok(fresh.into_iter().map(|(_, record)| record).take(most).collect())
    }

    /// Deletes records that are too old, of whatever host; how many. Other comments stay.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn clean_up(&self) -> Result<usize, GithubError> {
        let (_, comments) = self.comments(Missing::IsEmpty)?;
        let now = now_ms();
        let is_old = |comment: &&Comment| {
            let seen = comment.record.as_ref().and_then(PeerRecord::seen_ms);
            seen.is_some_and(|seen| seen.saturating_add(self.ttl_ms) <= now)
        };
        let old: Vec<u64> = comments.iter().filter(is_old).map(|comment| comment.id).take(MAX_DELETED).collect();
        for id in &old {
            self.repository.delete(&format!("/issues/comments/{id}"))?;
        }
        Ok(old.len())
    }

    /// The issue, and all its comments.
    fn comments(&self, missing: Missing) -> Result<(u64, Vec<Comment>), GithubError> {
        let key = format!("{}#{}", self.repo, self.title);
        let known = ISSUES.get(&snapshot()?, &key)?;
        let read = |issue: u64| self.repository.list(&format!("/issues/{issue}/comments"));
        let (issue, comments) = match known.map(|issue| (issue, read(issue))) {
            Some((issue, Ok(comments))) => (issue, comments),
            Some((_, Err(error))) if error != GithubError::NotFound => return Err(error),
            // The issue is new to this host, or is gone.
            _ => {
                let found = match (self.find()?, missing) {
                    (Some(issue), _) => issue,
                    (None, Missing::IsEmpty) => return Ok((0, Vec::new())),
                    (None, Missing::Make) => self.make()?,
                };
                transact(|t| ISSUES.set(t, &key, &found))?;
                (found, read(found)?)
            }
        };
        let comment = |value: Value| {
            let body = value.get("body")?.as_str()?.to_owned();
            Some(Comment { id: number(&value, "id")?, record: record::read(&self.prefix, &body), body })
        };
        Ok((issue, comments.into_iter().filter_map(comment).collect()))
    }

    /// The open issue with exactly this title; of several, the one with the lowest number.
    fn find(&self) -> Result<Option<u64>, GithubError> {
        let issues = self.repository.list("/issues?state=open")?;
        let ours = issues.iter().filter(|issue| {
            let is_issue = issue.get("pull_request").is_none_or(Value::is_null);
            is_issue && issue.get("title").and_then(Value::as_str) == Some(self.title.as_str())
        });
        Ok(ours.filter_map(|issue| number(issue, "number")).min())
    }

    /// Makes the issue. Another host may have made one at the same time, so the lowest is taken.
    fn make(&self) -> Result<u64, GithubError> {
        let body = format!(
            "Peers of `{}` keep their addresses in the comments of this issue. Programs write them.",
            self.prefix
        );
        let made = self.repository.write("POST", "/issues", &json!({ "title": self.title, "body": body }))?;
        let made = number(&made, "number").ok_or_else(|| GithubError::Away("an issue has no number".to_owned()))?;
        Ok(self.find()?.map_or(made, |lowest| lowest.min(made)))
    }
}

/// What to do where there is no issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    IsEmpty,
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key)?.as_u64()
}

/// Whether a name may stand in the marker of a comment.
fn is_runner(name: &str) -> bool {
    let is_legal = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
    (1..=100).contains(&name.len()) && name.chars().all(is_legal) && !name.contains("--") && name.trim() == name
}
