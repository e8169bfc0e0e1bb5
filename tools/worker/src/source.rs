//! Requests to a queue: this host's own, or a peer's.

use std::time::Duration;

#[cfg(not(test))]
use mcpp_tool::rights::{LimitedError, Limits};
use mcpp_tool::{
    environment::id as new_id,
    mesh,
    store::{StoreError, transact},
};
use serde_json::{Value, json};

use crate::{
    held::NAME,
    service::{QUEUE, Service},
};

/// Time of a request that does not wait.
pub const SHORT: Duration = Duration::from_secs(5);

/// Why a queue did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// It answered that it will not, with this word.
    Refused(String),
    /// It was not asked, or nobody knows whether it has heard; why.
    Away(String),
}

impl Unanswered {
    /// The reason.
    pub fn reason(&self) -> &str {
        let (Self::Refused(reason) | Self::Away(reason)) = self;
        reason
    }
}

/// The name under which a service claims: another one on each host.
///
/// # Errors
/// See [`StoreError`].
pub fn worker_name(service: &str) -> Result<String, StoreError> {
    let mesh_name = mesh::identify().ok().map(|host| host.id);
    let host = match mesh_name {
        Some(name) => name,
        None => transact(|t| match NAME.get(t, &())? {
            Some(name) => Ok(name),
            None => {
                let name = new_id();
                NAME.set(t, &(), &name)?;
                Ok::<_, StoreError>(name)
            }
        })?,
    };
    Ok(format!("mcpp/{host}/{service}"))
}

/// Asks the queue that a service serves, within the rights of the caller that set it up.
///
/// # Errors
/// See [`Unanswered`].
pub fn ask(service: &Service, request: &Value, time: Duration) -> Result<Value, Unanswered> {
    let answer = match &service.peer {
        Some(peer) => mesh::call_within(peer, QUEUE, request, time).map_err(|error| error.to_string()),
        None => own(service, request, time),
    };
    let reply = answer.map_err(Unanswered::Away)?.structured.unwrap_or_default();
    if reply.get("ok") == Some(&json!(true)) {
        return Ok(reply);
    }
    let word = |name: &str| reply.get(name).and_then(Value::as_str).unwrap_or_default();
    match word("error") {
        "" => Err(Unanswered::Away("the queue's answer is none".to_owned())),
        // The queue could not do it, or does not listen to this host now. That may pass, and says nothing of a task.
        error @ ("internal_error" | "unauthorized" | "timeout" | "busy" | "unreachable" | "interrupted") => {
            Err(Unanswered::Away(format!("{error}: {}", word("detail"))))
        }
        error => Err(Unanswered::Refused(error.to_owned())),
    }
}

#[cfg(not(test))]
fn own(service: &Service, request: &Value, time: Duration) -> Result<mcpp_tool::Output, String> {
    // What waits for work does not hold up a host that stops.
    let limits = Limits { host_stops: time > SHORT, entry: None };
    service.rights.call_until(&limits, QUEUE, request, Some(time)).map_err(|error| match error {
        LimitedError::Other(error) => error.to_string(),
        LimitedError::Changed | LimitedError::HostStops => "this host stops".to_owned(),
    })
}

#[cfg(test)]
fn own(service: &Service, request: &Value, _time: Duration) -> Result<mcpp_tool::Output, String> {
    assert!(service.rights.allow(QUEUE));
    crate::tests::queue(request)
}
