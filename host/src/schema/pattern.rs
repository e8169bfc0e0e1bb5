//! The cost of a schema's patterns: each matches in time linear in the text, times the size of its automaton.
//! The host finds that size by compiling the pattern under rising bounds.

use std::collections::HashMap;

use super::SchemaError;

/// Most patterns of one schema: each has a cache of its own on each thread that uses it.
pub(super) const MAX_PATTERNS: usize = 100;
/// Largest compiled pattern, in bytes.
pub(super) const MAX_PATTERN_BYTES: usize = 256 << 10;
/// All compiled patterns of one schema, in bytes.
const MAX_PATTERNS_BYTES: usize = 1 << 20;
/// The cache that a pattern may keep while it matches, in bytes.
pub(super) const CACHE_BYTES: usize = 64 << 10;
/// Bytes of an automaton that are looked at in a step.
const BYTES_OF_A_STEP: usize = 32;
/// The first of the bounds, in bytes; each is twice the one before.
const LEAST_BYTES: usize = 1 << 10;

/// The patterns of one schema.
#[derive(Debug, Default)]
pub(super) struct Patterns<'a> {
    known: HashMap<&'a str, usize>,
    bytes: usize,
}

impl<'a> Patterns<'a> {
    /// Counts a pattern; its steps for each byte of text.
    pub(super) fn add(&mut self, pattern: &'a str) -> Result<u64, SchemaError> {
        let bytes = match self.known.get(pattern) {
            Some(bytes) => *bytes,
            None => self.measure(pattern)?,
        };
        Ok(u64::try_from(bytes / BYTES_OF_A_STEP).unwrap_or(u64::MAX))
    }

    fn measure(&mut self, pattern: &'a str) -> Result<usize, SchemaError> {
        if self.known.len() >= MAX_PATTERNS {
            return Err(SchemaError::TooManyPatterns);
        }
        let bytes = compiled_bytes(pattern);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_PATTERNS_BYTES {
            return Err(SchemaError::Patterns);
        }
        self.known.insert(pattern, bytes);
        Ok(bytes)
    }

    /// The memory of all patterns, with the caches that they keep while they match.
    pub(super) fn bytes(&self) -> u64 {
        let caches = self.known.len().saturating_mul(CACHE_BYTES);
        u64::try_from(self.bytes.saturating_add(caches)).unwrap_or(u64::MAX)
    }
}

/// The size of a pattern's automaton, rounded up. One that this engine cannot read is taken for the largest: the compiler of schemas knows a little more syntax.
fn compiled_bytes(pattern: &str) -> usize {
    let mut bound = LEAST_BYTES;
    while bound < MAX_PATTERN_BYTES {
        match regex::RegexBuilder::new(pattern).size_limit(bound).build() {
            Ok(_) => return bound,
            Err(regex::Error::CompiledTooBig(_)) => bound = bound.saturating_mul(2),
            Err(_) => break,
        }
    }
    MAX_PATTERN_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_as_large_as_its_automaton() {
        assert!(compiled_bytes("^[a-z]+$") <= 4 << 10, "{}", compiled_bytes("^[a-z]+$"));
        assert!(compiled_bytes("[ab]{1,200}") > compiled_bytes("[ab]{1,20}"));
        assert_eq!(compiled_bytes("(a{1000}){1000}"), MAX_PATTERN_BYTES);
        assert_eq!(compiled_bytes("(?=x)"), MAX_PATTERN_BYTES, "what is not known is taken for large");
    }

    #[test]
    fn patterns_are_bounded_in_number_and_size() {
        let many: Vec<String> = (0..=MAX_PATTERNS).map(|n| format!("^a{n}$")).collect();
        let mut patterns = Patterns::default();
        let (last, rest) = many.split_last().expect("some");
        assert!(rest.iter().all(|pattern| patterns.add(pattern).is_ok()));
        assert!(patterns.add(&rest[0]).is_ok(), "one that is there already is no further one");
        assert_eq!(patterns.add(last), Err(SchemaError::TooManyPatterns));
        let large: Vec<String> = (0..5).map(|n| format!("{n}(a{{1000}}){{1000}}")).collect();
        let mut patterns = Patterns::default();
        let refused = large.iter().filter(|pattern| patterns.add(pattern) == Err(SchemaError::Patterns)).count();
        assert_eq!(refused, 1, "four of them fit");
    }
}
