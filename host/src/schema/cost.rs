//! The cost of checking values against a schema, known before the check: an upper bound in steps, computed once for the schema and multiplied with the value.
//!
//! A value counts by depth: how many parts it has there (values, names and their bytes). For each depth the schema has a factor: the steps of all subschemas that
//! may be applied to a part at that depth, with references followed, by all ways that lead there. So the bound also holds for schemas that refer to themselves.

use serde_json::Value;

use super::{
    SchemaError,
    graph::{Graph, Node},
};

/// Deepest value that has a bound: results of tools may be nested so deep, arguments less.
pub(super) const MAX_VALUE_DEPTH: usize = 128;
/// Most subschemas that are applied to one value, each by the one before it.
const MAX_IN_PLACE: usize = 64;
/// Most subschemas that are under way at once, from the whole value to the innermost one: each has its place on the stack.
const MAX_DESCENT: u64 = 1_000;
/// Most subschemas that are compiled, those included that are compiled again for each `unevaluatedProperties` and `unevaluatedItems` around them.
const MAX_COMPILED: u64 = 20_000;
/// Most steps for an object without anything in it: it shows what follows of references alone.
const MAX_LEAST_STEPS: u64 = 1_000_000;
/// Steps in which one thing is found to be wrong, at least: to look at a subschema is more.
const STEPS_OF_A_FINDING: u64 = 8;
/// Memory of one compiled subschema, in bytes, on the safe side.
const COMPILED_BYTES: u64 = 1 << 10;

/// The cost of one schema.
#[derive(Debug, Clone)]
pub(super) struct CheckCost {
    /// Steps by depth of a part, where only whether the value fits is asked.
    whether: Vec<u64>,
    /// The same, where the reason is looked for.
    why: Vec<u64>,
    /// Subschemas that are under way at once, by depth of the value.
    descent: Vec<u64>,
    /// Whether all that is wrong with alternatives is collected.
    collects: bool,
    /// Memory of the compiled schema, in bytes.
    pub(super) memory_bytes: u64,
}

/// The cost of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steps {
    /// Steps until it is known whether the value fits.
    pub whether: u64,
    /// Steps until it is known what is wrong with it.
    pub why: u64,
    /// How much may be found to be wrong with it, at most.
    pub(super) findings: u64,
    /// Subschemas under way at once.
    pub(super) descent: u64,
}

impl CheckCost {
    /// The cost of a schema; refused if compiling it would cost too much, or if there is no bound.
    pub(super) fn of(graph: &Graph) -> Result<Self, SchemaError> {
        let order = in_place_order(&graph.nodes)?;
        let compiled = Compiling::of(&graph.nodes)?;
        let mut last = Layer::default();
        let mut cost = Self {
            whether: Vec::new(),
            why: Vec::new(),
            descent: Vec::new(),
            collects: graph.has_alternatives,
            memory_bytes: compiled.saturating_mul(COMPILED_BYTES).saturating_add(graph.pattern_bytes),
        };
        for depth in 0..=MAX_VALUE_DEPTH {
            let layer = Layer::next(&graph.nodes, &order, &last, depth == 0);
            let root = |of: &[u64]| of.first().copied().unwrap_or_default();
            cost.whether.push(root(&layer.whether));
            cost.why.push(root(&layer.why));
            cost.descent.push(root(&layer.descent));
            let deeper_is_nothing = layer.whether.iter().all(|steps| *steps == 0);
            last = layer;
            if deeper_is_nothing {
                break;
            }
        }
        // Below what the schema speaks of, no subschema is applied any more.
        let deepest = cost.descent.last().copied().unwrap_or_default();
        cost.descent.resize(MAX_VALUE_DEPTH.saturating_add(1), deepest);
        if cost.whether.first().is_none_or(|least| *least > MAX_LEAST_STEPS) {
            return Err(SchemaError::TooCostly);
        }
        Ok(cost)
    }

    /// The cost of checking `value` against the schema.
    pub(super) fn with(&self, value: &Value) -> Result<Steps, SchemaError> {
        let mut sum = PartsSum { cost: self, deepest: 0, whether: 0, why: 0, findings: 0 };
        sum.add(value, 0)?;
        let PartsSum { deepest, whether, why, findings, .. } = sum;
        let descent = self.descent.get(deepest).copied().unwrap_or(u64::MAX);
        let findings = if self.collects { findings / STEPS_OF_A_FINDING } else { 1 };
        Ok(Steps { whether, why, findings, descent })
    }
}

