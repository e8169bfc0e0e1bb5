//! SeenEffects as they are seen at the store and in files, and what is known of them from rehearsals without a fault.

use std::collections::{BTreeMap, BTreeSet};

use super::Leak;

/// Where an effect is: a component, and a key of its store or a file of its.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EffectPlace {
    /// The component.
    pub(super) component: String,
    /// The key, or the file's path.
    pub(super) key: Vec<u8>,
}

/// Everything that is there, by place, with the digests of the values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SeenEffects(pub(super) BTreeMap<EffectPlace, [u8; 32]>);

impl SeenEffects {
    /// The places whose values are new or others.
    pub(super) fn changed_since(&self, before: &Self) -> Vec<EffectPlace> {
        self.0
            .iter()
            .filter(|(place, value)| before.0.get(place) != Some(value))
            .map(|(place, _)| place.clone())
            .collect()
    }

    fn of<'a>(&'a self, component: &'a str) -> impl Iterator<Item = (&'a EffectPlace, &'a [u8; 32])> {
        self.0.iter().filter(move |(place, _)| place.component == component)
    }

    fn components(&self) -> BTreeSet<&str> {
        self.0.keys().map(|place| &*place.component).collect()
    }
}

/// How far effects of a component are the same in two runs without a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steadiness {
    /// Keys and values are.
    Values,
    /// Keys are; values have a time in them, or chance.
    Keys,
    /// Only their number is.
    Number,
}

/// What is known of effects.
#[derive(Debug, Default)]
pub(super) struct KnownEffects {
    /// Those of a run without a fault.
    clean: SeenEffects,
    /// Which step wrote a place last.
    writers: BTreeMap<EffectPlace, String>,
    /// By component.
    steadiness: BTreeMap<String, Steadiness>,
}

impl KnownEffects {
    /// From two runs without a fault; `writers` are of the second.
    pub(super) fn new(clean: SeenEffects, second: &SeenEffects, writers: BTreeMap<EffectPlace, String>) -> Self {
        let all: BTreeSet<&str> = clean.components().into_iter().chain(second.components()).collect();
        let steadiness = all.into_iter().map(|component| {
            let keys =
                |effects: &SeenEffects| effects.of(component).map(|(place, _)| place.clone()).collect::<Vec<_>>();
            let steadiness = if clean.of(component).eq(second.of(component)) {
                Steadiness::Values
            } else if keys(&clean) == keys(second) {
                Steadiness::Keys
            } else {
                Steadiness::Number
            };
            (component.to_owned(), steadiness)
        });
        let steadiness = steadiness.collect();
        Self { clean, writers, steadiness }
    }

    /// The steps that write to a component's store or files.
    fn steps_of(&self, component: &str) -> BTreeSet<&str> {
        let of = self.writers.iter().filter(|(place, _)| place.component == component);
        of.map(|(_, step)| &**step).collect()
    }

    /// The one who wrote a place; if that place is another one in each run, the only step that writes to the component.
    fn writer(&self, place: &EffectPlace) -> Option<&str> {
        let all = self.steps_of(&place.component);
        let only = if all.len() == 1 { all.first().copied() } else { None };
        self.writers.get(place).map(String::as_str).or(only)
    }

    /// How effects differ from those without a fault, after a fault of a step that must change nothing.
    pub(super) fn differs(&self, now: &SeenEffects, step: &str) -> Vec<Leak> {
        let all: BTreeSet<&str> = self.clean.components().into_iter().chain(now.components()).collect();
        let mut leaks = Vec::new();
        for component in all {
            let (had, has) = (self.clean.of(component).count(), now.of(component).count());
            let changed = |only_keys: bool| {
                let other = |(place, value): &(&EffectPlace, &[u8; 32])| match self.clean.0.get(place) {
                    Some(clean) => !only_keys && clean != *value,
                    None => true,
                };
                let gone = self.clean.of(component).filter(|(place, _)| !now.0.contains_key(place)).count();
                now.of(component).filter(other).count().saturating_add(gone)
            };
            let count = match self.steadiness.get(component).copied().unwrap_or(Steadiness::Values) {
                Steadiness::Values => changed(false),
                Steadiness::Keys => changed(true),
                Steadiness::Number => had.abs_diff(has),
            };
            if count > 0 {
                let reason = format!(
                    "`{component}` has {has} entries and not {had}, and {count} of them differ from a run without a fault"
                );
                leaks.push(Leak { step: Some(step.to_owned()), reason });
            }
        }
        leaks
    }

