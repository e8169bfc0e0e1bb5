//! An engine in memory, for native tests: one for each thread, off at first. It asks no grant.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use super::{ContainerError, Ending, Event, Order, Outcome};

/// What becomes of an order: the events of its container, one after the other.
type Script = Vec<Result<Event, ContainerError>>;
/// The engine of a test.
type Engine = Rc<dyn Fn(&Order) -> Result<Script, ContainerError>>;

thread_local! {
    static ENGINE: RefCell<Option<Engine>> = const { RefCell::new(None) };
}

/// Gives this thread an engine. A script that ends without an end is a container that runs until it is killed.
pub fn start(engine: impl Fn(&Order) -> Result<Script, ContainerError> + 'static) {
    ENGINE.set(Some(Rc::new(engine)));
}

/// Takes this thread's engine away.
pub fn clear() {
    ENGINE.set(None);
}

#[derive(Debug)]
pub(super) struct Handle {
    script: VecDeque<Result<Event, ContainerError>>,
    is_killed: bool,
    is_over: bool,
}

impl Handle {
    pub(super) fn next(&mut self, _wait: Duration) -> Result<Option<Event>, ContainerError> {
        if self.is_over {
            return Ok(None);
        }
        let killed = || Event::Ended(Ending { outcome: Outcome::Killed, exit_code: None, run: Duration::ZERO });
        let event = match self.is_killed {
            true => Some(Ok(killed())),
            false => self.script.pop_front(),
        };
        self.is_over = matches!(event, Some(Ok(Event::Ended(_)) | Err(_)));
        event.transpose()
    }

    pub(super) fn kill(&mut self) {
        self.is_killed = true;
    }
}

pub(super) fn start_container(order: &Order) -> Result<Handle, ContainerError> {
    let engine = ENGINE.with_borrow(Clone::clone).ok_or(ContainerError::Off)?;
    Ok(Handle { script: engine(order)?.into(), is_killed: false, is_over: false })
}
