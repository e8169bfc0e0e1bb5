//! Bringing a revision up on its component's data: at once if the data has its format; after a migration if it is older; not at all if it is newer.
//!
//! The format is noted in the space itself, and with it, while a migration of several steps is under way, where it goes on. A crash in the midst of it is
//! therefore resumed by the next start with the same build. A migration ends: after a time, after many steps, or when its cursor comes back to where it was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::loader::Loader;
use crate::{
    capability::store::MAX_MIGRATION_STEP,
    events::record::{decode, encode},
    names::TenantId,
    registry::{Registry, catalog::Revision, error::InstallError},
    reload::error::LoadError,
    store::{Bounds, Section, Space, StoreError},
};

/// The note in a space that has its data's format.
const NOTE: &[u8] = b"format";
/// How long running calls of the build before may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long a migration may go on. Calls of its component wait meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct MigrationLimits {
    /// Most steps.
    pub steps: u32,
    /// Most time.
    pub time: Duration,
}

/// The note on the format of a space's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DataFormat {
    format: u32,
    /// A migration that has begun: part of the data has the new format already.
    migrating: Option<Under>,
}

/// A migration under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Under {
    to: u32,
    cursor: Option<Vec<u8>>,
}

/// The steps before a build may serve.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    /// The space is empty: whatever the build writes has its format.
    Note,
    Migrate {
        from: u32,
        cursor: Option<Vec<u8>>,
    },
}

/// Decides, from what is noted, whether there is data, and what the build reads and writes.
fn plan(noted: Option<DataFormat>, has_data: bool, build: u32) -> Result<Plan, LoadError> {
    let DataFormat { format: data, migrating } = match noted {
        Some(noted) => noted,
        None if has_data => DataFormat::default(),
        None => return Ok(if build == 0 { Plan::Nothing } else { Plan::Note }),
    };
    match migrating {
        Some(Under { to, cursor }) if to == build => Ok(Plan::Migrate { from: data, cursor }),
        Some(Under { to, .. }) => Err(LoadError::MigrationUnderWay { from: data, to, build }),
        None if data > build => Err(LoadError::Downgrade { data, build }),
        None if data < build => Ok(Plan::Migrate { from: data, cursor: None }),
        None => Ok(Plan::Nothing),
    }
}

/// Makes `revision` the live one, on data of its format.
pub(super) async fn bring_up(
    loader: &Loader,
    tenant: &TenantId,
    revision: Revision,
    limits: MigrationLimits,
) -> Result<(), LoadError> {
    let registry = loader.registry();
    let name = revision.name.clone();
    let space = Space { tenant: tenant.clone(), component: name.clone() };
    let topics = revision.topics.clone();
    let store = Arc::clone(registry.store());
    let plan = if revision.powers.quota_bytes.is_some() {
        let snapshot = store.snapshot(&space).await?;
        let noted = snapshot.get(&Section::Notes.key(NOTE)).await?;
        let noted = noted.map(|entry| decode::<DataFormat>(&entry.value)).transpose()?;
        let first = snapshot.scan(&Section::Data.prefix(b""), crate::store::Scan::first(1)).await?;
        plan(noted, !first.entries.is_empty(), revision.format())?
    } else {
        Plan::Nothing
    };
    match plan {
        Plan::Nothing => loader.install(revision)?,
        Plan::Note => {
            note(registry, &space, DataFormat { format: revision.format(), migrating: None }).await?;
            loader.install(revision)?;
        }
        Plan::Migrate { from, cursor } => swap(loader, &space, revision, from, cursor, limits).await?,
    }
    if loader.closing().is_cancelled() {
        return Err(LoadError::Cancelled);
    }
    registry.subscriptions().set(&*store, &space, topics).await?;
    Ok(())
}

async fn note(registry: &Registry, space: &Space, format: DataFormat) -> Result<(), StoreError> {
    let mut transaction = registry.store().begin(space, Bounds::host()).await?;
    transaction.set(Section::Notes.key(NOTE), encode(&format)).await?;
    transaction.commit().await
}

/// Lets the calls of the build before end, migrates, and swaps; calls that come meanwhile wait.
async fn swap(
    loader: &Loader,
    space: &Space,
    revision: Revision,
    from: u32,
    cursor: Option<Vec<u8>>,
    limits: MigrationLimits,
) -> Result<(), LoadError> {
    let registry = loader.registry();
    let catalog = registry.catalog(&space.tenant);
    let pinned = catalog.pinned().filter(|pinned| pinned.name == space.component);
    let before = catalog.component(space.component.as_str()).into_iter().chain(pinned).cloned();
    // Their gates open again whatever happens here, also when the load is cancelled.
    let before: Vec<ClosedGate> = before.map(ClosedGate).collect();
    for ClosedGate(before) in &before {
        if !before.powers.gate.drain(DRAIN).await {
            return Err(LoadError::NotDrained { seconds: DRAIN.as_secs() });
        }
    }
    let mut half = HalfMigrated { loader, space, begun: cursor.is_some() };
    migrate(&mut half, &revision, from, cursor, limits).await?;
    loader.install(revision)?;
    half.begun = false;
    Ok(())
}

/// A build before, live or pinned, whose gate is closed; open again when this is dropped.
struct ClosedGate(Arc<Revision>);

impl Drop for ClosedGate {
    fn drop(&mut self) {
        self.0.powers.gate.open();
    }
}

