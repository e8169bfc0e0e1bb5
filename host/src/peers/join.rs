//! Redeeming a ticket over the mesh: one frame there and one back, on a protocol of its own, so that a peer without a grant reaches nothing else.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{
    invitation::{MAX_PATTERNS, TicketRefusal},
    known::KnownPeers,
    ticket::{JoinTicket, TicketSecret},
};
use crate::{
    mesh::{
        PeerId,
        frame::{self, Announced, FrameError},
    },
    names::ToolPattern,
};

/// The protocol by which a ticket is redeemed.
pub const PROTOCOL: &str = "/mcpp/join/1.0.0";
/// The largest frame of it, in bytes: the longest patterns that a ticket can name, and what is around them.
const MAX_FRAME_BYTES: usize = 32 << 10;
/// Time for the whole exchange.
pub const JOIN_TIME: Duration = Duration::from_secs(10);

/// What a host asks that joins.
#[derive(Debug, Serialize, Deserialize)]
struct JoinRequest {
    invitation: String,
    secret: TicketSecret,
    tools: Vec<ToolPattern>,
}

/// What the inviting host answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum JoinAnswer {
    Granted(Allowed),
    Refused { error: TicketRefusal, message: String },
}

/// What the inviting host allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The tools.
    pub tools: Vec<ToolPattern>,
    /// The components of which this host may fetch the builds.
    #[serde(default)]
    pub components: Vec<ToolPattern>,
    /// Requests in a minute.
    #[serde(default)]
    pub calls_per_minute: Option<u64>,
    /// When it ends.
    #[serde(default, with = "humantime_serde::option")]
    pub expires: Option<SystemTime>,
}

/// Why this host did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The other host refuses the ticket.
    #[error("the host refuses the ticket ({name}): {message}", name = name(.error))]
    Refused {
        /// Why.
        error: TicketRefusal,
        /// In that host's words.
        message: String,
    },
    /// The conversation broke.
    #[error("the host did not answer the ticket")]
    Frame(#[from] FrameError),
    /// The answer is none.
    #[error("the host's answer to the ticket is not valid")]
    Answer(#[from] serde_json::Error),
    /// It took too long.
    #[error("the host did not answer the ticket within {} s", JOIN_TIME.as_secs())]
    Timeout,
}

/// The name of a refusal, as programs read it.
fn name(refusal: &TicketRefusal) -> String {
    serde_json::to_value(refusal).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

/// Answers a peer that redeems a ticket.
pub async fn serve(peers: &Arc<KnownPeers>, peer: PeerId, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let answering = async {
        let Some(asked) = read(&mut stream).await? else { return Ok(()) };
        let (peers, redeemer) = (Arc::clone(peers), peer.clone());
        // The file is locked, read and written: not on this thread.
        let redeemed = tokio::task::spawn_blocking(move || redeem(&peers, &redeemer, &asked)).await;
        let answer = redeemed.unwrap_or(Err(TicketRefusal::Unavailable));
        match &answer {
            Ok(_) => tracing::info!(%peer, "a peer has joined"),
            // The log has the attempts before.
            Err(TicketRefusal::TooManyAttempts) => tracing::debug!(%peer, "a ticket was refused unread"),
            Err(refusal) => tracing::warn!(%peer, error = name(refusal), "a ticket was refused"),
        }
        let answer = match answer {
            Ok(allowed) => JoinAnswer::Granted(allowed),
            Err(error) => JoinAnswer::Refused { error, message: error.to_string() },
        };
        let answer = serde_json::to_vec(&answer).map_err(std::io::Error::other)?;
        frame::write(&mut stream, &answer).await?;
        stream.shutdown().await?;
        Ok::<_, FrameError>(())
    };
    match tokio::time::timeout(JOIN_TIME, answering).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a ticket could not be read or answered"),
        Err(_) => tracing::debug!(%peer, "a ticket came too slowly"),
    }
}

fn redeem(peers: &KnownPeers, peer: &PeerId, asked: &[u8]) -> Result<Allowed, TicketRefusal> {
    let read = || {
        let asked: JoinRequest = serde_json::from_slice(asked).map_err(|_| TicketRefusal::Unknown)?;
        if asked.tools.len() > MAX_PATTERNS {
            return Err(TicketRefusal::OtherTools);
        }
        Ok((asked.invitation, asked.secret, asked.tools))
    };
    let grant = peers.redeem(peer, read)?;
    Ok(Allowed {
        tools: grant.tools,
        components: grant.components,
        calls_per_minute: grant.calls_per_minute,
        expires: grant.expires,
    })
}

/// Redeems `ticket` at the host at the other end of `stream`.
pub async fn ask(ticket: &JoinTicket, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<Allowed, JoinError> {
    let request = JoinRequest {
        invitation: ticket.invitation.clone(),
        secret: ticket.secret.clone(),
        tools: ticket.tools.clone(),
    };
    let asking = async {
        frame::write(&mut stream, &serde_json::to_vec(&request)?).await.map_err(FrameError::from)?;
        stream.flush().await.map_err(FrameError::from)?;
        let answer = read(&mut stream).await?.ok_or(FrameError::IncompletePrefix)?;
        match serde_json::from_slice(&answer)? {
            JoinAnswer::Granted(allowed) => Ok(allowed),
            JoinAnswer::Refused { error, message } => {
                Err(JoinError::Refused { error, message: message.chars().take(200).collect() })
            }
        }
    };
    tokio::time::timeout(JOIN_TIME, asking).await.unwrap_or(Err(JoinError::Timeout))
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Vec<u8>>, FrameError> {
    match frame::announced(stream, MAX_FRAME_BYTES).await? {
        Announced::End => Ok(None),
        Announced::Bytes(bytes) => {
            let mut body = Vec::new();
            frame::body(stream, bytes, &mut body).await?;
            Ok(Some(body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        names::TenantId,
        peers::{file::PeerFile, invitation::NewInvitation},
        tenant::home::Homes,
    };

    #[tokio::test]
    async fn a_ticket_is_redeemed_over_a_stream_and_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let peers = Arc::new(KnownPeers::new(PeerFile::new(&Homes::new(folder.path().to_owned()))));
        let host: PeerId = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer");
        let guest: PeerId = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Yo".parse().expect("a peer");
        let new = NewInvitation {
            tenant: TenantId::local(),
            tools: vec!["text_*".parse().expect("a pattern")],
            components: Vec::new(),
            calls_per_minute: Some(60),
            only: None,
            good_for: Duration::from_secs(60),
            grant_for: None,
            uses: 1,
        };
        let (invitation, secret) = peers.invite(new).expect("made");
        let ticket = JoinTicket::new(host, Vec::new(), invitation.id, secret, invitation.tools, invitation.expires);
        let redeem = async |who: &PeerId| {
            let (here, there) = tokio::io::duplex(1 << 10);
            tokio::join!(ask(&ticket, here), serve(&peers, who.clone(), there)).0
        };
        let allowed = redeem(&guest).await.expect("granted");
        assert_eq!((allowed.calls_per_minute, allowed.tools), (Some(60), ticket.tools.clone()));
        assert!(peers.grant(&guest).is_ok());
        let refused = redeem(&ticket.peer).await.expect_err("used up");
        assert!(refused.to_string().starts_with("the host refuses the ticket (used_up): "), "{refused}");
    }
}
