//! Generated workflows on a simulated store, clock and set of handlers, all in one thread. A handler may be gone at any instant between two transactions.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    definition::{ForEach, Join, Retry, Undo},
    validate,
};

/// The store of one run.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) nodes: BTreeMap<Number, Node>,
    results: BTreeMap<Number, Value>,
    pub(crate) alarms: BTreeMap<Number, u64>,
    /// Nodes that were written in this transaction.
    written: Cell<u32>,
}

/// Nodes that one transaction writes, so that larger fan-outs begin in several.
const FULL: u32 = 3;

impl Memory {
    /// The next transaction begins.
    pub(crate) fn commit(&self) {
        self.written.set(0);
    }
}

impl Nodes for Memory {
    type Error = Infallible;

    fn node(&self, number: Number) -> Result<Node, Infallible> {
        Ok(self.nodes[&number].clone())
    }

    fn save(&mut self, node: &Node) -> Result<(), Infallible> {
        self.nodes.insert(node.number, node.clone());
        self.written.set(self.written.get() + 1);
        Ok(())
    }

    fn add(&mut self, node: &Node) -> Result<(), Infallible> {
        assert!(self.nodes.insert(node.number, node.clone()).is_none(), "{} is not new", node.number);
        self.written.set(self.written.get() + 1);
        Ok(())
    }

    fn result(&self, number: Number) -> Result<Value, Infallible> {
        Ok(self.results.get(&number).cloned().unwrap_or_default())
    }

    fn items(&self, fan: Number) -> Result<Vec<Number>, Infallible> {
        let is_item = |node: &&Node| node.parent == Some(fan) && node.index.is_some();
        Ok(self.nodes.values().filter(is_item).map(|node| node.number).collect())
    }

    fn read_ahead(&self, _: &[Number]) -> Result<(), Infallible> {
        Ok(())
    }

    fn keep(&mut self, number: Number, result: &Value) -> Result<bool, Infallible> {
        self.results.insert(number, result.clone());
        Ok(true)
    }

    fn keep_blob(&mut self, number: Number, _: &Blob) -> Result<bool, Infallible> {
        self.results.insert(number, Value::Null);
        Ok(true)
    }

    fn is_full(&self) -> bool {
        self.written.get() >= FULL
    }

    fn alarm(&mut self, node: &Node, at_ms: u64) -> Result<(), Infallible> {
        self.alarms.insert(node.number, at_ms);
        Ok(())
    }

