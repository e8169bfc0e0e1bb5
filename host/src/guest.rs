//! A guest: an instance of a component, with the state that the host keeps for it. Most live for one call; a guest that stays ([`crate::guest::kept`]) rests
//! between two.

pub mod batch;
pub mod component;
pub mod deferred;
pub mod handler;
pub mod instance;
pub mod kept;
pub mod migration;
pub mod primitives;
mod task_support;
pub mod tasks;

use std::sync::Arc;

use serde_json::Value;
use wasmtime::{
    CallHook, Store, UpdateDeadline,
    component::{Instance, InstancePre, Val},
};

use crate::{
    call::{CallError, Cost, ToolResult},
    capability::{
        bindings::{self, ComponentIndices, ComponentPre, mcpp::tool::types},
        state::{Running, State},
    },
    control::{Control, admission::RETRY_AFTER},
    engine::{EPOCH, SLICE, features::Tasks},
    guest::{
        batch::{BatchExport, Outcomes},
        instance::{Failure, Target, from_wit, next_turn, reserve},
        tasks::MAX_TASK_HANDLES,
    },
    memory::{MemoryUse, NoMemory, json_text},
    plain::{Action, PlainFunction, handles::GivenOut, value},
};

/// Most bytes of a guest's reason to refuse an argument, and of the path to it: a reason is a sentence, and a door's thread writes it.
const MAX_REFUSAL_BYTES: usize = 8 << 10;

/// Size of a result, in bytes, beyond which no door's thread turns it into JSON or parses it.
const LARGE_RESULT_BYTES: u64 = 256 << 10;

/// A guest.
pub struct Guest {
    store: Store<State>,
    code: Option<Instantiated>,
    given_out: GivenOut,
}

/// Its code, when it is instantiated.
enum Instantiated {
    Sdk(Instance, bindings::Component),
    Plain(Instance),
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("given_out", &self.given_out).finish_non_exhaustive()
    }
}

impl Guest {
    /// A guest that has no instance yet.
    fn new(engine: &wasmtime::Engine, component: &Arc<str>, control: &Arc<Control>, running: Box<Running>) -> Self {
        let store = new_store(engine, component, control, Some(running));
        Self { store, code: None, given_out: GivenOut::default() }
    }

    /// Gives a resting guest its next call.
    fn wake(&mut self, control: &Arc<Control>, running: Box<Running>) {
        self.store.data_mut().wake(Arc::clone(control), running);
        prepare(&mut self.store, control);
    }

    /// Detaches the call; returns whether the guest may stay. A guest with tasks left, or with handles that they wait for, may not:
    /// they would run within another call.
    fn rest(&mut self) -> bool {
        let has_tasks = self.store.engine().get_concurrency_support() && self.store.concurrent_state_table_size() > 0;
        self.code.is_some() && !has_tasks && self.store.data_mut().rest()
    }

    /// Whether a client holds handles of the guest.
    fn has_given_out(&self) -> bool {
        !self.given_out.is_empty()
    }

    /// Cost of the call so far.
    fn cost(&self) -> Cost {
        let state = self.store.data();
        Cost { fuel: fuel_used(&self.store), ..state.control.cost(state.memory_bytes()) }
    }

    /// Runs a tool. An outer error means that the guest must not be used again.
    async fn call(&mut self, target: &Target, arguments: &Value) -> Result<Result<ToolResult, CallError>, Failure> {
        match target {
            Target::Sdk { component, exports, tool } => {
                let (store, _, sdk) = self.sdk(component, exports).await?;
                call_sdk(store, sdk, tool, arguments).await
            }
            Target::Plain { component, function } => self.call_plain(component, function, arguments).await,
        }
    }

    /// Runs a tool of an SDK component for many calls. An outer error means that the guest must not be used again.
    async fn call_many(
        &mut self,
        target: &Target,
        batch: &BatchExport,
        arguments: &[String],
    ) -> Result<Result<Outcomes, CallError>, Failure> {
        let Target::Sdk { component, exports, tool } = target else { return Err(other_code()) };
        let control = Arc::clone(&self.store.data().control);
        let (store, instance, _) = self.sdk(component, exports).await?;
        batch.call(store, &instance, tool, arguments, &control).await
    }

