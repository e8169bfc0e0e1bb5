//! What a node has to do, with what its placeholders stand for in their place. How much that may be has bounds: in bytes that are read, and in bytes of the arguments.

mod keys;

use std::collections::BTreeMap;

use mcpp_tool::store::{StoreError, View};
use serde_json::Value;

pub(super) use self::keys::{Keys, keys};
use super::{
    job::{Done, Work, failed},
    rehearsal::Script,
    task,
    wait::{at_once, wait},
};
use crate::{
    blob::{self, BLOBS},
    definition::{MAX_ITEMS, SUBMIT, TASK, WAIT, WORKFLOW, submission},
    placeholder::{Placeholder, PlaceholderError, Source, fill, fill_fields},
    run::{Node, Number, Run, State},
    scheduler::{self, Outcome},
    store::{INPUTS, ITEM, ITEMS, MAX_RESULT_BYTES, RESULTS, ROOT, node},
    validate::{own_inputs, parse},
};

/// Bounds of what placeholders stand for, in bytes of memory as [`weight`] has them.
#[derive(Debug)]
pub(super) struct Bounds {
    /// Most of the values that they are taken from.
    pub(super) read: usize,
    /// Most of the values that they become.
    filled: usize,
    /// Whether what is more may be read later.
    is_first: bool,
}

/// In a transaction, for whose end others wait.
pub(super) const AMONG_OTHERS: Bounds = Bounds { read: 256 << 10, filled: 256 << 10, is_first: true };
/// With nobody waiting. Both, and the call's own copy, have room in the memory that a guest has.
pub(super) const ALONE: Bounds = Bounds { read: 24 << 20, filled: 8 << 20, is_first: false };

/// How many bytes of memory a value takes, about.
pub(super) fn weight(value: &Value) -> usize {
    const EACH: usize = 32;
    let within = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).fold(0, usize::saturating_add),
        Value::Object(fields) => {
            let field =
                |(name, field): (&String, &Value)| name.len().saturating_add(EACH).saturating_add(weight(field));
            fields.iter().map(field).fold(0, usize::saturating_add)
        }
        _ => 0,
    };
    within.saturating_add(EACH)
}

/// Why a placeholder has no value.
enum Unfilled {
    /// What the store refuses fails the transaction, not the step: writes of the transaction may be lost already.
    Store(StoreError),
    Placeholder(PlaceholderError),
    /// It is more than is read now.
    Later,
}

impl From<PlaceholderError> for Unfilled {
    fn from(error: PlaceholderError) -> Self {
        Self::Placeholder(error)
    }
}

/// What there is to do with a node.
pub(super) fn work(
    t: &View<'_>,
    (run, of): (&Run, &Node),
    (script, now_ms): (Option<&Script>, u64),
    bounds: &Bounds,
) -> Result<Work, StoreError> {
    let mut values = Values { t, run, of, bounds, seen: BTreeMap::new(), read: 0, filled: 0, broken: None };
    let filled = describe(&mut values, (script, now_ms));
    match values.broken.map_or(filled, Err) {
        Ok(work) => Ok(work),
        Err(Unfilled::Later) => Ok(Work::Unread),
        Err(Unfilled::Store(error)) => Err(error),
        Err(Unfilled::Placeholder(error)) => Ok(known(failed(error.to_string()))),
    }
}

fn known(outcome: Outcome) -> Work {
    Work::Known(Box::new(Done::of(outcome)))
}

fn describe(values: &mut Values<'_, '_>, (script, now_ms): (Option<&Script>, u64)) -> Result<Work, Unfilled> {
    let (run, of) = (values.run, values.of);
    let step = &of.step;
    let mut find = |placeholder: &Placeholder| values.find(placeholder);
    if let (State::Undoing { .. }, Some(undo)) = (&of.state, &step.undo) {
        let arguments = fill_fields(&undo.inputs, "/undo/inputs", &mut find)?;
        return Ok(Work::Call { tool: undo.action.clone(), arguments, is_plan: false });
    }
    if let Some(when) = &step.when
        && !when.holds(&fill(&when.value, "/when/value", &mut find)?)
    {
        return Ok(known(Outcome::LeftOut));
    }
    if let Some(for_each) = &step.for_each {
        return Ok(match fill(&for_each.items, "/for_each/items", &mut find)? {
            Value::Array(items) if items.len() <= MAX_ITEMS => Work::Known(Box::new(fan_out(run, items))),
            Value::Array(items) => known(failed(format!("{} items; at most {MAX_ITEMS} are allowed", items.len()))),
            other => {
                let other: String = other.to_string().chars().take(100).collect();
                known(failed(format!("`for_each.items` is no list: {other}")))
            }
        });
    }
    let Value::Object(arguments) = fill(&own_inputs(step), "/inputs", &mut find)? else {
        return Ok(known(failed("inputs are an object")));
    };
    Ok(match &*step.action {
        WAIT => known(match script {
            Some(script) => at_once(script, &of.path, arguments),
            None => wait(arguments, step.timeout_s, now_ms),
        }),
        TASK => match script {
            Some(script) => known(task::rehearsed(script, &of.path)),
            None => {
                let arguments = submission(&arguments, &task::id(run, of));
                Work::Call { tool: SUBMIT.to_owned(), arguments, is_plan: false }
            }
        },
        WORKFLOW => {
            let input = arguments.get("input").cloned();
            if let Some(bytes) =
                input.as_ref().map(|input| input.to_string().len()).filter(|bytes| *bytes > MAX_RESULT_BYTES)
            {
                return Ok(known(failed(format!("its input has {bytes} bytes; at most {MAX_RESULT_BYTES} are kept"))));
            }
            let steps = step.inputs.get("steps").and_then(Value::as_array).map(|steps| parse(steps));
            match steps {
                Some(Ok(steps)) => Work::Known(Box::new(Done { input, ..Done::of(Outcome::Holds(steps)) })),
                Some(Err(problem)) => known(failed(problem.to_string())),
                None => known(failed("it has no list `steps`")),
            }
        }
        tool => Work::Call { tool: tool.to_owned(), arguments, is_plan: step.plan },
    })
}

