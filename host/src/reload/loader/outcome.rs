//! Notes the outcome of a load: in the catalog, in the log, for `mcpp learn`.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{LoadOutcome, Loader};
use crate::{
    capability::{Refused, missing_lines},
    grants::ledger::Witness,
    guest::component::ComponentError,
    names::ComponentName,
    registry::catalog::{LoadTimes, Problem},
    reload::{error::LoadError, source::Source},
};

impl Loader {
    /// Notes that a component is not live, and why.
    pub(in crate::reload) fn fail(&self, source: &Source, error: &LoadError, started: Instant) -> LoadOutcome {
        if self.closing.is_cancelled() {
            return LoadOutcome::Failed(error.to_string());
        }
        let component = source.component();
        self.note_refusal(&component, error);
        self.revoke(&component);
        let error = crate::error::chain(error);
        let (origin, since) = (source.origin(), SystemTime::now());
        let problem = Problem { component, origin, error: error.clone(), since };
        if let Err(stopping) = self.registry.report(&self.config.tenant, problem) {
            tracing::warn!(%stopping, "a problem could not be noted");
        }
        self.note(source, LoadOutcome::Failed(error), started)
    }

    pub(super) fn note(&self, source: &Source, outcome: LoadOutcome, started: Instant) -> LoadOutcome {
        let (tenant, component) = (&self.config.tenant, source.component());
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let name = match &outcome {
            LoadOutcome::Loaded(times) => {
                if let Some(live) = self.registry.catalog(tenant).component(&component) {
                    let _set_once_for_each = live.times.set(*times);
                }
                let LoadTimes { compile, cached, list, swap } = times;
                let (compile_ms, list_ms, swap_ms) = (millis(*compile), millis(*list), millis(*swap));
                tracing::info!(component, took_ms, compile_ms, cached, list_ms, swap_ms, "loaded");
                "loaded"
            }
            LoadOutcome::Removed => {
                tracing::info!(component, "removed");
                "removed"
            }
            LoadOutcome::Unchanged => return outcome,
            LoadOutcome::Failed(error) => {
                let serving = self.registry.catalog(tenant).component(&component).is_some();
                tracing::error!(component, error, old_build_serves = serving, "not loaded");
                "failed"
            }
        };
        metrics::counter!("mcpp_swaps_total", "tenant" => tenant.to_string(), "outcome" => name).increment(1);
        outcome
    }

    /// Keeps what would have to be granted, for `mcpp learn`.
    fn note_refusal(&self, component: &str, error: &LoadError) {
        if let (LoadError::Component(ComponentError::Refused(Refused::NotGranted { missing, .. })), Ok(name)) =
            (error, ComponentName::new(component))
        {
            let witness = self.witness(name);
            for line in missing_lines(missing) {
                witness.denied(Some(line.to_owned()), error.to_string());
            }
        }
    }

    pub(super) fn witness(&self, component: ComponentName) -> Witness {
        Witness::new(Arc::clone(self.registry.ledger()), self.config.tenant.clone(), component, "load".into())
    }

    /// Takes a component away whose live build was admitted under a grant that is not in force any more: it must not serve on with what was taken from it.
    fn revoke(&self, component: &str) {
        let tenant = &self.config.tenant;
        let Ok(granted) = self.grant(component) else { return };
        let stale = self.registry.catalog(tenant).component(component).is_some_and(|live| live.grant != granted);
        if stale {
            self.take_away(component);
        }
    }
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
