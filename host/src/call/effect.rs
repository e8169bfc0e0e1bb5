//! Keys of effects: what lets a server see that a request is a repetition.
//!
//! A component names the effect of a call that it may repeat. Each request over HTTP and each further call below that call gets a key of its own, which a repetition derives again
//! as long as the called tool does the same things in the same order.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use crate::{names::TenantId, tenant::Principal};

/// Most different effects of one call that have keys; the budgets of calls and requests are below that.
const MAX_EFFECTS: usize = 10_000;

/// The key of one effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EffectKey([u8; 32]);

impl EffectKey {
    /// The key of the effect that a tenant's component names so. Another component, and another tenant, cannot name it.
    pub fn named(tenant: &TenantId, component: &str, effect: &str) -> Self {
        Self::of("mcpp 2026-11 effect", &[tenant.as_str(), component, effect])
    }

    /// Reads a key: 64 hexadecimal digits.
    pub fn read(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(|hash| Self(hash.into()))
    }

    /// The key of an effect that a caller from outside named: no two callers can name the same.
    pub fn of_caller(self, principal: &Principal) -> Self {
        Self::of("mcpp 2026-11 effect of a caller", &[principal.tenant.as_str(), &principal.subject, &self.to_string()])
    }

    fn of(context: &'static str, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().into())
    }

    fn below(self, parts: &[&str], number: u32) -> Self {
        let (above, number) = (self.to_string(), number.to_string());
        let parts: Vec<&str> = [above.as_str(), number.as_str()].into_iter().chain(parts.iter().copied()).collect();
        Self::of("mcpp 2026-11 effect within an effect", &parts)
    }
}

impl fmt::Display for EffectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

/// The key of a running call, and how often it has done what.
#[derive(Debug, Default)]
pub struct Effects {
    key: Option<EffectKey>,
    done: Mutex<BTreeMap<EffectKey, u32>>,
}

impl Effects {
    /// Those of a call with this key.
    pub fn new(key: Option<EffectKey>) -> Self {
        Self { key, done: Mutex::default() }
    }

    /// The call's own key.
    pub fn key(&self) -> Option<EffectKey> {
        self.key
    }

    /// The key of the next effect of this kind below the call; none if the call has none.
    pub fn next(&self, parts: &[&str]) -> Option<EffectKey> {
        let key = self.key?;
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = EffectKey::of("mcpp 2026-11 kind of effect", parts);
        if done.len() >= MAX_EFFECTS && !done.contains_key(&kind) {
            return None;
        }
        let number = done.entry(kind).or_default();
        let next = key.below(parts, *number);
        *number = number.saturating_add(1);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_has_the_same_keys_and_nothing_else_has_them() {
        let named = |name: &str, effect: &str| EffectKey::named(&TenantId::local(), name, effect);
        let keys = |key: EffectKey| {
            let effects = Effects::new(Some(key));
            [["POST", "/a"], ["POST", "/b"], ["POST", "/a"]].map(|parts| effects.next(&parts).expect("a key"))
        };
        let first = keys(named("workflow", "run/step"));
        assert_eq!(keys(named("workflow", "run/step")), first);
        let mut all: Vec<EffectKey> = first.to_vec();
        all.extend(keys(named("other", "run/step")));
        all.extend(keys(named("workflow", "run/ste")));
        all.push(named("workflow", "run/step"));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "each effect has a key of its own");
        assert_eq!(first[0].to_string().len(), 64);
        assert_eq!(Effects::new(None).next(&["POST", "/a"]), None);
    }

    #[test]
    fn the_keys_of_a_call_are_bounded() {
        let effects = Effects::new(Some(EffectKey::of("test", &[])));
        for number in 0..MAX_EFFECTS {
            assert!(effects.next(&[&number.to_string()]).is_some());
        }
        assert_eq!(effects.next(&["one more"]), None);
        assert!(effects.next(&["0"]).is_some());
    }
}