    /// Everything that is there although the run failed, by the step that wrote it. `undone` are the steps whose undo succeeded.
    pub(super) fn left(&self, now: &SeenEffects, undone: &BTreeSet<&str>) -> Vec<Leak> {
        let mut left: BTreeMap<(&str, Option<&str>), usize> = BTreeMap::new();
        for place in now.0.keys() {
            let count = left.entry((&place.component, self.writer(place))).or_default();
            *count = count.saturating_add(1);
        }
        let leak = |((component, step), count): ((&str, Option<&str>), usize)| {
            let why = match step {
                Some(step) if undone.contains(step) => "although it was undone",
                Some(_) => "and no undo took it back",
                None => "and it is not known which step wrote it",
            };
            let reason = format!("its effect stays: {count} entries of `{component}`, {why}");
            Leak { step: step.map(str::to_owned), reason }
        };
        left.into_iter().map(leak).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effects(entries: &[(&str, &str, u8)]) -> SeenEffects {
        let place = |component: &str, key: &str| EffectPlace { component: component.into(), key: key.into() };
        SeenEffects(entries.iter().map(|(component, key, value)| (place(component, key), [*value; 32])).collect())
    }

    fn known(first: &SeenEffects, second: &SeenEffects) -> KnownEffects {
        let writers = second.0.keys().map(|place| (place.clone(), format!("step of {}", place.component))).collect();
        KnownEffects::new(first.clone(), second, writers)
    }

    #[test]
    fn a_second_effect_is_seen_as_far_as_effects_are_steady() {
        let values = known(&effects(&[("bank", "a", 1)]), &effects(&[("bank", "a", 1)]));
        assert_eq!(values.differs(&effects(&[("bank", "a", 1)]), "s"), []);
        assert_eq!(values.differs(&effects(&[("bank", "a", 2)]), "s").len(), 1);
        assert_eq!(values.differs(&effects(&[]), "s").len(), 1);
        let keys = known(&effects(&[("bank", "a", 1)]), &effects(&[("bank", "a", 2)]));
        assert_eq!(keys.differs(&effects(&[("bank", "a", 3)]), "s"), []);
        assert_eq!(keys.differs(&effects(&[("bank", "a", 1), ("bank", "b", 1)]), "s").len(), 1);
        let number = known(&effects(&[("bank", "a", 1)]), &effects(&[("bank", "b", 1)]));
        assert_eq!(number.differs(&effects(&[("bank", "c", 1)]), "s"), []);
        assert_eq!(number.differs(&effects(&[("bank", "c", 1), ("bank", "d", 1)]), "s").len(), 1);
    }

    #[test]
    fn what_stays_is_named_by_the_step_that_wrote_it() {
        let clean = effects(&[("bank", "a", 1), ("books", "b", 1)]);
        let known = known(&clean, &clean);
        assert_eq!(known.left(&effects(&[]), &BTreeSet::new()), []);
        let left = known.left(&effects(&[("bank", "a", 0), ("other", "x", 0)]), &BTreeSet::from(["step of bank"]));
        let steps: Vec<Option<&str>> = left.iter().map(|leak| leak.step.as_deref()).collect();
        assert_eq!(steps, [Some("step of bank"), None]);
        assert!(left[0].reason.ends_with("although it was undone"), "{left:?}");
    }
}
