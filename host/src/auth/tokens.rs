//! Bearer tokens in their file: made, listed and revoked.
//!
//! A token is shown once, when it is made; the host keeps a hash of it. While no token was ever made, whoever reaches the door is the local user, and
//! the door opens on loopback only. From the first token on, a token is needed, also when all of them have expired or were revoked.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{
    files::{lock, write_durably},
    names::{TenantId, ToolPattern},
    tenant::{Incarnation, Principal, home::Homes},
};

/// The version of the file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
/// A larger file is refused: it is parsed as a whole whenever a token is made or revoked.
pub const MAX_FILE_BYTES: u64 = 8 << 20;
/// Tokens of one host, those that have expired included.
pub const MAX_TOKENS: usize = 20_000;
/// How every token begins, so that scanners find one that leaked.
pub(super) const PREFIX: &str = "mcpp_";
const SECRET_BYTES: usize = 32;

/// One token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The token's name; no secret.
    pub id: String,
    /// The tenant that the token belongs to.
    pub tenant: TenantId,
    /// Which of the tenants that ever had that name.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    pub incarnation: Incarnation,
    /// The principal that holds the token.
    pub subject: String,
    /// The scopes of the token's holder.
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
    pub(super) hash: String,
}

impl Token {
    /// Whether it has ended.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    pub(super) fn principal(&self) -> Principal {
        Principal {
            tenant: self.tenant.clone(),
            incarnation: self.incarnation.clone(),
            subject: self.subject.as_str().into(),
            scopes: Arc::new(self.scopes.clone()),
            tools: (!self.tools.is_empty()).then(|| self.tools.clone().into()),
        }
    }
}

/// A request for a new token.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The tenant that the token belongs to.
    pub tenant: TenantId,
    /// The principal that gets the token.
    pub subject: String,
    /// The scopes of the token's holder.
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
    /// There are as many tokens as there may be.
    #[error(
        "there are {MAX_TOKENS} tokens, or {MAX_FILE_BYTES} bytes of them, those that have expired included; revoke some with `mcpp token revoke`"
    )]
    TooMany,
    /// The request for a token is not legal.
    #[error("{0}")]
    Invalid(&'static str),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenTable {
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

    /// Where they are.
    pub fn path(&self) -> &Path {
        &self.0
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
        let mut text = String::new();
        let file = std::fs::File::open(&self.0).map_err(self.failed())?;
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_string(&mut text).map_err(self.failed())?;
        if !fits(&text) {
            return Err(TokensError::TooMany);
        }
        let file: TokenTable = toml::from_str(&text)
            .map_err(|source| TokensError::Parse { path: self.0.clone(), source: Box::new(source) })?;
        if file.version != FORMAT_VERSION {
            return Err(TokensError::Version { path: self.0.clone(), found: file.version });
        }
        if file.tokens.len() > MAX_TOKENS {
            return Err(TokensError::TooMany);
        }
        Ok(Some(file.tokens))
    }

    fn write(&self, tokens: Vec<Token>) -> Result<(), TokensError> {
        let text = toml::to_string(&TokenTable { version: FORMAT_VERSION, tokens })
            .map_err(|error| self.failed()(io::Error::other(error)))?;
        if !fits(&text) {
            return Err(TokensError::TooMany);
        }
        write_durably(&self.0, text.as_bytes()).map_err(self.failed())
    }

    /// Makes a token. Gives its record, and the token itself, which the host never shows again.
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
            incarnation: self.incarnation(&new.tenant),
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
        if tokens.len() >= MAX_TOKENS {
            return Err(TokensError::TooMany);
        }
        tokens.push(token.clone());
        self.write(tokens)?;
        Ok((token, format!("{PREFIX}{id}_{secret}")))
    }

    /// Which tenant of that name there is now. The file lies in the data directory, where tenants' settings are.
    fn incarnation(&self, tenant: &TenantId) -> Incarnation {
        let homes = Homes::new(self.0.parent().map(Path::to_owned).unwrap_or_default());
        homes.find(tenant).and_then(|home| home.settings()).map(|settings| settings.incarnation).unwrap_or_default()
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

fn fits(text: &str) -> bool {
    u64::try_from(text.len()).is_ok_and(|bytes| bytes <= MAX_FILE_BYTES)
}

/// Random bytes as text, and the hash of that text.
fn random<const N: usize>() -> io::Result<(String, String)> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text = BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let hash = hash(&text);
    Ok((text, hash.to_hex().to_string()))
}

pub(super) fn hash(secret: &str) -> blake3::Hash {
    blake3::hash(secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::SCOPE_TOOLS;

    fn new(subject: &str) -> NewToken {
        NewToken {
            tenant: TenantId::new("team").expect("legal"),
            subject: subject.to_owned(),
            scopes: BTreeSet::from([SCOPE_TOOLS.to_owned()]),
            tools: Vec::new(),
            good_for: None,
        }
    }

    #[test]
    fn subjects_are_checked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = TokenFile::new(folder.path().join("tokens.toml"));
        for subject in ["", "system:queue", "a\nb"] {
            assert!(file.create(new(subject)).is_err(), "{subject:?}");
        }
    }

    #[test]
    fn tokens_are_bounded_in_number_and_in_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = TokenFile::new(folder.path().join("tokens.toml"));
        let (kept, _) = file.create(new("alice")).expect("made");
        let numbered = |number: usize| Token { id: format!("t{number}"), ..kept.clone() };
        file.write((1..MAX_TOKENS).map(numbered).collect()).expect("one less than there may be");
        let (last, _) = file.create(new("alice")).expect("made");
        assert_eq!(file.read().expect("read").expect("some").len(), MAX_TOKENS);
        assert!(matches!(file.create(new("alice")), Err(TokensError::TooMany)));
        file.revoke(&last.id).expect("there is room to revoke when there is none to make");
        file.create(new("alice")).expect("made");
        file.write((0..=MAX_TOKENS).map(numbered).collect()).expect("written by another hand");
        assert!(matches!(file.read(), Err(TokensError::TooMany)));
        let large = Token { tools: vec!["t*".parse().expect("a pattern"); 2 << 20], ..kept };
        assert!(matches!(file.write(vec![large]), Err(TokensError::TooMany)));
        std::fs::write(&file.0, vec![b'#'; 1 + usize::try_from(MAX_FILE_BYTES).expect("fits")]).expect("written");
        assert!(matches!(file.read(), Err(TokensError::TooMany)));
    }
}
