//! Authenticates clients at the HTTP door.
//!
//! A door hands over the credential that a request shows, and gets a [`Principal`]. Bearer tokens are the only kind of credential: [`tokens`] keeps them in a file, [`known`] knows them in memory.

pub mod known;
pub mod tokens;

use std::sync::Arc;

use tokio::sync::watch;

use self::known::KnownTokens;
use crate::tenant::Principal;

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

/// Authenticates clients by what they show.
#[derive(Debug)]
pub struct Authenticator {
    tokens: Arc<KnownTokens>,
}

impl Authenticator {
    /// Knows these tokens.
    pub fn new(tokens: Arc<KnownTokens>) -> Self {
        Self { tokens }
    }

    /// Whether a client has to show anything.
    pub fn is_on(&self) -> bool {
        self.tokens.are_needed()
    }

    /// The principal that shows this token; the local user where the host needs no token.
    pub fn check(&self, token: Option<&str>) -> Result<Principal, Stranger> {
        self.tokens.check_readable()?;
        if !self.is_on() {
            return Ok(Principal::local_user());
        }
        self.tokens.find(token.ok_or(Stranger::NoToken)?)
    }

    /// Looks for changes of the tokens now. What changed is in force when it returns. Blocks.
    pub fn look(&self) {
        self.tokens.look();
    }

    /// Reports each change of the tokens.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.tokens.changes()
    }

    /// Whether the principal could still come in. It takes no longer with many tokens than with few.
    pub fn still_knows(&self, principal: &Principal) -> bool {
        self.tokens.check_readable().is_ok()
            && if self.is_on() { self.tokens.has_token(principal) } else { *principal == Principal::local_user() }
    }
}
