//! `mcpp:container`: containers of the machine's engine, as far as the operator's settings and a component's grant go.
//!
//! This module holds a guest's orders to the grant and gives it what happens; a container lives in a task of its own ([`life`]), which ends with the call.

mod build_files;
mod config;
mod engine;
mod life;
mod plan;
mod transport;

use std::{sync::Arc, time::Duration};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

pub use self::{
    config::ContainersConfig,
    engine::{ContainerEngine, EngineFailure},
};
use self::{
    life::{ContainerEvent, LifeHandle, MAX_PIECE_BYTES, MAX_WAITING},
    plan::{ContainerPlan, OrderError, plan},
};
use crate::{
    capability::{
        bindings::mcpp::container::containers::{self, ContainerError, Event, Order},
        state::{Running, State},
    },
    control::Control,
    grants::container::ContainerGrant,
    memory::MemoryUse,
};

/// The longest reason that a guest is given, in bytes.
const MAX_REASON_BYTES: usize = 512;
/// Memory of one container: its output on the way, and the requests for it.
const CONTAINER_BYTES: u64 = (MAX_PIECE_BYTES as u64) * (MAX_WAITING as u64 + 1) + (256 << 10);
/// How long output is put together for a guest that has read all of it.
const GATHERING: Duration = Duration::from_millis(50);
/// Most bytes of output that a guest gets at once.
const MAX_OUTPUT_BYTES: usize = 64 << 10;

/// The engine of an instance whose grant gives it something there.
#[derive(Debug, Clone)]
pub struct ContainerAccess {
    /// What the grant gives.
    pub grant: Arc<ContainerGrant>,
    /// The engine; none where this host has none.
    pub engine: Option<ContainerEngine>,
}

/// A container in a guest's hands.
#[derive(Debug)]
pub struct OpenContainer {
    life: LifeHandle,
    /// An event that came while output was put together.
    next: Option<ContainerEvent>,
    is_over: bool,
}

/// The part of an instance's state that the containers' interface sees.
pub struct ContainerView<'a> {
    /// Open containers, by handle.
    pub table: &'a mut ResourceTable,
    /// Controls of the call.
    pub control: &'a Control,
    /// The call; absent while the host only asks the component for its tools.
    pub running: Option<&'a Running>,
    /// Whether the guest has a transaction of its store open.
    pub transaction_open: bool,
}

impl std::fmt::Debug for ContainerView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerView").field("running", &self.running).finish_non_exhaustive()
    }
}

impl HasData for ContainerView<'static> {
    type Data<'a> = ContainerView<'a>;
}

/// Links the containers.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    containers::add_to_linker::<State, ContainerView<'static>>(linker, State::containers)
}

impl containers::Host for ContainerView<'_> {
    async fn start(&mut self, order: Order) -> wasmtime::Result<Result<Resource<OpenContainer>, ContainerError>> {
        if self.transaction_open {
            return Ok(Err(ContainerError::TransactionOpen));
        }
        let (running, engine, planned) = match self.planned(order) {
            Ok(planned) => planned,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Ok(memory) = self.control.memory().reserve(MemoryUse::Messages, CONTAINER_BYTES) else {
            return Ok(Err(ContainerError::Busy));
        };
        let tenant = &running.principal.tenant;
        let labels = engine.labels(tenant, &running.component);
        let permit = self.control.wait_for_others(engine.permit(tenant)).await?;
        // Its life ends with the call also where the instance stays.
        let life = engine.begin(planned, labels, (permit, memory), self.control.over())?;
        Ok(Ok(self.table.push(OpenContainer { life, next: None, is_over: false })?))
    }
}

impl containers::HostContainer for ContainerView<'_> {
    async fn next(
        &mut self,
        handle: Resource<OpenContainer>,
        wait_ms: u64,
    ) -> wasmtime::Result<Result<Option<Event>, ContainerError>> {
        if self.transaction_open {
            return Ok(Err(ContainerError::TransactionOpen));
        }
        let container = self.table.get_mut(&handle)?;
        if container.is_over {
            return Ok(Ok(None));
        }
        let event = match container.next.take() {
            Some(event) => Some(event),
            None => {
                let receiving = tokio::time::timeout(Duration::from_millis(wait_ms), container.life.events.recv());
                match self.control.wait_for_others(receiving).await? {
                    Err(_nothing_happened) => return Ok(Ok(None)),
                    Ok(event) => event,
                }
            }
        };
        Ok(match event {
            Some(ContainerEvent::Phase(phase)) => Ok(Some(Event::Phase(phase))),
            Some(ContainerEvent::Output(origin, bytes)) => {
                // A little later there is more of it, at the cost of one call of the host.
                if bytes.len() < MAX_PIECE_BYTES && container.life.events.is_empty() {
                    self.control.wait_for_others(tokio::time::sleep(GATHERING)).await?;
                }
                let data = gather(container, origin, bytes.to_vec());
                Ok(Some(Event::Output(containers::Output { origin, data })))
            }
            Some(ContainerEvent::Ended(ending)) => {
                container.is_over = true;
                Ok(Some(Event::Ended(ending)))
            }
            Some(ContainerEvent::Failed(failure)) => {
                container.is_over = true;
                Err(failure.into())
            }
            None => {
                container.is_over = true;
                Err(ContainerError::Unavailable("the host gave it up".to_owned()))
            }
        })
    }

    fn kill(&mut self, handle: Resource<OpenContainer>) -> wasmtime::Result<()> {
        self.table.get(&handle)?.life.kill.cancel();
        Ok(())
    }

    fn drop(&mut self, handle: Resource<OpenContainer>) -> wasmtime::Result<()> {
        self.table.delete(handle)?;
        Ok(())
    }
}

/// What else of the same output is there already.
fn gather(container: &mut OpenContainer, origin: containers::Origin, mut data: Vec<u8>) -> Vec<u8> {
    while data.len() + MAX_PIECE_BYTES <= MAX_OUTPUT_BYTES {
        match container.life.events.try_recv() {
            Ok(ContainerEvent::Output(same, more)) if same == origin => data.extend_from_slice(&more),
            Ok(other) => {
                container.next = Some(other);
                break;
            }
            Err(_nothing_now) => break,
        }
    }
    data
}

impl ContainerView<'_> {
    /// The order as it may be carried out, or why not; noted for the operator either way.
    fn planned(&self, order: Order) -> Result<(&Running, ContainerEngine, ContainerPlan), ContainerError> {
        let running = self.running.ok_or(ContainerError::Off)?;
        let access = running.containers.as_ref().ok_or(ContainerError::Off)?;
        let engine = access.engine.clone().ok_or(ContainerError::Off)?;
        match plan(order, &access.grant, engine.config()) {
            Ok(planned) => {
                running.witness.used(planned.grant_line.clone());
                Ok((running, engine, planned))
            }
            Err(OrderError::Invalid(reason)) => Err(ContainerError::Invalid(short(reason))),
            Err(OrderError::NotAllowed(what, line)) => {
                running.witness.denied(line, format!("its containers may not have {what}"));
                Err(ContainerError::NotAllowed(short(what)))
            }
        }
    }
}

impl From<EngineFailure> for ContainerError {
    fn from(failure: EngineFailure) -> Self {
        match failure {
            EngineFailure::Refused(reason) => Self::Failed(short(reason)),
            EngineFailure::Away(reason) => Self::Unavailable(short(reason)),
        }
    }
}

/// The most of a reason that a guest is given.
fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
    reason
}
