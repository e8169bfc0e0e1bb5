//! The tokens of the file, in an index in memory: the door never reads the file, and never waits.
//!
//! One thread looks at the file five times a second, parses it when it has changed, and swaps the index. The thread does nothing else, so that a revocation comes into
//! force however busy the host's other threads are. If the thread cannot read the file, or has not looked at it for long, the host admits no client.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::{
    Stranger,
    tokens::{PREFIX, Token, TokenFile, hash},
};
use crate::{
    files::watch::{self as file, FileWatch},
    tenant::Principal,
};

/// The tokens that the host knows now.
#[derive(Debug)]
pub struct KnownTokens {
    file: TokenFile,
    /// None while no token was ever made; an error while the tokens cannot be read.
    known: ArcSwapOption<Result<Index, ()>>,
    /// A stale index lets nobody in: a token may have been revoked since.
    looked: FileWatch,
    changes: watch::Sender<()>,
}

/// The tokens, for those who look one up.
#[derive(Debug, Default)]
struct Index {
    by_id: HashMap<String, Token>,
    /// When the last token of each principal ends.
    ends: HashMap<Principal, End>,
}

/// When something ends. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    At(SystemTime),
    Never,
}

impl Index {
    fn new(tokens: Vec<Token>) -> Self {
        let mut index = Self::default();
        for token in tokens {
            let end = token.expires.map_or(End::Never, End::At);
            let last = index.ends.entry(token.principal()).or_insert(end);
            *last = end.max(*last);
            // Of two with one id the first counts, as it always did.
            index.by_id.entry(token.id.clone()).or_insert(token);
        }
        index
    }
}

impl KnownTokens {
    /// Knows the tokens in `file`, as they are now.
    pub fn new(file: TokenFile) -> Self {
        let looked = FileWatch::new(file.path().to_owned());
        let tokens = Self { file, known: ArcSwapOption::empty(), looked, changes: watch::Sender::default() };
        tokens.look();
        tokens
    }

    /// As [`KnownTokens::new`], and sees when they change, for as long as somebody has it.
    pub fn watching(file: TokenFile) -> std::io::Result<Arc<Self>> {
        let tokens = Arc::new(Self::new(file));
        file::watch("tokens", &tokens, Self::look)?;
        Ok(tokens)
    }

    /// Whether the host needs a token: once one was made, for as long as the host runs.
    pub fn are_needed(&self) -> bool {
        self.known.load().is_some()
    }

    /// Reports each change of the tokens, once it is in force.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Fails while the host cannot tell which tokens there are.
    pub fn check_readable(&self) -> Result<(), Stranger> {
        let unreadable = self.known.load().as_deref().is_some_and(Result::is_err);
        if unreadable || self.looked.is_stale() { Err(Stranger::Unreadable) } else { Ok(()) }
    }

    /// The principal that has this token.
    pub fn find(&self, token: &str) -> Result<Principal, Stranger> {
        let known = self.known.load();
        let Some(Ok(known)) = known.as_deref() else { return Err(Stranger::Unreadable) };
        let (id, secret) = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(Stranger::Unknown)?;
        let found = known.by_id.get(id).ok_or(Stranger::Unknown)?;
        let kept = blake3::Hash::from_hex(&found.hash).map_err(|_| Stranger::Unknown)?;
        // `blake3::Hash` compares in constant time.
        if hash(secret) != kept {
            return Err(Stranger::Unknown);
        }
        if found.is_expired(SystemTime::now()) {
            return Err(Stranger::Expired);
        }
        Ok(found.principal())
    }

    /// Whether a token of the principal is good now. It takes no longer with many tokens than with few.
    pub fn has_token(&self, principal: &Principal) -> bool {
        let known = self.known.load();
        let Some(Ok(known)) = known.as_deref() else { return false };
        let now = End::At(SystemTime::now());
        known.ends.get(principal).is_some_and(|end| *end > now)
    }