/// A node for each of the items.
fn fan_out(run: &Run, items: Vec<Value>) -> Done {
    let total = Number::try_from(items.len()).unwrap_or(Number::MAX);
    if !scheduler::has_room(run, total) {
        return Done::of(failed(scheduler::NO_ROOM));
    }
    let bytes = items.iter().map(|item| item.to_string().len()).fold(0, usize::saturating_add);
    if bytes > MAX_RESULT_BYTES {
        return Done::of(failed(format!("the items have {bytes} bytes; at most {MAX_RESULT_BYTES} are kept")));
    }
    Done { items, ..Done::of(Outcome::Fans(total)) }
}

/// The values that a node's placeholders stand for. Each is read once.
struct Values<'a, 't> {
    t: &'a View<'t>,
    run: &'a Run,
    of: &'a Node,
    bounds: &'a Bounds,
    seen: BTreeMap<Source, Result<Value, String>>,
    read: usize,
    filled: usize,
    /// Why it goes no further.
    broken: Option<Unfilled>,
}

impl Values<'_, '_> {
    /// The value of a placeholder, or why there is none.
    fn find(&mut self, placeholder: &Placeholder) -> Result<Value, String> {
        if self.broken.is_some() {
            return Err(String::new());
        }
        if !self.seen.contains_key(&placeholder.source) {
            let whole = match self.look_up(&placeholder.source) {
                Ok(whole) => whole,
                Err(error) => {
                    self.broken = Some(Unfilled::Store(error));
                    return Err(String::new());
                }
            };
            if self.broken.is_some() {
                return Err(String::new());
            }
            let read = self.read.saturating_add(whole.as_ref().map_or(0, weight));
            self.read = self.within(read, self.bounds.read, "what its placeholders are taken from takes")?;
            self.seen.insert(placeholder.source.clone(), whole);
        }
        let missing = || format!("`${{{placeholder}}}` has no value");
        let whole = self.seen.get(&placeholder.source).ok_or_else(missing)?.as_ref().map_err(String::clone)?;
        let found = placeholder.within(whole).ok_or_else(missing)?;
        let filled = self.filled.saturating_add(weight(found));
        // Only what has room is copied.
        if filled <= self.bounds.filled {
            let found = found.clone();
            self.filled = filled;
            return Ok(found);
        }
        self.within(filled, self.bounds.filled, "what its placeholders stand for takes").map(|_| Value::Null)
    }

    /// Checks an amount; what is too much is read later, or is an error.
    fn within(&mut self, bytes: usize, most: usize, what: &str) -> Result<usize, String> {
        if bytes <= most {
            return Ok(bytes);
        }
        if self.bounds.is_first {
            self.broken = Some(Unfilled::Later);
        }
        Err(format!("{what} {bytes} bytes of memory or more; at most {most} are allowed"))
    }

    /// The whole value of a source, or why there is none.
    fn look_up(&mut self, source: &Source) -> Result<Result<Value, String>, StoreError> {
        let (t, run, of) = (self.t, self.run, self.of);
        Ok(Ok(match source {
            Source::Step(name) => {
                let Some(number) = of.names.get(name) else { return Ok(Err(format!("there is no step '{name}'"))) };
                match self.result(*number)? {
                    // It was left out, or failed and may.
                    Ok(None) if node(t, &run.id, *number)?.state != State::Completed => Value::Null,
                    Ok(found) => found.unwrap_or_default(),
                    Err(reason) => return Ok(Err(reason)),
                }
            }
            Source::Input => INPUTS.get(t, &(&run.id, of.scope.unwrap_or(ROOT)))?.unwrap_or_default(),
            Source::Metadata => Value::Object(run.metadata.clone()),
            Source::Item => {
                let (fan, index) = (of.parent.unwrap_or(ROOT), of.index.unwrap_or_default());
                match ITEM.get(t, &(&run.id, fan, index))? {
                    Some(item) => item,
                    None => {
                        let items = ITEMS.get(t, &(&run.id, fan))?.unwrap_or_default();
                        usize::try_from(index).ok().and_then(|index| items.into_iter().nth(index)).unwrap_or_default()
                    }
                }
            }
            Source::Index => Value::from(of.index),
            Source::Result => match self.result(of.number)? {
                Ok(found) => found.unwrap_or_default(),
                Err(reason) => return Ok(Err(reason)),
            },
        }))
    }

    /// The result of a node. Of a large one the bytes are known before it is read.
    fn result(&mut self, number: Number) -> Result<Result<Option<Value>, String>, StoreError> {
        let at = (&self.run.id, number);
        if let Some(value) = RESULTS.get(self.t, &at)? {
            return Ok(Ok(Some(value)));
        }
        let Some(large) = BLOBS.get(self.t, &at)? else { return Ok(Ok(None)) };
        let read = self.read.saturating_add(usize::try_from(large.bytes).unwrap_or(usize::MAX));
        Ok(match self.within(read, self.bounds.read, "what its placeholders are taken from takes") {
            Ok(_) => Ok(Some(blob::read(self.t, &large)?)),
            Err(reason) => Err(reason),
        })
    }
}