    /// The instance of an SDK component, with its store.
    async fn sdk(
        &mut self,
        component: &ComponentPre<State>,
        exports: &ComponentIndices,
    ) -> Result<(&mut Store<State>, Instance, &bindings::Component), Failure> {
        if self.code.is_none() {
            let instance = component.instance_pre().instantiate_async(&mut self.store).await?;
            let sdk = exports.load(&mut self.store, &instance)?;
            self.code = Some(Instantiated::Sdk(instance, sdk));
        }
        let Some(Instantiated::Sdk(instance, sdk)) = &self.code else { return Err(other_code()) };
        Ok((&mut self.store, *instance, sdk))
    }

    async fn call_plain(
        &mut self,
        component: &InstancePre<State>,
        function: &PlainFunction,
        arguments: &Value,
    ) -> Result<Result<ToolResult, CallError>, Failure> {
        let mut handles = self.given_out.in_call(&function.resources);
        // Arguments that do not fit need no instance to be refused.
        if let Err(error) = function.check_room(&handles) {
            return Ok(Err(error));
        }
        // A few bytes of JSON may become many, which stay as long as the guest runs.
        let bytes = value::params_bytes(arguments, function.params());
        let account = Arc::clone(self.store.data().control.memory());
        let _while_they_are_there = match account.reserve(MemoryUse::Messages, bytes) {
            Ok(reservation) => reservation,
            Err(full) => return Ok(Err(no_room(&full, bytes))),
        };
        let params = match function.arguments(arguments, &mut handles) {
            Ok(params) => params,
            Err(error) => {
                handles.undo();
                return Ok(Err(error));
            }
        };
        let store = &mut self.store;
        if self.code.is_none() {
            self.code = Some(Instantiated::Plain(component.instantiate_async(&mut *store).await?));
        }
        let Some(Instantiated::Plain(instance)) = self.code else { return Err(other_code()) };
        let export = match (&function.action, params.first()) {
            (Action::Call(export), _) => *export,
            (Action::Drop, Some(Val::Resource(resource))) => {
                resource.resource_drop_async(&mut *store).await?;
                return Ok(Ok(ToolResult::default()));
            }
            (Action::Drop, _) => return Err(other_code()),
        };
        let Some(func) = instance.get_func(&mut *store, export) else {
            return Err(wasmtime::Error::msg("the exported function is gone").into());
        };
        let mut results = vec![Val::Bool(false); usize::from(function.result.is_some())];
        if function.is_async {
            let control = Arc::clone(&store.data().control);
            Box::pin(tasks::run(&control, func.call_async(&mut *store, &params, &mut results))).await?;
        } else {
            func.call_async(&mut *store, &params, &mut results).await?;
        }
        // The result exists twice while it becomes JSON; afterwards the host charges the remaining form.
        let bytes = results.first().map_or(0, value::json_bytes);
        let control = Arc::clone(&store.data().control);
        let _while_it_is_made = reserve(bytes, &control).map_err(Failure::Call)?;
        leave_the_door(&control, bytes).await;
        let result = function.result(results.first(), &mut handles);
        match handles.problem() {
            None => Ok(Ok(result)),
            Some(error) => Err(Failure::Call(error)),
        }
    }
}

/// The refusal of arguments whose values have no room: temporary, unless they could never have it.
fn no_room(full: &NoMemory, bytes: u64) -> CallError {
    let (what, bound) = match *full {
        NoMemory::Account { bound, .. } => ("message_bytes of this tenant are used", bound),
        NoMemory::Host { bound, .. } => ("message_bytes of the host are used", bound),
    };
    if bytes > bound {
        let reason =
            format!("the values that they become take {bytes} bytes or more; {bound} `message_bytes` are allowed");
        return CallError::InvalidArguments { path: String::new(), reason };
    }
    CallError::Busy { what, limit: usize::try_from(bound).unwrap_or(usize::MAX), retry_after: RETRY_AFTER }
}

fn other_code() -> Failure {
    wasmtime::Error::msg("the instance is of another component").into()
}

