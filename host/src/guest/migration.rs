//! A component's migration of its data: the format that a build reads and writes, and one step from an older one.

use std::sync::Arc;

use wasmtime::component::{InstancePre, Resource};

use super::{
    instance::{Failure, run},
    new_store,
};
use crate::{
    call::CallError,
    capability::{
        bindings::migration::{MigratingPre, exports::mcpp::store::migration as wit},
        state::{Running, State},
        store::OpenTransaction,
    },
    control::Control,
    engine::Engine,
    store::Transaction,
};

/// The interface by which the host knows that a component can migrate, without its version.
pub(super) const INTERFACE: &str = "mcpp:store/migration";

/// A linked component that can migrate its data.
#[derive(Clone)]
pub struct Migration(MigratingPre<State>);

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration").finish_non_exhaustive()
    }
}

/// Outcome of one step: the transaction to commit, and the place to continue from.
pub type MigrationStep = (Box<dyn Transaction>, Option<Vec<u8>>);

impl Migration {
    pub(super) fn new(linked: InstancePre<State>) -> wasmtime::Result<Self> {
        MigratingPre::new(linked).map(Self)
    }

    /// Asks for the format that the build reads and writes.
    pub(super) async fn format(
        &self,
        engine: &Engine,
        component: &Arc<str>,
        control: Arc<Control>,
    ) -> Result<u32, CallError> {
        let mut store = new_store(self.0.engine(), component, &control, None);
        let migration = self.0.clone();
        let guest = async move {
            let instance = migration.instantiate_async(&mut store).await?;
            Ok::<_, Failure>(instance.mcpp_store_migration().call_format(&mut store).await?)
        };
        run(engine, guest, control).await
    }

    /// Runs one step within `transaction`; the inner error is the component's own. Without success the transaction aborts.
    pub async fn step(
        &self,
        engine: &Engine,
        transaction: Box<dyn Transaction>,
        from: u32,
        cursor: Option<Vec<u8>>,
        running: Box<Running>,
        control: Arc<Control>,
    ) -> Result<Result<MigrationStep, String>, CallError> {
        let component = Arc::clone(&running.component);
        let mut store = new_store(self.0.engine(), &component, &control, Some(running));
        let migration = self.0.clone();
        let guest = async move {
            store.data_mut().store_use.transaction_open = true;
            let open = store
                .data_mut()
                .table_and_control()
                .0
                .push(OpenTransaction::new(transaction))
                .map_err(wasmtime::Error::from)?;
            let instance = migration.instantiate_async(&mut store).await?;
            let lent = Resource::new_borrow(open.rep());
            let answer = instance.mcpp_store_migration().call_step(&mut store, lent, from, cursor.as_deref()).await?;
            let OpenTransaction { transaction, .. } =
                store.data_mut().table_and_control().0.delete(open).map_err(wasmtime::Error::from)?;
            Ok::<_, Failure>(match answer {
                Ok(next) => Ok((transaction, next)),
                Err(wit::MigrationError::UnsupportedFormat) => Err(format!("it cannot read data of format {from}")),
                Err(wit::MigrationError::Failed(reason)) => Err(reason),
            })
        };
        run(engine, guest, control).await
    }
}
