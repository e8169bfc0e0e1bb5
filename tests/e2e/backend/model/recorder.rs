//! Notes deliveries, and checks whether they are the right ones.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};

use futures::future::BoxFuture;
use mcpp::{
    events::{
        Deliver, DeliveryError,
        record::{Delivery, Kind},
    },
    names::{ComponentName, TenantId},
};
use proptest::prelude::*;
use tokio::task::JoinHandle;

use super::Model;

/// Notes what is delivered; refuses every seventh delivery once, so that some are repeated.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) delivered: Mutex<Vec<(Kind, String, String)>>,
    refused: Mutex<BTreeSet<String>>,
}

impl Deliver for Recorder {
    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()> {
        tokio::spawn(work)
    }

    fn turn<'a>(&'a self, _: &'a TenantId) -> BoxFuture<'a, Box<dyn Any + Send>> {
        Box::pin(async { Box::new(()) as Box<dyn Any + Send> })
    }

    fn note_used(&self, _: &TenantId, _: Duration) {}

    fn has_handler(&self, _: &TenantId, _: &ComponentName) -> bool {
        true
    }

    fn deliver<'a>(
        &'a self,
        _: &'a TenantId,
        _: &'a ComponentName,
        delivery: &'a Delivery,
    ) -> BoxFuture<'a, Result<(), DeliveryError>> {
        let payload = String::from_utf8_lossy(&delivery.payload).into_owned();
        let seventh = payload.bytes().map(usize::from).sum::<usize>() % 7 == 0;
        let outcome = if seventh && self.refused.lock().expect("no panic").insert(payload.clone()) {
            Err(DeliveryError::Failed("on purpose".into()))
        } else {
            self.delivered.lock().expect("no panic").push((delivery.kind.clone(), delivery.key.clone(), payload));
            Ok(())
        };
        Box::pin(std::future::ready(outcome))
    }
}

pub(super) fn check_deliveries(model: &Model, recorder: &Recorder) -> Result<(), TestCaseError> {
    let delivered = recorder.delivered.lock().expect("no panic");
    let mut first: BTreeMap<&String, Vec<String>> = BTreeMap::new();
    let mut timers = BTreeSet::new();
    for (kind, key, payload) in delivered.iter() {
        if *kind == Kind::Timer {
            prop_assert!(model.ever.contains(payload), "timers: {payload} was never set");
            timers.insert(payload.clone());
        } else if !first.entry(key).or_default().contains(payload) {
            first.entry(key).or_default().push(payload.clone());
        }
    }
    for (key, events) in &model.events {
        prop_assert_eq!(first.remove(key).unwrap_or_default(), events.clone(), "delivered, ordered: key {}", key);
    }
    prop_assert!(first.is_empty(), "delivered: never committed: {:?}", first);
    for (key, payload) in &model.timers {
        prop_assert!(timers.contains(payload), "timers: {} of {} is lost", payload, key);
    }
    Ok(())
}
