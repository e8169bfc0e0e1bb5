//! An operator's hands on the tenant's data: parked deliveries, and copies of a live store.

use std::{convert::Infallible, path::PathBuf, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

use super::{Of, Operated, answer};
use crate::{
    events::parked::{self, Verdict},
    store::StoreError,
};

/// Most deliveries shown of each kind and space.
const MAX_SHOWN: usize = 100;

pub(super) async fn list_events(State(shared): State<Arc<Operated>>, Query(of): Query<Of>) -> Response {
    answer(parked::list(&*shared.store, &of.tenant, MAX_SHOWN).await)
}

/// A verdict on parked deliveries.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    /// Id of the delivery; all if none is named.
    pub id: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
}

pub(super) async fn settle_events(
    State(shared): State<Arc<Operated>>,
    Query(of): Query<Of>,
    Json(settle): Json<Settle>,
) -> Response {
    answer(parked::settle(&*shared.store, &of.tenant, settle.id.as_deref(), settle.verdict).await)
}

/// Where to copy the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The file to make; an absolute path.
    pub target: PathBuf,
}

/// How far a backup is. The answer to a backup is one of these a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStep {
    /// Entries copied so far.
    Copied(u64),
    /// All are copied, and how many.
    Done(u64),
    /// It failed; why.
    Failed(String),
}

pub(super) async fn backup(
    State(shared): State<Arc<Operated>>,
    Query(of): Query<Of>,
    Json(Backup { target }): Json<Backup>,
) -> Response {
    let (copied, steps) = watch::channel(0);
    let store = Arc::clone(&shared.store);
    let copying = tokio::spawn(async move {
        store.backup(&of.tenant, &target, Box::new(move |entries| copied.send_modify(|so_far| *so_far = entries))).await
    });
    Body::from_stream(lines(steps, copying)).into_response()
}

fn lines(
    steps: watch::Receiver<u64>,
    copying: JoinHandle<Result<u64, StoreError>>,
) -> impl Stream<Item = Result<String, Infallible>> {
    stream::unfold(Some((steps, copying)), |state| async move {
        let (mut steps, copying) = state?;
        let (step, rest) = if steps.changed().await.is_ok() {
            let copied = *steps.borrow_and_update();
            (BackupStep::Copied(copied), Some((steps, copying)))
        } else {
            let step = match copying.await {
                Ok(Ok(copied)) => BackupStep::Done(copied),
                Ok(Err(error)) => BackupStep::Failed(crate::error::chain(&error)),
                Err(error) => BackupStep::Failed(error.to_string()),
            };
            (step, None)
        };
        let line = serde_json::to_string(&step).unwrap_or_default();
        Some((Ok(format!("{line}\n")), rest))
    })
}
