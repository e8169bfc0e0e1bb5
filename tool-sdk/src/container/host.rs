//! The engine as the host has it.

use std::time::Duration;

use super::{ContainerError, Ending, Event, Order, Origin, Outcome, Phase, Repository, Source, Volume};
use crate::{bindings::mcpp::container::containers as host, environment::millis};

#[derive(Debug)]
pub(super) struct Handle(host::Container);

impl Handle {
    pub(super) fn next(&mut self, wait: Duration) -> Result<Option<Event>, ContainerError> {
        Ok(self.0.next(millis(wait))?.map(Event::from))
    }

    pub(super) fn kill(&mut self) {
        self.0.kill();
    }
}

pub(super) fn start_container(order: &Order) -> Result<Handle, ContainerError> {
    Ok(Handle(host::start(&order.clone().into())?))
}

impl From<Order> for host::Order {
    fn from(order: Order) -> Self {
        Self {
            source: order.source.into(),
            command: order.command,
            entrypoint: order.entrypoint,
            environment: order.environment,
            volumes: order.volumes.into_iter().map(host::Volume::from).collect(),
            network: order.network,
            gpus: order.gpus,
            memory_bytes: order.memory_bytes,
            cpu_millis: order.cpu_millis,
            timeout_ms: millis(order.timeout),
            working_dir: order.working_dir,
            user: order.user,
            read_only: order.read_only,
        }
    }
}

impl From<Source> for host::Source {
    fn from(source: Source) -> Self {
        match source {
            Source::Image(name) => Self::Image(name),
            Source::Repository(Repository { url, branch, context, dockerfile, build_args }) => {
                Self::Repository(host::Repository { url, branch, context, dockerfile, build_args })
            }
        }
    }
}

impl From<Volume> for host::Volume {
    fn from(Volume { host, container, read_only }: Volume) -> Self {
        Self { host, container, read_only }
    }
}

impl From<host::Event> for Event {
    fn from(event: host::Event) -> Self {
        match event {
            host::Event::Phase(phase) => Self::Phase(match phase {
                host::Phase::Pulling => Phase::Pulling,
                host::Phase::Building => Phase::Building,
                host::Phase::Running => Phase::Running,
            }),
            host::Event::Output(host::Output { origin, data }) => {
                let origin = match origin {
                    host::Origin::Stdout => Origin::Stdout,
                    host::Origin::Stderr => Origin::Stderr,
                    host::Origin::Build => Origin::Build,
                };
                Self::Output(origin, data)
            }
            host::Event::Ended(host::Ending { outcome, exit_code, run_ms }) => Self::Ended(Ending {
                outcome: match outcome {
                    host::Outcome::Exited => Outcome::Exited,
                    host::Outcome::OutOfMemory => Outcome::OutOfMemory,
                    host::Outcome::TimedOut => Outcome::TimedOut,
                    host::Outcome::TooMuchOutput => Outcome::TooMuchOutput,
                    host::Outcome::TooMuchDisk => Outcome::TooMuchDisk,
                    host::Outcome::Killed => Outcome::Killed,
                },
                exit_code,
                run: Duration::from_millis(run_ms),
            }),
        }
    }
}

impl From<host::ContainerError> for ContainerError {
    fn from(error: host::ContainerError) -> Self {
        match error {
            host::ContainerError::Off => Self::Off,
            host::ContainerError::NotAllowed(what) => Self::NotAllowed(what),
            host::ContainerError::Invalid(reason) => Self::Invalid(reason),
            host::ContainerError::TransactionOpen => Self::TransactionOpen,
            host::ContainerError::Busy => Self::Busy,
            host::ContainerError::Failed(reason) => Self::Failed(reason),
            host::ContainerError::Unavailable(reason) => Self::Unavailable(reason),
        }
    }
}