impl Steps {
    /// Whether the check fits a stack.
    pub(super) fn fits_a_stack(&self) -> bool {
        self.descent <= MAX_DESCENT
    }
}

/// The parts of a value, each with the factor of its depth.
struct PartsSum<'a> {
    cost: &'a CheckCost,
    /// Depth of the deepest value.
    deepest: usize,
    whether: u64,
    why: u64,
    /// As `why`, but of the values alone.
    findings: u64,
}

impl PartsSum<'_> {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), SchemaError> {
        if depth > MAX_VALUE_DEPTH {
            return Err(SchemaError::TooDeep);
        }
        let length = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let own = match value {
            Value::String(text) => length(text.len()),
            Value::Array(items) => length(items.len()),
            Value::Object(object) => {
                object.keys().fold(0, |sum: u64, key| sum.saturating_add(length(key.len())).saturating_add(1))
            }
            _ => 0,
        };
        let parts = own.saturating_add(1);
        let (whether, why) = (at(&self.cost.whether, depth), at(&self.cost.why, depth));
        self.deepest = self.deepest.max(depth);
        self.whether = self.whether.saturating_add(parts.saturating_mul(whether));
        self.why = self.why.saturating_add(parts.saturating_mul(why));
        self.findings = self.findings.saturating_add(why);
        let below = depth.saturating_add(1);
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.add(item, below)),
            Value::Object(object) => object.values().try_for_each(|item| self.add(item, below)),
            _ => Ok(()),
        }
    }
}

/// The factors of all subschemas for parts at one depth below the value to which they are applied.
#[derive(Default)]
struct Layer {
    whether: Vec<u64>,
    why: Vec<u64>,
    /// Finding out what subschemas leave over for `unevaluatedProperties` and `unevaluatedItems`.
    marking: Vec<u64>,
    descent: Vec<u64>,
}

impl Layer {
    fn next(nodes: &[Node], order: &[usize], above: &Self, first: bool) -> Self {
        let zeros = || vec![0; nodes.len()];
        let mut layer = Self { whether: zeros(), why: zeros(), marking: zeros(), descent: zeros() };
        for number in order {
            let Some(node) = nodes.get(*number) else { continue };
            let own = if first { node.own } else { node.within };
            let here = || node.in_place.iter().chain(&node.references);
            let below = |of: &[u64]| {
                let one = node.one_of.iter().map(|child| at(of, *child)).max().unwrap_or_default();
                sum(of, node.all_of.iter()).saturating_add(one)
            };
            let marked = own
                .saturating_add(sum(&layer.whether, here()))
                .saturating_add(sum(&layer.marking, here()))
                .saturating_add(below(&above.whether));
            let finding = if node.unevaluated { marked } else { 0 };
            let whether = own
                .saturating_add(sum(&layer.whether, here()))
                .saturating_add(below(&above.whether))
                .saturating_add(finding);
            let why =
                whether.saturating_mul(2).saturating_add(sum(&layer.why, here())).saturating_add(below(&above.why));
            let within = deepest(&above.descent, node.one_of.iter().chain(&node.all_of));
            let descent = deepest(&layer.descent, here()).max(within).saturating_add(1);
            set(&mut layer.whether, *number, whether);
            set(&mut layer.why, *number, why);
            set(&mut layer.marking, *number, marked);
            set(&mut layer.descent, *number, descent);
        }
        layer
    }
}

fn at(of: &[u64], number: usize) -> u64 {
    of.get(number).copied().unwrap_or_default()
}

fn set(of: &mut [u64], number: usize, value: u64) {
    if let Some(place) = of.get_mut(number) {
        *place = value;
    }
}

fn deepest<'a>(of: &[u64], numbers: impl Iterator<Item = &'a usize>) -> u64 {
    numbers.map(|number| at(of, *number)).max().unwrap_or_default()
}

fn sum<'a>(of: &[u64], numbers: impl Iterator<Item = &'a usize>) -> u64 {
    numbers.fold(0, |sum, number| sum.saturating_add(at(of, *number)))
}