    fn drop_task(&mut self, _: &str, _: u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn last_undoable(&self) -> Result<Option<Number>, Infallible> {
        let undoable =
            |node: &&Node| node.state == State::Completed && node.step.undo.is_some() && node.step.for_each.is_none();
        Ok(self.nodes.values().filter(undoable).max_by_key(|node| node.order).map(|node| node.number))
    }
}

/// What a tool does at its attempts, by the number that stands in the inputs.
#[derive(Debug, Clone, Copy)]
enum Behavior {
    Works,
    FailsOnce,
    FailsAlways,
    Waits,
    Signal,
    Plans,
}

#[derive(Debug, Clone)]
struct Plan {
    steps: Vec<(Step, Behavior)>,
    /// The behaviors of undos: how often they fail.
    undo_fails: u32,
}

fn steps() -> impl Strategy<Value = Plan> {
    let behavior = prop_oneof![
        5 => Just(Behavior::Works),
        1 => Just(Behavior::FailsOnce),
        1 => Just(Behavior::FailsAlways),
        1 => Just(Behavior::Waits),
        1 => Just(Behavior::Signal),
        1 => Just(Behavior::Plans),
    ];
    let join = prop_oneof![Just(Join::All), Just(Join::Any), (0_u32..4).prop_map(Join::AtLeast)];
    let fan = proptest::option::weighted(0.3, (0_usize..5, 1_u32..4, join));
    let step = (
        behavior,
        fan,
        proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
        any::<bool>(),
        1_u32..4,
        0_u8..10,
    );
    (proptest::collection::vec(step, 1..8), 0_u32..3).prop_map(|(drawn, undo_fails)| {
        let mut steps = Vec::new();
        for (place, (behavior, fan, needs, has_undo, max_attempts, chance)) in drawn.into_iter().enumerate() {
            let depends_on: BTreeSet<String> =
                needs.into_iter().filter(|_| place > 0).map(|need| format!("s{}", need.index(place))).collect();
            let retry = Retry { max_attempts, ..Retry::default() };
            let step = Step {
                step_id: format!("s{place}"),
                action: "tool".into(),
                inputs: Map::new(),
                depends_on: depends_on.into_iter().collect(),
                retry,
                timeout_s: None,
                when: None,
                for_each: fan.map(|(items, parallel, join)| ForEach { items: json!(vec![0; items]), parallel, join }),
                undo: has_undo.then(|| Undo {
                    action: "undo".into(),
                    inputs: Map::new(),
                    retry: Retry { max_attempts: 2, ..Retry::default() },
                }),
                plan: false,
                priority: None,
                may_fail: chance == 0,
                concurrency: None,
                rate: None,
                cache: None,
            };
            steps.push((step, behavior));
        }
        Plan { steps, undo_fails }
    })
}

/// A world in which one run takes place.
struct World {
    run: Run,
    nodes: Memory,
    now_ms: u64,
    /// Handlers at work: their delivery, and the node.
    working: Vec<(String, Number)>,
    deliveries: u32,
    plan: Plan,
    /// Effects at the provider: how often each step did what it does, and each undo.
    effects: RefCell<BTreeMap<String, u32>>,
    undone: RefCell<BTreeMap<String, u32>>,
}

impl World {
    fn new(plan: Plan) -> Self {
        let steps: Vec<Step> = plan.steps.iter().map(|(step, _)| step.clone()).collect();
        // Some joins are of more items than there are: lists that are not known before may be short.
        let graph = validate::graph(&steps).expect("it fits together");
        let (mut run, mut nodes) = (Run::new("r".into(), 0), Memory::default());
        add(&mut run, &mut nodes, (&steps, &graph), &Place::default(), 0).unwrap();
        Self {
            run,
            nodes,
            now_ms: 0,
            working: Vec::new(),
            deliveries: 0,
            plan,
            effects: RefCell::default(),
            undone: RefCell::default(),
        }
    }

    fn ready(&self) -> Vec<Number> {
        let is_ready = |node: &&Node| matches!(node.state, State::Ready | State::Undoing { claim: None });
        self.nodes.nodes.values().filter(is_ready).map(|node| node.number).collect()
    }

    /// Every unfinished run has a next event.
    fn check_next_event(&self) {
        let has_next = |node: &Node| match &node.state {
            State::Ready | State::Running { .. } | State::Held => true,
            State::Undoing { .. } => true,
            State::Delayed { .. } | State::UndoDelayed { .. } => self.nodes.alarms.contains_key(&node.number),
            State::Waiting { until_ms, signal, .. } => {
                signal.is_some() || until_ms.is_some() && self.nodes.alarms.contains_key(&node.number)
            }
            _ => false,
        };
        let run = &self.run;
        let is_behind =
            !run.untold.is_empty() || !run.to_cancel.is_empty() || run.cancelling.is_some() || !run.to_fill.is_empty();
        let has_owner = run.phase == Phase::UndoFailed;
        assert!(
            run.phase.is_final() || is_behind || has_owner || self.nodes.nodes.values().any(has_next),
            "nothing will happen any more: {run:#?} {:#?}",
            self.nodes.nodes.values().map(|node| (&node.path, &node.state)).collect::<Vec<_>>()
        );
    }

    /// What a handler does outside of transactions: the effect. None where it is gone before its effect.
    fn perform(&self, node: &Node) -> Outcome {
        let place: usize = node.path[1..].split('/').next().unwrap().parse().unwrap();
        if matches!(node.state, State::Undoing { .. }) {
            let mut undone = self.undone.borrow_mut();
            *undone.entry(node.path.clone()).or_default() += 1;
            return match node.attempt <= self.plan.undo_fails {
                true => Outcome::Failed { error: "no".into(), is_final: false },
                false => Outcome::Completed(Value::Null),
            };
        }
        let (_, behavior) = &self.plan.steps[place];
        if let Some(for_each) = &node.step.for_each {
            return Outcome::Fans(for_each.items.as_array().unwrap().len() as u32);
        }
        let inner = node.path.contains("/p");
        assert!(matches!(self.nodes.nodes[&node.number].state, State::Running { .. }), "{} runs again", node.path);
        *self.effects.borrow_mut().entry(node.path.clone()).or_default() += 1;
        match behavior {
            _ if inner => Outcome::Completed(json!(1)),
            Behavior::Works => Outcome::Completed(json!(1)),
            Behavior::FailsOnce if node.attempt > 1 => Outcome::Completed(json!(1)),
            Behavior::FailsOnce | Behavior::FailsAlways => Outcome::Failed { error: "no".into(), is_final: false },
            Behavior::Waits => {
                Outcome::Waits { signal: None, token: None, until_ms: Some(self.now_ms + 10), form: None }
            }
            Behavior::Signal => {
                Outcome::Waits { signal: Some("go".into()), token: None, until_ms: Some(self.now_ms + 500), form: None }
            }
            Behavior::Plans => {
                let steps = json!([{ "step_id": "p0", "action": "x" }, { "step_id": "p1", "action": "x", "depends_on": ["p0"] }]);
                Outcome::Holds(serde_json::from_value(steps).unwrap())
            }
        }
    }

