//! Bearer tokens: who may come in at the HTTP door, as whom, for how long.
//!
//! A token is shown once, when it is made; the host keeps a hash of it. While no token was ever made, whoever reaches the door is the local user, and
//! the door opens on loopback only. From the first token on, a token is needed, also when all of them have expired or were revoked.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Principal, TenantId};
use crate::{
    files::{lock, write_durably},
    grants::ToolPattern,
};

/// The version of the file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
/// A larger file is a mistake.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How every token begins, so that scanners find one that leaked.
const PREFIX: &str = "mcpp_";
const SECRET_BYTES: usize = 32;
/// How soon a change of the file is seen.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// One token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// By what it is called; no secret.
    pub id: String,
    /// Whose tools it opens.
    pub tenant: TenantId,
    /// Who has it.
    pub subject: String,
    /// What its holder may do.
    pub scopes: BTreeSet<String>,
    /// The tools that its holder may see and call: names, or prefixes that end in `*`. All of the tenant's if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolPattern>,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    pub created: SystemTime,
    /// When it ends.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub expires: Option<SystemTime>,
    /// BLAKE3 of the secret, hexadecimal.
    hash: String,
}

impl Token {
    /// Whether it has ended.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            subject: self.subject.as_str().into(),
            scopes: Arc::new(self.scopes.clone()),
            tools: (!self.tools.is_empty()).then(|| self.tools.clone().into()),
        }
    }
}

/// What a new token is for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Whose tools it opens.
    pub tenant: TenantId,
    /// Who gets it.
    pub subject: String,
    /// What its holder may do.
    pub scopes: BTreeSet<String>,
    /// The tools that its holder may see and call; all of the tenant's if there is none.
    pub tools: Vec<ToolPattern>,
    /// How long it is good for; none for ever.
    pub good_for: Option<Duration>,
}

/// Why the tokens are not usable.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The file could not be read or written.
    #[error("cannot use the tokens {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not valid.
    #[error("the tokens {path} are not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The file has another version.
    #[error("the tokens {path} have version {found}; this host reads version {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// There is no such token.
    #[error("there is no token {0:?}; `mcpp token list` shows those there are")]
    Unknown(String),
    /// What is asked for is not legal.
    #[error("{0}")]
    Invalid(&'static str),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    tokens: Vec<Token>,
}

/// The tokens in their file.
#[derive(Debug, Clone)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    /// The tokens in `path`, which may not be there.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> TokensError + use<> {
        let path = self.0.clone();
        move |source| TokensError::Io { path, source }
    }

    /// Whether a token was ever made.
    pub fn exists(&self) -> bool {
        // Whatever hinders us from looking is no reason to let everybody in.
        !matches!(std::fs::symlink_metadata(&self.0), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// All tokens; none if none was ever made.
    pub fn read(&self) -> Result<Option<Vec<Token>>, TokensError> {
        if !self.exists() {
            return Ok(None);
        }
        let bytes = std::fs::metadata(&self.0).map_err(self.failed())?.len();
        if bytes > MAX_FILE_BYTES {
            return Err(self.failed()(io::Error::other("the file is too large")));
        }
        let text = std::fs::read_to_string(&self.0).map_err(self.failed())?;
        let file: File = toml::from_str(&text)
            .map_err(|source| TokensError::Parse { path: self.0.clone(), source: Box::new(source) })?;
        if file.version != FORMAT_VERSION {
            return Err(TokensError::Version { path: self.0.clone(), found: file.version });
        }
        Ok(Some(file.tokens))
    }

    fn write(&self, tokens: Vec<Token>) -> Result<(), TokensError> {
        let text = toml::to_string(&File { version: FORMAT_VERSION, tokens })
            .map_err(|error| self.failed()(io::Error::other(error)))?;
        write_durably(&self.0, text.as_bytes()).map_err(self.failed())
    }

    /// Makes a token; what is kept of it, and the token itself, which nobody sees again.
    pub fn create(&self, new: NewToken) -> Result<(Token, String), TokensError> {
        let legal = |c: char| !c.is_control();
        if new.subject.is_empty() || new.subject.len() > 128 || !new.subject.chars().all(legal) {
            return Err(TokensError::Invalid("a subject has 1 to 128 bytes and no control characters"));
        }
        if new.subject.starts_with("system:") {
            return Err(TokensError::Invalid("subjects that begin with `system:` are the host's own"));
        }
        let (id, secret) = (random::<8>(), random::<SECRET_BYTES>());
        let ((id, _), (secret, hash)) = (id.map_err(self.failed())?, secret.map_err(self.failed())?);
        let id = id.replace(['-', '_'], "0");
        let now = SystemTime::now();
        let token = Token {
            id: id.clone(),
            tenant: new.tenant,
            subject: new.subject,
            scopes: new.scopes,
            tools: new.tools,
            created: now,
            expires: new.good_for.and_then(|time| now.checked_add(time)),
            hash,
        };
        let _one_at_a_time = lock(&self.0).map_err(self.failed())?;
        let mut tokens = self.read()?.unwrap_or_default();
        tokens.push(token.clone());
        self.write(tokens)?;
        Ok((token, format!("{PREFIX}{id}_{secret}")))
    }

    /// Makes a token useless, and forgets it.
    pub fn revoke(&self, id: &str) -> Result<Token, TokensError> {
        let _one_at_a_time = lock(&self.0).map_err(self.failed())?;
        let mut tokens = self.read()?.unwrap_or_default();
        let at = tokens.iter().position(|token| token.id == id).ok_or_else(|| TokensError::Unknown(id.to_owned()))?;
        let revoked = tokens.remove(at);
        self.write(tokens)?;
        Ok(revoked)
    }

    /// Makes all tokens of a tenant useless; how many there were.
    pub fn revoke_all(&self, tenant: &TenantId) -> Result<usize, TokensError> {
        let _one_at_a_time = lock(&self.0).map_err(self.failed())?;
        let Some(tokens) = self.read()? else { return Ok(0) };
        let before = tokens.len();
        let left: Vec<Token> = tokens.into_iter().filter(|token| token.tenant != *tenant).collect();
        let revoked = before.saturating_sub(left.len());
        self.write(left)?;
        Ok(revoked)
    }
}

/// Random bytes as text, and the hash of that text.
fn random<const N: usize>() -> io::Result<(String, String)> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let hash = hash(&text);
    Ok((text, hash.to_hex().to_string()))
}

fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

/// Why somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// There is no token.
    #[error("a bearer token is needed; the operator makes one with `mcpp token create`")]
    NoToken,
    /// There is something that is no token.
    #[error("the Authorization header is not `Bearer TOKEN`")]
    Malformed,
    /// The token is not known: it never was, or it was revoked.
    #[error("the token is not valid")]
    Unknown,
    /// The token has ended.
    #[error("the token has expired")]
    Expired,
    /// The tokens cannot be read now.
    #[error("tokens cannot be checked now")]
    Unreadable,
}

/// Who is at the door, by token.
#[derive(Debug)]
pub struct Authenticator {
    file: TokenFile,
    known: ArcSwapOption<Result<Vec<Token>, ()>>,
    looked: Mutex<Option<(Instant, Option<Stamp>)>>,
}

/// What changes when a file is written.
type Stamp = (SystemTime, u64, u64);

impl Authenticator {
    /// Knows the tokens in `file`, and sees when they change.
    pub fn new(file: TokenFile) -> Self {
        Self { file, known: ArcSwapOption::empty(), looked: Mutex::new(None) }
    }

    /// Whether a token is needed.
    pub fn is_on(&self) -> bool {
        self.look();
        self.known.load().is_some()
    }

    /// Who has this token; the local user where no token is needed.
    pub fn check(&self, token: Option<&str>) -> Result<Principal, Stranger> {
        self.look();
        let known = self.known.load_full();
        let Some(known) = known else { return Ok(Principal::local_user()) };
        let Ok(known) = &*known else { return Err(Stranger::Unreadable) };
        let token = token.ok_or(Stranger::NoToken)?;
        let (id, secret) = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_')).ok_or(Stranger::Unknown)?;
        let found = known.iter().find(|known| known.id == id).ok_or(Stranger::Unknown)?;
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

    /// Whether the principal could still come in.
    pub fn still_knows(&self, principal: &Principal) -> bool {
        self.look();
        match self.known.load_full().as_deref() {
            None => *principal == Principal::local_user(),
            Some(Err(())) => false,
            Some(Ok(known)) => {
                let now = SystemTime::now();
                known.iter().any(|token| !token.is_expired(now) && token.principal() == *principal)
            }
        }
    }

    /// Reads the file again if it has changed.
    fn look(&self) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.as_ref().is_some_and(|(when, _)| when.elapsed() < LOOK_AGAIN) {
            return;
        }
        let stamp = stamp(&self.file.0);
        if looked.as_ref().is_none_or(|(_, before)| *before != stamp) {
            let read = match self.file.read() {
                Ok(tokens) => tokens.map(|tokens| Arc::new(Ok(tokens))),
                Err(error) => {
                    tracing::error!(error = crate::telemetry::chain(&error), "nobody is let in");
                    Some(Arc::new(Err(())))
                }
            };
            // Once a token was needed it is needed until the host starts anew: a file that vanished lets nobody in.
            let vanished = read.is_none() && self.known.load().is_some();
            self.known.store(if vanished { Some(Arc::new(Ok(Vec::new()))) } else { read });
        }
        *looked = Some((Instant::now(), stamp));
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&meta);
    Some((meta.modified().ok()?, meta.len(), inode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::SCOPE_TOOLS;

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
        let fresh = || Authenticator::new(file.clone());
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
        assert!(door.still_knows(&alice) && !door.still_knows(&Principal::local_user()));
        file.revoke(&kept.id).expect("revoked");
        assert_eq!(fresh().check(Some(&token)), Err(Stranger::Unknown));
        file.revoke_all(&kept.tenant).expect("revoked");
        assert_eq!(fresh().check(None), Err(Stranger::NoToken), "a token is needed once there was one");
        std::fs::write(&path, "version = 1\n[[tokens]]\nid = 'x'\n").expect("written");
        assert_eq!(fresh().check(Some(&token)), Err(Stranger::Unreadable));
        for subject in ["", "system:queue", "a\nb"] {
            assert!(file.create(new(subject, None)).is_err(), "{subject:?}");
        }
    }

    #[test]
    fn a_file_that_vanishes_lets_nobody_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = TokenFile::new(folder.path().join("tokens.toml"));
        file.create(new("alice", None)).expect("made");
        let door = Authenticator::new(file.clone());
        assert_eq!(door.check(None), Err(Stranger::NoToken));
        std::fs::remove_file(&file.0).expect("removed");
        // As if some time had passed.
        if let Some((when, _)) = door.looked.lock().expect("whole").as_mut() {
            *when -= 2 * LOOK_AGAIN;
        }
        assert_eq!(door.check(None), Err(Stranger::NoToken));
    }
}