/// All subschemas, each after those that it applies to the same value. Refused if one applies itself to its own value, or too many are applied by one another.
fn in_place_order(nodes: &[Node]) -> Result<Vec<usize>, SchemaError> {
    let mut done = vec![None; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    for number in 0..nodes.len() {
        visit(nodes, number, 0, &mut done, &mut order)?;
    }
    Ok(order)
}

/// How many subschemas are applied by one another from here. A height that is too large marks a subschema whose visit is under way.
fn visit(
    nodes: &[Node],
    number: usize,
    above: usize,
    done: &mut [Option<usize>],
    order: &mut Vec<usize>,
) -> Result<usize, SchemaError> {
    if let Some(height) = done.get(number).copied().flatten() {
        return if height > MAX_IN_PLACE { Err(SchemaError::AppliesItself) } else { Ok(height) };
    }
    if above > MAX_IN_PLACE {
        return Err(SchemaError::AppliedTooDeep);
    }
    let mark = |done: &mut [Option<usize>], height| done.get_mut(number).map(|place| place.replace(height));
    mark(done, usize::MAX);
    let mut height = 0;
    if let Some(node) = nodes.get(number) {
        for child in node.in_place.iter().chain(&node.references) {
            height = height.max(visit(nodes, *child, above.saturating_add(1), done, order)?.saturating_add(1));
        }
    }
    if height > MAX_IN_PLACE {
        return Err(SchemaError::AppliedTooDeep);
    }
    mark(done, height);
    order.push(number);
    Ok(height)
}

/// How many subschemas are compiled for each, itself included; and how many more to find out what it leaves over.
struct Compiling<'a> {
    nodes: &'a [Node],
    plain: Vec<Option<u64>>,
    leaving: Vec<Option<u64>>,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CostKind {
    Plain,
    Leaving,
}

impl<'a> Compiling<'a> {
    /// Deepest chain of subschemas that are compiled for one another.
    const MAX_DEPTH: usize = 400;

    fn of(nodes: &'a [Node]) -> Result<u64, SchemaError> {
        let nothing = || vec![None; nodes.len()];
        let mut compiling = Self { nodes, plain: nothing(), leaving: nothing() };
        let mut sum = compiling.visit(0, CostKind::Plain, 0)?;
        // Each subschema that is referred to is compiled once.
        let mut referred: Vec<usize> = nodes.iter().flat_map(|node| &node.references).copied().collect();
        referred.sort_unstable();
        referred.dedup();
        for number in referred {
            sum = sum.saturating_add(compiling.visit(number, CostKind::Plain, 0)?);
        }
        if sum > MAX_COMPILED { Err(SchemaError::TooMuchToCompile) } else { Ok(sum) }
    }

    fn visit(&mut self, number: usize, what: CostKind, depth: usize) -> Result<u64, SchemaError> {
        /// The mark of a subschema whose visit is under way.
        const UNDER_WAY: u64 = u64::MAX;
        match self.known(what).get(number).copied().flatten() {
            Some(UNDER_WAY) => return Err(SchemaError::LeavesItself),
            Some(known) => return Ok(known),
            None => {}
        }
        if depth > Self::MAX_DEPTH {
            return Err(SchemaError::AppliedTooDeep);
        }
        self.note(what, number, UNDER_WAY);
        let nodes = self.nodes;
        let Some(node) = nodes.get(number) else { return Ok(0) };
        let below = depth.saturating_add(1);
        let mut sum = 1_u64;
        let mut add = |compiling: &mut Self, number: usize, what: CostKind| {
            sum = sum.saturating_add(compiling.visit(number, what, below)?);
            Ok(())
        };
        let mut within = node.one_of.iter().chain(&node.all_of);
        match what {
            CostKind::Plain => {
                node.in_place.iter().chain(within).try_for_each(|child| add(self, *child, CostKind::Plain))?;
                if node.unevaluated {
                    add(self, number, CostKind::Leaving)?;
                }
            }
            CostKind::Leaving => {
                for child in &node.in_place {
                    add(self, *child, CostKind::Plain)?;
                    add(self, *child, CostKind::Leaving)?;
                }
                node.references.iter().try_for_each(|child| add(self, *child, CostKind::Leaving))?;
                within.try_for_each(|child| add(self, *child, CostKind::Plain))?;
            }
        }
        // No sum is taken for what is under way.
        let sum = sum.min(UNDER_WAY - 1);
        self.note(what, number, sum);
        Ok(sum)
    }

    fn known(&self, what: CostKind) -> &[Option<u64>] {
        if what == CostKind::Plain { &self.plain } else { &self.leaving }
    }

    fn note(&mut self, what: CostKind, number: usize, sum: u64) {
        let known = if what == CostKind::Plain { &mut self.plain } else { &mut self.leaving };
        if let Some(place) = known.get_mut(number) {
            *place = Some(sum);
        }
    }
}