    /// One thing happens, by a number; whether there was anything to happen.
    fn step(&mut self, dice: u32) -> bool {
        let (ready, waiting) = (self.ready(), self.nodes.alarms.clone());
        let (kinds, dice) = (dice % 16, (dice / 16) as usize);
        match kinds {
            0..=4 if !ready.is_empty() => {
                let (number, delivery) = (ready[dice % ready.len()], format!("d{}", self.deliveries));
                self.deliveries += 1;
                let until_ms = self.now_ms + 1_000;
                if claim(&mut self.run, &mut self.nodes, number, (&delivery, until_ms), self.now_ms).unwrap() {
                    self.working.push((delivery, number));
                }
            }
            5..=10 if !self.working.is_empty() => {
                let at = dice % self.working.len();
                let (delivery, number) = self.working[at].clone();
                let node = self.nodes.node(number).unwrap();
                if !has(&node, &delivery) {
                    self.working.remove(at);
                    return true;
                }
                let outcome = self.perform(&node);
                if kinds == 10 {
                    // The handler is gone behind its effect and before its record. The same delivery comes again, or its lease ends.
                    if dice.is_multiple_of(2) {
                        self.working.remove(at);
                    }
                    return true;
                }
                self.working.remove(at);
                let before = self.nodes.node(number).unwrap();
                settle(&mut self.run, &mut self.nodes, before, outcome, (self.now_ms, 0.5)).unwrap();
            }
            11 if dice.is_multiple_of(8) => cancel_if(self, dice),
            12 => {
                let signalled = self
                    .nodes
                    .nodes
                    .values()
                    .find(|node| matches!(&node.state, State::Waiting { signal: Some(_), .. }))
                    .map(|node| node.number);
                if let Some(number) = signalled {
                    assert!(signal(&mut self.run, &mut self.nodes, number, &json!("go"), self.now_ms).unwrap());
                }
            }
            13 if dice.is_multiple_of(4) && !self.run.phase.is_final() => self.run.paused_ms = Some(self.now_ms),
            13 => {
                self.run.paused_ms = None;
                while !resume(&mut self.run, &mut self.nodes, 1, self.now_ms).unwrap() {
                    self.nodes.commit();
                }
            }
            _ => {
                // Time goes on to the next alarm, or the end of the next lease.
                let next = waiting.iter().min_by_key(|(_, at_ms)| **at_ms).map(|(number, at_ms)| (*number, *at_ms));
                if let Some((number, at_ms)) = next {
                    self.now_ms = self.now_ms.max(at_ms);
                    self.nodes.alarms.remove(&number);
                    ring(&mut self.run, &mut self.nodes, number, self.now_ms).unwrap();
                } else if self.working.is_empty() && ready.is_empty() {
                    self.now_ms += 2_000;
                    for number in self.nodes.nodes.keys().copied().collect::<Vec<_>>() {
                        give_back(&mut self.nodes, number, self.now_ms).unwrap();
                    }
                }
            }
        }
        true
    }
}

fn cancel_if(world: &mut World, dice: usize) {
    if !world.run.phase.is_final() {
        cancel(&mut world.run, "asked", dice.is_multiple_of(3));
    }
}

fn live(plan: Plan, dice: &[u32]) -> World {
    let mut world = World::new(plan);
    let mut turns = 0_u32;
    while !world.run.phase.is_final() && turns < 20_000 {
        // Behind the drawn numbers come others that end what has begun.
        let number = dice.get(turns as usize).copied().unwrap_or_else(|| turns.wrapping_mul(0x9e37_79b9) >> 8);
        let number = if turns as usize >= dice.len() && matches!(number % 16, 10 | 11) { number & !15 } else { number };
        world.step(number);
        // Steps of `follow` are transactions of their own.
        while world.run.phase != Phase::UndoFailed
            && !follow(&mut world.run, &mut world.nodes, 1 + number % 3, world.now_ms).unwrap()
        {
            world.check_next_event();
            world.nodes.commit();
        }
        world.check_next_event();
        world.nodes.commit();
        if world.run.phase == Phase::UndoFailed {
            // The operator gives up, or mends it.
            world.plan.undo_fails = 0;
            match number % 2 {
                0 => assert!(retry_undo(&mut world.run, &mut world.nodes, world.now_ms).unwrap()),
                _ => {
                    cancel(&mut world.run, "given up", true);
                    while !follow(&mut world.run, &mut world.nodes, 5, world.now_ms).unwrap() {
                        world.nodes.commit();
                    }
                }
            }
        }
        turns += 1;
    }
    assert!(world.run.phase.is_final(), "it does not end: {:#?}", world.run);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_once_in_order_whatever_is_gone(plan in steps(), dice in proptest::collection::vec(any::<u32>(), 0..400)) {
        let world = live(plan, &dice);
        let nodes = &world.nodes.nodes;
        let run = &world.run;
        prop_assert_eq!(run.tally.open, 0);
        let count = |state: State| nodes.values().filter(|node| node.state == state).count() as u32;
        let undone = nodes.values().filter(|node| matches!(node.state, State::Undone | State::UndoFailed | State::Undoing { .. } | State::UndoDelayed { .. })).count() as u32;
        prop_assert_eq!(run.tally.failed, count(State::Failed));
        prop_assert_eq!(run.tally.skipped, count(State::Skipped));
        prop_assert_eq!(run.tally.completed, count(State::Completed) + undone);
        prop_assert_eq!(run.tally.total, nodes.len() as u32);
        for node in nodes.values() {
            prop_assert!(node.state.has_ended(), "{} is {:?}", node.path, node.state);
            // A step began only behind what it waits for.
            if let Some(started_ms) = node.started_ms {
                for needed in &node.depends_on {
                    let needed = &nodes[needed];
                    prop_assert!(needed.lets_go_on(), "{} began behind {:?}", node.path, needed.state);
                    prop_assert!(needed.ended_ms.is_some_and(|ended_ms| ended_ms <= started_ms) && needed.order > 0);
                }
            }
            if node.state == State::Skipped {
                prop_assert!(!world.effects.borrow().contains_key(&node.path), "a skipped step had an effect");
            }
        }
        // Where the run did not complete and nobody forced it, nothing that has an undo is left.
        if run.phase != Phase::Completed && !run.is_forced {
            prop_assert!(world.nodes.last_undoable().unwrap().is_none());
        }
        if run.phase == Phase::Completed {
            prop_assert!(world.undone.borrow().is_empty(), "a run that completed took something back");
        }
    }
}

#[test]
fn without_crashes_each_step_has_one_effect_and_undos_come_last_first() {
    let step = |id: &str, needs: &[&str]| json!({ "step_id": id, "action": "x", "depends_on": needs, "undo": { "action": "u" } });
    let steps: Vec<Step> =
        serde_json::from_value(json!([step("s0", &[]), step("s1", &["s0"]), step("s2", &["s1"])])).unwrap();
    let behaviors = [Behavior::Works, Behavior::Works, Behavior::FailsAlways];
    let plan = Plan { steps: steps.into_iter().zip(behaviors).collect(), undo_fails: 0 };
    let world = live(plan, &[0, 5, 0, 5, 0, 5, 0, 5, 0, 5]);
    assert_eq!(*world.effects.borrow(), BTreeMap::from(["s0", "s1", "s2"].map(|step| (step.to_owned(), 1))));
    assert_eq!((world.run.phase, world.run.error.as_deref()), (Phase::Failed, Some("step 's2' failed: no")));
    let states: Vec<&str> = world.nodes.nodes.values().map(|node| node.state.as_str()).collect();
    assert_eq!(states, ["undone", "undone", "failed"]);
    assert_eq!(world.undone.borrow().len(), 2);
}