/// A store under the controls of a call.
fn new_store(
    engine: &wasmtime::Engine,
    component: &Arc<str>,
    control: &Arc<Control>,
    running: Option<Box<Running>>,
) -> Store<State> {
    let mut store = Store::new(engine, State::new(component, Arc::clone(control), running));
    store.limiter_async(|state| state);
    let tasks = if engine.get_concurrency_support() { Tasks::Many } else { Tasks::One };
    store.data_mut().charge_stacks(tasks);
    if tasks == Tasks::Many {
        store.set_max_component_handles(MAX_TASK_HANDLES);
    }
    prepare(&mut store, control);
    store.epoch_deadline_callback(|context| {
        let control = &context.data().control;
        control.check()?;
        // The clock ticks for all guests at once, and while they wait, so this guest may have used hardly any of its first slice.
        if !control.is_long() && control.pace().processor_time() < EPOCH {
            return Ok(UpdateDeadline::Continue(1));
        }
        control.note_slice();
        let control = Arc::clone(control);
        Ok(UpdateDeadline::YieldCustom(SLICE, Box::pin(async move { next_turn(&control).await })))
    });
    store.call_hook(|context, hook| match hook {
        CallHook::CallingHost => context.data().control.charge_host_call(),
        _ => Ok(()),
    });
    store
}

fn prepare(store: &mut Store<State>, control: &Control) {
    store.set_hostcall_fuel(usize::try_from(control.limits().output_bytes).unwrap_or(usize::MAX));
    store.set_epoch_deadline(1);
    store.data().note_kept_memory();
    if store.engine().get_consume_fuel() {
        // This fails only where the engine does not count fuel.
        let _set = store.set_fuel(fuel_given(control));
    }
}

/// Fuel with which a call begins, where the engine counts it. A tool without a limit may share its component with a tool that has one.
fn fuel_given(control: &Control) -> u64 {
    control.limits().fuel.unwrap_or(u64::MAX)
}

/// Fuel that a guest has used so far; none where the engine does not count it.
fn fuel_used(store: &Store<State>) -> Option<u64> {
    let counted = store.engine().get_consume_fuel().then(|| store.get_fuel().ok()).flatten();
    counted.map(|left| fuel_given(&store.data().control).saturating_sub(left))
}

async fn call_sdk(
    store: &mut Store<State>,
    instance: &bindings::Component,
    tool: &str,
    arguments: &Value,
) -> Result<Result<ToolResult, CallError>, Failure> {
    let answer = instance.mcpp_tool_tools().call_call(&mut *store, tool, &json_text(arguments)).await?;
    let control = Arc::clone(&store.data().control);
    leave_the_door(&control, structured_bytes(&answer)).await;
    Ok(sdk_outcome(tool, answer, &control))
}

/// Size of the JSON of an answer, in bytes.
fn structured_bytes(answer: &Result<types::ToolResult, types::ToolError>) -> u64 {
    let (Ok(result) | Err(types::ToolError::Failed(result))) = answer else { return 0 };
    result.structured.as_ref().map_or(0, |json| u64::try_from(json.len()).unwrap_or(u64::MAX))
}

/// The outcome of a call, as the host has it.
fn sdk_outcome(
    tool: &str,
    answer: Result<types::ToolResult, types::ToolError>,
    control: &Control,
) -> Result<ToolResult, CallError> {
    match answer {
        Ok(result) => from_wit(result, false, control),
        Err(types::ToolError::Failed(result)) => from_wit(result, true, control),
        Err(types::ToolError::InvalidArgument(wrong)) => {
            Err(CallError::InvalidArguments { path: cut(wrong.path), reason: cut(wrong.reason) })
        }
        Err(types::ToolError::UnknownTool) => Err(CallError::InvalidResult {
            path: String::new(),
            reason: format!("the component lists `{tool}` and does not know it"),
        }),
    }
}

/// Moves the call off the door's thread if a result of `bytes` is large, because converting it takes long.
async fn leave_the_door(control: &Control, bytes: u64) {
    if bytes > LARGE_RESULT_BYTES && !control.is_long() {
        control.note_slice();
        tokio::task::yield_now().await;
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_REFUSAL_BYTES));
    text
}
