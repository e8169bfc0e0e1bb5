//! The door's own work beside requests: it parks and forgets sessions, and ends what those have open who may not come in any more.
//!
//! The second never waits for the first, as sessions may be many. It follows every change of the tokens and of the tenants at once.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval},
};

use super::App;
use crate::{tasks::EntryRight, tenant::Principal};

/// How often the host looks for those whose tokens have expired, and have something open.
const KEEP_OUT_EVERY: Duration = Duration::from_millis(500);

/// Does this work without an end.
pub(super) async fn keep(app: &App) {
    tokio::join!(keep_tidy(app), keep_out(app));
}

/// Parks idle sessions, and forgets what has expired.
async fn keep_tidy(app: &App) {
    let mut tick = interval(app.sessions.tidy_every());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        app.sessions.tidy().await;
        app.endpoint.tasks().tidy().await;
    }
}

/// Ends what those have open who may not come in any more: their token was revoked or has expired, or their tenant is suspended or removed. What brings others something comes
/// first.
async fn keep_out(app: &App) {
    let mut tick = interval(KEEP_OUT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut tokens, mut tenants) = (app.authenticator.changes(), app.endpoint.registry().tenant_changes());
    loop {
        reason_to_look(&mut tick, &mut tokens, &mut tenants).await;
        let comes_in = |principal: &Principal| {
            app.authenticator.still_knows(principal) && app.endpoint.registry().share(&principal.tenant).is_some()
        };
        for principal in app.open.principals().iter().filter(|principal| !comes_in(principal)) {
            app.open.end(principal);
        }
        app.endpoint.tasks().stop_unless(EntryRight::Token, comes_in);
        app.endpoint.parked().stop_unless(EntryRight::Token, comes_in);
        for principal in app.sessions.principals().iter().filter(|principal| !comes_in(principal)) {
            app.sessions.end_all(principal).await;
        }
    }
}

/// Returns when the tokens or the tenants have changed, or when it is time for a look.
async fn reason_to_look(tick: &mut Interval, tokens: &mut watch::Receiver<()>, tenants: &mut watch::Receiver<u64>) {
    tokio::select! {
        biased;
        Ok(()) = tokens.changed() => {}
        Ok(()) = tenants.changed() => {}
        _ = tick.tick() => {}
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_loses_the_right_to_come_in_is_looked_for_at_once() {
        let ((change_tokens, mut tokens), (change_tenants, mut tenants)) = (watch::channel(()), watch::channel(0));
        // No tick but the first comes within the test.
        let mut tick = interval(Duration::from_secs(3_600));
        tick.tick().await;
        let mut is_time = || reason_to_look(&mut tick, &mut tokens, &mut tenants).now_or_never().is_some();
        assert!(!is_time(), "nothing has changed");
        change_tokens.send_replace(());
        assert!(is_time() && !is_time(), "a token was revoked");
        change_tenants.send_replace(1);
        assert!(is_time() && !is_time(), "a tenant was suspended");
        drop((change_tokens, change_tenants));
        assert!(!is_time(), "the host is ending");
    }
}
