//! Schemas that are in use: what several tenants have is compiled and kept once. Every one of them is charged for it all the same.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use super::CompiledSchema;

static KNOWN: LazyLock<Mutex<KnownSchemas>> = LazyLock::new(Mutex::default);

/// The schemas in use, by the digest of their text.
#[derive(Default)]
struct KnownSchemas {
    by_digest: HashMap<blake3::Hash, Weak<CompiledSchema>>,
    /// How many were in use when those that are gone were last removed.
    used: usize,
}

/// The schema with this text, if it is in use.
pub(super) fn find(digest: &blake3::Hash) -> Option<Arc<CompiledSchema>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).by_digest.get(digest)?.upgrade()
}

/// Remembers a schema while it is in use.
pub(super) fn note(digest: blake3::Hash, schema: &Arc<CompiledSchema>) {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner).note(digest, Arc::downgrade(schema));
}

impl KnownSchemas {
    fn note(&mut self, digest: blake3::Hash, schema: Weak<CompiledSchema>) {
        /// So many more than were in use may be gone before they are removed.
        const SPARE: usize = 64;
        if self.by_digest.len() > self.used.saturating_mul(2).saturating_add(SPARE) {
            self.by_digest.retain(|_, schema| schema.strong_count() > 0);
            self.used = self.by_digest.len();
        }
        self.by_digest.insert(digest, schema);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Schema;

    #[test]
    fn what_is_gone_takes_no_place_for_long() {
        let mut known = KnownSchemas::default();
        let kept = Schema::parse(r#"{"type":"object"}"#).expect("a schema");
        for number in 0..1_000_u32 {
            let gone = Arc::downgrade(&Schema::parse(r#"{"type":"object","title":"x"}"#).expect("one").compiled);
            let schema = if number < 10 { Arc::downgrade(&kept.compiled) } else { gone };
            known.note(blake3::hash(&number.to_be_bytes()), schema);
            assert!(known.by_digest.len() < 100, "{}", known.by_digest.len());
        }
        let used = known.by_digest.values().filter(|schema| schema.strong_count() > 0).count();
        assert_eq!(used, 10, "those in use stay");
    }

    #[test]
    fn a_text_is_compiled_once_while_it_is_in_use() {
        let text = r#"{"type":"object","properties":{"of_this_test":{"type":"string"}}}"#;
        let first = Schema::parse(text).expect("a schema");
        let second = Schema::parse(text).expect("a schema");
        assert!(Arc::ptr_eq(&first.compiled, &second.compiled));
        let other = Schema::parse(&format!("{text} ")).expect("a schema");
        assert!(!Arc::ptr_eq(&first.compiled, &other.compiled), "another text");
        let gone = Arc::downgrade(&first.compiled);
        drop((first, second));
        assert!(gone.upgrade().is_none(), "nothing keeps it");
    }
}
