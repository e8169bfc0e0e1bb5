//! GitHub's REST interface, as far as the registry needs it: pages, conditional requests, rate limits and outages.
//!
//! A limit that GitHub names is kept in the store: until then no request is sent, by no call. What GitHub says has not changed comes from the store, and does not count against its limit.

use std::time::Duration;

use mcpp_tool::{
    caller, config,
    environment::{chance, now_ms, pause},
    http::{self, HttpError, Response},
    store::{Map, StoreError, snapshot, transact},
};
use scheduling::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Pages that are read of a list: a thousand entries.
pub const MAX_PAGES: usize = 10;
/// Entries of a page, as many as GitHub gives.
pub const PER_PAGE: usize = 100;
/// Largest page that is kept for conditional requests, in bytes of JSON.
const MAX_KEPT_BYTES: usize = 512 << 10;
/// Attempts beyond the first, of a request that may be made twice.
const RETRIES: u32 = 2;
const BACKOFF: Backoff = Backoff { base_ms: 500, factor: 2.0, max_ms: 5_000 };
/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Without a time of GitHub's a limit lasts so long, in milliseconds.
const UNKNOWN_LIMIT_MS: u64 = 60_000;
/// A limit is taken to last no longer, in milliseconds.
const LONGEST_LIMIT_MS: u64 = 3_600_000;

/// Until when no request is sent, in milliseconds since 1970-01-01 UTC.
const LIMITED: Map<(), u64> = Map::new("limited-until");
/// The last page of each address, with its tag.
const PAGES: Map<String, Page> = Map::new("pages");

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Page {
    etag: String,
    body: Value,
    has_next: bool,
}

/// Why GitHub did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GithubError {
    /// The grant lacks a setting; which.
    #[error("registry_not_configured: the component's grant needs `config = {{ {0} = … }}`")]
    NotConfigured(&'static str),
    /// GitHub allows no further request now; when it does again, in seconds.
    #[error("rate_limited: GitHub allows the next request in {0} s")]
    RateLimited(u64),
    /// There is no such thing.
    #[error("GitHub has no such repository or issue, or the token may not see it")]
    NotFound,
    /// It refused; the status.
    #[error("GitHub answered {0}")]
    Refused(u16),
    /// An argument is not of its form; which, and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The grant does not let the request go there.
    #[error(
        "this host denies the request: no rule of the component's grant allows it; the host's log names the rule that would"
    )]
    Denied,
    /// This host sends no such request: it has no secret, or the grant names it not.
    #[error(
        "this host denies the request: the secret GITHUB_TOKEN is missing (`mcpp secret set GITHUB_TOKEN`), or the grant does not let it go to {0}; the host's log says which"
    )]
    NoToken(String),
    /// It does not answer, or not as it should; why.
    #[error("GitHub does not answer: {0}")]
    Away(String),
    /// The store did not do it.
    #[error("the store does not answer: {0}")]
    Store(#[from] StoreError),
}

impl From<HttpError> for GithubError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Denied => Self::Denied,
            error => Self::Away(error.to_string()),
        }
    }
}

/// A repository at GitHub.
#[derive(Debug, Clone)]
pub struct Repository {
    base: String,
    token: bool,
}

impl Repository {
    /// The repository of the settings.
    ///
    /// # Errors
    /// [`GithubError::NotConfigured`].
    pub fn of_settings() -> Result<Self, GithubError> {
        let repo = config::get("repo").filter(|repo| is_repo(repo)).ok_or(GithubError::NotConfigured("repo"))?;
        let base = config::get("base_url").unwrap_or_else(|| "https://api.github.com".to_owned());
        let token = config::get("anonymous").as_deref() != Some("1");
        Ok(Self { base: format!("{}/repos/{repo}", base.trim_end_matches('/')), token })
    }

    fn request(&self, method: &str, path: &str) -> http::Request {
        let request = http::request(method, &format!("{}{path}", self.base))
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28")
            .header("user-agent", "mcpp")
            .timeout(PATIENCE);
        if self.token { request.header("authorization", "Bearer {{secret:GITHUB_TOKEN}}") } else { request }
    }