/// Data that is being migrated. If it is dropped half-way, the build before is taken away: it cannot read what is migrated already.
struct HalfMigrated<'a> {
    loader: &'a Loader,
    space: &'a Space,
    /// Whether steps are done for good.
    begun: bool,
}

impl Drop for HalfMigrated<'_> {
    fn drop(&mut self) {
        if self.begun
            && !self.loader.closing().is_cancelled()
            && let Err(stopping) = self.loader.registry().remove(&self.space.tenant, self.space.component.as_str())
        {
            tracing::debug!(space = %self.space, %stopping, "not taken away");
        }
    }
}

async fn migrate(
    half: &mut HalfMigrated<'_>,
    revision: &Revision,
    from: u32,
    mut cursor: Option<Vec<u8>>,
    limits: MigrationLimits,
) -> Result<(), LoadError> {
    let (to, until) = (revision.format(), Instant::now() + limits.time);
    let mut rounds = CursorRounds::default();
    for _ in 0..limits.steps {
        if Instant::now() >= until {
            return Err(LoadError::MigrationEndless { most: format!("{} s", limits.time.as_secs_f64()) });
        }
        if rounds.came_back(cursor.as_deref()) {
            return Err(
                InstallError::Migration("its cursor came back to where it was: it would never end".into()).into()
            );
        }
        let next = step(half.loader.registry(), half.space, revision, from, cursor).await?;
        half.begun = true;
        if next.is_none() {
            tracing::info!(space = %half.space, from, to, "the data is migrated");
            return Ok(());
        }
        cursor = next;
    }
    Err(LoadError::MigrationEndless { most: format!("{} steps", limits.steps) })
}

/// Sees a cursor that goes round, however long the way is, without remembering it: by R. P. Brent, "An improved Monte Carlo factorization algorithm" (1980), section 2.
#[derive(Debug, Default)]
struct CursorRounds {
    kept: Option<Vec<u8>>,
    steps: u64,
    next_kept: u64,
}

impl CursorRounds {
    /// Whether the cursor was seen before.
    fn came_back(&mut self, cursor: Option<&[u8]>) -> bool {
        let Some(cursor) = cursor else { return false };
        if self.kept.as_deref() == Some(cursor) {
            return true;
        }
        if self.steps >= self.next_kept {
            self.kept = Some(cursor.to_vec());
            self.next_kept = self.steps.saturating_mul(2).max(1);
        }
        self.steps = self.steps.saturating_add(1);
        false
    }
}

/// One step, committed together with where the next one goes on.
async fn step(
    registry: &Registry,
    space: &Space,
    revision: &Revision,
    from: u32,
    cursor: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, LoadError> {
    let quota_bytes = revision.powers.quota_bytes.unwrap_or_default();
    let bounds = Bounds { own: MAX_MIGRATION_STEP, wall: MAX_MIGRATION_STEP, quota_bytes, ..Bounds::host() };
    registry.count(&space.tenant).await?;
    let transaction = registry.store().begin(space, bounds).await?;
    let (mut transaction, next) = registry.migrate(space, revision, transaction, from, cursor).await?;
    let to = revision.format();
    let format = match &next {
        Some(_) => DataFormat { format: from, migrating: Some(Under { to, cursor: next.clone() }) },
        None => DataFormat { format: to, migrating: None },
    };
    transaction.set(Section::Notes.key(NOTE), encode(&format)).await?;
    transaction.commit().await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_that_goes_round_is_seen_and_one_that_goes_on_is_not() {
        for (lead, round) in [(0_u32, 1_u32), (5, 1), (0, 7), (100, 33)] {
            let mut rounds = CursorRounds::default();
            let at = |n: u32| if n < lead { n } else { lead + (n - lead) % round };
            let seen = (0..4 * (lead + round) + 4).find(|n| rounds.came_back(Some(&at(*n).to_be_bytes())));
            assert!(seen.is_some_and(|n| n >= lead + round), "{lead} {round} {seen:?}");
        }
        let mut rounds = CursorRounds::default();
        assert!(!(0_u32..10_000).any(|n| rounds.came_back(Some(&n.to_be_bytes()))));
    }

    #[test]
    fn data_and_build_must_go_together() {
        let plain = |format| Some(DataFormat { format, migrating: None });
        let under = |to| Some(DataFormat { format: 1, migrating: Some(Under { to, cursor: Some(vec![7]) }) });
        let migrate = |from, cursor| Plan::Migrate { from, cursor };
        for (noted, has_data, build, expected) in [
            (None, false, 0, Ok(Plan::Nothing)),
            (None, false, 3, Ok(Plan::Note)),
            (None, true, 0, Ok(Plan::Nothing)),
            (None, true, 1, Ok(migrate(0, None))),
            (plain(2), true, 2, Ok(Plan::Nothing)),
            (plain(1), false, 2, Ok(migrate(1, None))),
            (plain(2), true, 1, Err("format 2")),
            (under(2), true, 2, Ok(migrate(1, Some(vec![7])))),
            (under(2), true, 1, Err("has begun")),
            (under(2), true, 3, Err("has begun")),
        ] {
            let planned = plan(noted.clone(), has_data, build).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(planned, Ok(expected), "{noted:?} {build}"),
                Err(says) => assert!(planned.as_ref().is_err_and(|error| error.contains(says)), "{planned:?}"),
            }
        }
    }
}
