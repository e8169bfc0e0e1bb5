//! The ids of the requests that one client has in flight. An id names one request at a time: a second request under it is refused, and the first keeps its answer.

use std::{
    any::Any,
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rmcp::model::{JsonRpcMessage, RequestId, ServerJsonRpcMessage};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// Requests that one session, or one client on standard input, may have in flight. Each keeps an id here; more than a host can run are a fault of the client.
const MAX_IN_FLIGHT: usize = 1_024;

/// Ids may be as long as a message, so that only their hashes are kept.
type IdHash = blake3::Hash;

/// What a request takes of its client's share of a door, given back when the turn of its answer comes: a client that has read the answer finds the place free.
#[must_use = "dropping it gives it back"]
pub(super) struct Held(#[expect(dead_code, reason = "kept for its drop")] Option<Box<dyn Any + Send + Sync>>);

impl Held {
    /// Nothing: the door has one client.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// Keeps `held`.
    pub(super) fn of(held: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(held)))
    }
}

/// The ids that are taken. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<Claims>>);

#[derive(Debug, Default)]
struct Claims {
    by_id: HashMap<IdHash, Claim>,
    next: u64,
}

struct Claim {
    number: u64,
    /// The token that stops the request, where the client's cancellation does not reach it through the protocol engine.
    cancel: Option<CancellationToken>,
    held: Held,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claim").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Why an id is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("a request with this id is in flight already; an id names one request at a time")]
    Duplicate,
    #[error("{MAX_IN_FLIGHT} requests are in flight already")]
    TooMany,
}

impl InFlight {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `id` for a request, until the claim is released or its last clone is dropped.
    pub(super) fn claim(&self, id: &Value) -> Result<IdClaim, ClaimError> {
        let id = id_hash(id);
        let mut claims = self.claims();
        if claims.by_id.contains_key(&id) {
            return Err(ClaimError::Duplicate);
        }
        if claims.by_id.len() >= MAX_IN_FLIGHT {
            return Err(ClaimError::TooMany);
        }
        let number = claims.next;
        claims.next = claims.next.wrapping_add(1);
        claims.by_id.insert(id, Claim { number, cancel: None, held: Held::nothing() });
        Ok(IdClaim(Arc::new(Claimed { in_flight: self.clone(), id, number })))
    }

    /// Whether no id is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.claims().by_id.is_empty()
    }

    /// Stops the request that has `id`, if it can be stopped here.
    pub(super) fn cancel(&self, id: &Value) {
        if let Some(Claim { cancel: Some(cancel), .. }) = self.claims().by_id.get(&id_hash(id)) {
            cancel.cancel();
        }
    }

    /// Gives an id free whose answer goes out; what its request held is the answer's.
    pub(super) fn release(&self, id: &Value) -> Held {
        self.claims().release(&id_hash(id))
    }
}

impl Claims {
    fn release(&mut self, id: &IdHash) -> Held {
        self.by_id.remove(id).map_or_else(Held::nothing, |claim| claim.held)
    }
}

/// The request that a message answers.
pub(super) fn answered(message: &ServerJsonRpcMessage) -> Option<&RequestId> {
    match message {
        JsonRpcMessage::Response(response) => Some(&response.id),
        JsonRpcMessage::Error(error) => error.id.as_ref(),
        JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
    }
}

/// As JSON text, in which `1` and `"1"` differ.
fn id_hash(id: &Value) -> IdHash {
    blake3::hash(id.to_string().as_bytes())
}

/// A request's right to its id.
#[derive(Debug, Clone)]
pub(super) struct IdClaim(Arc<Claimed>);

#[derive(Debug)]
struct Claimed {
    in_flight: InFlight,
    id: IdHash,
    number: u64,
}

impl IdClaim {
    /// Notes what stops the request.
    pub(super) fn is_stopped_by(&self, token: &CancellationToken) {
        if let Some(claim) = self.0.own(&mut self.0.in_flight.claims()) {
            claim.cancel = Some(token.clone());
        }
    }

    /// Keeps what the request takes of a share, until the id is free.
    pub(super) fn keep(&self, held: Held) {
        if let Some(claim) = self.0.own(&mut self.0.in_flight.claims()) {
            claim.held = held;
        }
    }

    /// Gives the id free before the answer goes out: the client may use it again as soon as it has read the answer. What the request held is the answer's.
    pub(super) fn release(&self) -> Held {
        self.0.release()
    }
}

impl Claimed {
    /// A later request may have the id by now.
    fn own<'a>(&self, claims: &'a mut Claims) -> Option<&'a mut Claim> {
        claims.by_id.get_mut(&self.id).filter(|claim| claim.number == self.number)
    }

    fn release(&self) -> Held {
        let mut claims = self.in_flight.claims();
        match self.own(&mut claims) {
            Some(_) => claims.release(&self.id),
            None => Held::nothing(),
        }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        drop(self.release());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_names_one_request_at_a_time() {
        let in_flight = InFlight::default();
        let first = in_flight.claim(&json!(1)).expect("free");
        assert_eq!(in_flight.claim(&json!(1)).expect_err("taken"), ClaimError::Duplicate);
        let other = in_flight.claim(&json!("1")).expect("another id");
        drop(first.release());
        let second = in_flight.claim(&json!(1)).expect("free again");
        drop((first, other));
        assert_eq!(in_flight.claim(&json!(1)).expect_err("the second's"), ClaimError::Duplicate);
        let clone = second.clone();
        drop(second);
        assert!(in_flight.claim(&json!(1)).is_err(), "a clone is left");
        drop(clone);
        assert!(in_flight.claim(&json!(1)).is_ok());
    }

    #[test]
    fn requests_in_flight_have_a_bound() {
        let in_flight = InFlight::default();
        let claims: Vec<_> = (0..MAX_IN_FLIGHT).map(|id| in_flight.claim(&json!(id)).expect("room")).collect();
        assert_eq!(in_flight.claim(&json!("one more")).expect_err("full"), ClaimError::TooMany);
        drop(claims);
        assert!(in_flight.claim(&json!("one more")).is_ok());
    }
}