    /// All entries of a list.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, GithubError> {
        let mut entries = Vec::new();
        for page in 1..=MAX_PAGES {
            let joint = if path.contains('?') { '&' } else { '?' };
            let Page { body, has_next, .. } = self.page(&format!("{path}{joint}per_page={PER_PAGE}&page={page}"))?;
            let Value::Array(some) = body else { return Err(GithubError::Away("a list is no list".to_owned())) };
            entries.extend(some);
            if !has_next {
                break;
            }
        }
        Ok(entries)
    }

    /// One page: the one that is kept, if GitHub says that it has not changed.
    fn page(&self, path: &str) -> Result<Page, GithubError> {
        let key = format!("{}{path}", self.base);
        let kept = PAGES.get(&snapshot()?, &key)?;
        let request = || {
            let request = self.request("GET", path);
            match &kept {
                Some(kept) => request.header("if-none-match", &kept.etag),
                None => request,
            }
        };
        let response = self.send(request, Again::Yes)?;
        if let (304, Some(kept)) = (response.status, kept) {
            return Ok(kept);
        }
        let response = check(response)?;
        let has_next = response.header("link").is_some_and(|link| link.contains("rel=\"next\""));
        let page =
            Page { etag: response.header("etag").unwrap_or_default().to_owned(), body: response.json()?, has_next };
        if page.etag.is_empty() || response.body().len() > MAX_KEPT_BYTES {
            transact(|t| PAGES.remove(t, &key))?;
        } else {
            transact(|t| PAGES.set(t, &key, &page))?;
        }
        Ok(page)
    }

    /// Writes something: `POST` makes it, once; `PATCH` changes it.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn write(&self, method: &str, path: &str, body: &Value) -> Result<Value, GithubError> {
        let again = if method == "POST" { Again::No } else { Again::Yes };
        Ok(check(self.send(|| self.request(method, path).json(body), again)?)?.json()?)
    }

    /// Deletes something. It is no error if it is gone.
    ///
    /// # Errors
    /// See [`GithubError`].
    pub fn delete(&self, path: &str) -> Result<(), GithubError> {
        match check(self.send(|| self.request("DELETE", path), Again::Yes)?) {
            Ok(_) | Err(GithubError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Repository {
    fn send(&self, request: impl Fn() -> http::Request, again: Again) -> Result<Response, GithubError> {
        send(request, again).map_err(|error| self.explain(error))
    }

    /// A component is not told why the host denies a request. One with a token is most often denied because there is no token.
    fn explain(&self, error: GithubError) -> GithubError {
        match error {
            GithubError::Denied if self.token => GithubError::NoToken(self.base.clone()),
            other => other,
        }
    }
}

fn is_repo(repo: &str) -> bool {
    let is_part = |part: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=100).contains(&part.len()) && part.chars().all(legal) && !part.chars().all(|c| c == '.')
    };
    repo.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

/// Whether a request may be made again that may have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

/// Sends a request, unless GitHub's limit is spent; again after an outage, if it may.
fn send(request: impl Fn() -> http::Request, again: Again) -> Result<Response, GithubError> {
    let limited = LIMITED.get(&snapshot()?, &())?.unwrap_or_default();
    if limited > now_ms() {
        return Err(GithubError::RateLimited(limited.saturating_sub(now_ms()).div_ceil(1_000)));
    }
    let mut failed = 0;
    loop {
        let answer = request().send();
        failed += 1;
        let is_outage = match &answer {
            Ok(response) => response.status >= 500,
            Err(error) => !matches!(error, HttpError::Denied | HttpError::Invalid(_) | HttpError::NoHost),
        };
        let wait = Duration::from_millis(BACKOFF.wait_ms(failed, chance()));
        let has_time = caller::remaining() > wait.saturating_add(PATIENCE);
        if !is_outage || again == Again::No || failed > RETRIES || !has_time {
            return limit(answer?);
        }
        pause(wait);
    }
}

/// Notes the limit that an answer names.
fn limit(response: Response) -> Result<Response, GithubError> {
    let number = |name: &str| response.header(name).and_then(|text| text.trim().parse::<u64>().ok());
    let (after, left) = (number("retry-after"), number("x-ratelimit-remaining"));
    let is_limit = response.status == 429 || (response.status == 403 && (after.is_some() || left == Some(0)));
    if !is_limit {
        return Ok(response);
    }
    let now = now_ms();
    let reset = number("x-ratelimit-reset").map(|seconds| seconds.saturating_mul(1_000).saturating_sub(now));
    let wait = after.map(|seconds| seconds.saturating_mul(1_000)).or(reset).unwrap_or(UNKNOWN_LIMIT_MS);
    let wait = wait.clamp(1_000, LONGEST_LIMIT_MS);
    transact(|t| LIMITED.set(t, &(), &now.saturating_add(wait)))?;
    Err(GithubError::RateLimited(wait.div_ceil(1_000)))
}

fn check(response: Response) -> Result<Response, GithubError> {
    match response.status {
        200..=299 => Ok(response),
        404 | 410 => Err(GithubError::NotFound),
        500.. => Err(GithubError::Away(format!("it answered {}", response.status))),
        status => Err(GithubError::Refused(status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_request_says_that_the_token_may_be_missing() {
        let explain = |token: bool, error: HttpError| {
            let base = "https://api.github.com/repos/o/n".to_owned();
            Repository { base, token }.explain(error.into()).to_string()
        };
        let denied = explain(true, HttpError::Denied);
        assert!(denied.contains("the secret GITHUB_TOKEN is missing (`mcpp secret set GITHUB_TOKEN`)"), "{denied}");
        assert!(denied.contains("https://api.github.com/repos/o/n"), "{denied}");
        for other in [explain(false, HttpError::Denied), explain(true, HttpError::NoHost)] {
            assert!(!other.contains("GITHUB_TOKEN"), "{other}");
        }
    }

    #[test]
    fn a_repository_is_two_names() {
        for (repo, legal) in [
            ("owner/name", true),
            ("own-er/na.me_1", true),
            ("owner", false),
            ("owner/", false),
            ("owner/a/b", false),
            ("owner/..", false),
            ("owner/a?b", false),
        ] {
            assert_eq!(is_repo(repo), legal, "{repo}");
        }
        assert!(matches!(Repository::of_settings(), Err(GithubError::NotConfigured("repo"))));
    }
}
