//! Bringing a revision up on its component's data: at once if the data has its format; after a migration if it is older; not at all if it is newer.
//!
//! The format is noted in the space itself, and with it, while a migration of several steps is under way, where it goes on. A crash in the midst of it is
//! therefore resumed by the next start with the same build.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    capability::store::MAX_MIGRATION_STEP,
    events::record::{decode, encode},
    registry::{Registry, catalog::Revision},
    store::{Bounds, Section, Space, StoreError},
    tenant::TenantId,
    wasm::component::LoadError,
};

/// The note in a space that has its data's format.
const NOTE: &[u8] = b"format";
/// How long running calls of the build before may take to end.
const DRAIN: Duration = Duration::from_secs(10);

/// What is noted of a space's data.
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

/// What has to be done before a build may serve.
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
pub(super) async fn bring_up(registry: &Registry, tenant: &TenantId, revision: Revision) -> Result<(), LoadError> {
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
        Plan::Nothing => registry.install(tenant, revision)?,
        Plan::Note => {
            note(registry, &space, DataFormat { format: revision.format(), migrating: None }).await?;
            registry.install(tenant, revision)?;
        }
        Plan::Migrate { from, cursor } => swap(registry, &space, revision, from, cursor).await?,
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
    registry: &Registry,
    space: &Space,
    revision: Revision,
    from: u32,
    cursor: Option<Vec<u8>>,
) -> Result<(), LoadError> {
    let tenant = &space.tenant;
    let before = registry.catalog(tenant).component(space.component.as_str()).cloned();
    if let Some(before) = &before
        && !before.powers.gate.drain(DRAIN).await
    {
        return Err(LoadError::NotDrained { seconds: DRAIN.as_secs() });
    }
    let resumed = cursor.is_some();
    let migrated = migrate(registry, space, &revision, from, cursor).await;
    let swapped = match migrated {
        Ok(()) => registry.install(tenant, revision),
        Err(Broken { error, steps }) => {
            if resumed || steps > 0 {
                // The build before cannot read what is migrated already.
                registry.remove(tenant, space.component.as_str())?;
            }
            Err(error)
        }
    };
    if let Some(before) = before {
        before.powers.gate.open();
    }
    swapped
}

/// A migration that did not end.
struct Broken {
    error: LoadError,
    /// Steps that are done for good.
    steps: u32,
}

async fn migrate(
    registry: &Registry,
    space: &Space,
    revision: &Revision,
    from: u32,
    mut cursor: Option<Vec<u8>>,
) -> Result<(), Broken> {
    let to = revision.format();
    let mut steps = 0_u32;
    loop {
        let step = step(registry, space, revision, from, cursor).await;
        match step {
            Ok(None) => {
                tracing::info!(%space, from, to, "the data is migrated");
                return Ok(());
            }
            Ok(next) => cursor = next,
            Err(error) => return Err(Broken { error, steps }),
        }
        steps = steps.saturating_add(1);
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