    /// Reads the file again if it has changed. Blocks.
    pub fn look(&self) {
        self.looked.look(|| {
            let read = match self.file.read() {
                Ok(tokens) => tokens.map(|tokens| Arc::new(Ok(Index::new(tokens)))),
                Err(error) => {
                    tracing::error!(
                        error = crate::error::chain(&error),
                        "the host refuses every token: it cannot read the token file"
                    );
                    Some(Arc::new(Err(())))
                }
            };
            // Once a token was needed it is needed until the host starts anew: a file that vanished lets nobody in.
            let vanished = read.is_none() && self.known.load().is_some();
            self.known.store(if vanished { Some(Arc::new(Ok(Index::default()))) } else { read });
            self.changes.send_replace(());
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        auth::{Authenticator, tokens::NewToken},
        names::TenantId,
        tenant::SCOPE_TOOLS,
    };

    fn door(tokens: KnownTokens) -> Authenticator {
        Authenticator::new(Arc::new(tokens))
    }

    fn new(subject: &str, good_for: Option<Duration>) -> NewToken {
        NewToken {
            tenant: TenantId::new("team").expect("legal"),
            subject: subject.to_owned(),
            scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
            tools: Vec::new(),
            good_for,
        }
    }

    #[test]
    fn a_token_opens_until_it_is_revoked_and_is_nowhere_to_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens.toml");
        let file = TokenFile::new(path.clone());
        let fresh = || door(KnownTokens::new(file.clone()));
        assert_eq!(fresh().check(None).expect("one user"), Principal::local_user());
        let (kept, token) = file.create(new("alice", None)).expect("made");
        let (_, short) = file.create(new("bob", Some(Duration::ZERO))).expect("made");
        let text = std::fs::read_to_string(&path).expect("text");
        assert!(!text.contains(token.rsplit('_').next().expect("a secret")));
        let door = fresh();
        assert_eq!(&*door.check(Some(&token)).expect("known").subject, "alice");
        for (shown, why) in [
            (None, Stranger::NoToken),
            (Some(""), Stranger::Unknown),
            (Some("mcpp_"), Stranger::Unknown),
            (Some(&token[..token.len() - 1]), Stranger::Unknown),
            (Some(&*format!("{token}x")), Stranger::Unknown),
            (Some(&*format!("mcpp_{}_", kept.id)), Stranger::Unknown),
            (Some(&*format!("mcpp_{}_{}", kept.id, kept.hash)), Stranger::Unknown),
            (Some(&short), Stranger::Expired),
        ] {
            assert_eq!(door.check(shown), Err(why), "{shown:?}");
        }
        let alice = door.check(Some(&token)).expect("known");
        let bob = Principal { subject: "bob".into(), ..alice.clone() };
        assert!(door.still_knows(&alice) && !door.still_knows(&Principal::local_user()) && !door.still_knows(&bob));
        // A second token of the same user keeps the user in.
        let (second, _) = file.create(new("alice", Some(Duration::from_secs(3_600)))).expect("made");
        file.revoke(&kept.id).expect("revoked");
        assert_eq!(fresh().check(Some(&token)), Err(Stranger::Unknown));
        assert!(fresh().still_knows(&alice));
        file.revoke(&second.id).expect("revoked");
        assert!(!fresh().still_knows(&alice));
        file.revoke_all(&kept.tenant).expect("revoked");
        assert_eq!(fresh().check(None), Err(Stranger::NoToken), "a token is needed once there was one");
        std::fs::write(&path, "version = 1\n[[tokens]]\nid = 'x'\n").expect("written");
        assert_eq!(fresh().check(Some(&token)), Err(Stranger::Unreadable));
        assert!(!fresh().still_knows(&alice));
    }

    #[test]
    fn a_file_that_vanishes_lets_nobody_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = TokenFile::new(folder.path().join("tokens.toml"));
        file.create(new("alice", None)).expect("made");
        let tokens = Arc::new(KnownTokens::new(file.clone()));
        let door = Authenticator::new(Arc::clone(&tokens));
        assert_eq!(door.check(None), Err(Stranger::NoToken));
        let changes = door.changes();
        tokens.look();
        assert!(!changes.has_changed().expect("watched"), "the file is as it was");
        std::fs::remove_file(file.path()).expect("removed");
        tokens.look();
        assert!(changes.has_changed().expect("watched"), "doors are told");
        assert_eq!(door.check(None), Err(Stranger::NoToken));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "no runtime here")]
    fn a_change_is_seen_without_the_door_looking_at_the_file_and_without_looking_nobody_comes_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = TokenFile::new(folder.path().join("tokens.toml"));
        let (kept, token) = file.create(new("alice", None)).expect("made");
        let door = Authenticator::new(KnownTokens::watching(file.clone()).expect("a thread"));
        assert!(door.check(Some(&token)).is_ok());
        file.revoke(&kept.id).expect("revoked");
        let patience = Instant::now() + Duration::from_secs(20);
        while door.check(Some(&token)).is_ok() {
            assert!(Instant::now() < patience, "the revocation is not seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        let known = KnownTokens::new(file);
        let tokens = Arc::new(KnownTokens { looked: known.looked.aged(), ..known });
        let unwatched = Authenticator::new(Arc::clone(&tokens));
        assert_eq!(unwatched.check(Some(&token)), Err(Stranger::Unreadable));
        tokens.look();
        assert_eq!(unwatched.check(Some(&token)), Err(Stranger::Unknown));
    }
}
