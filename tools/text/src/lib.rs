//! Text and hashing utilities: small, pure tools that every host has.

use mcpp_tool::{Error, environment::hexadecimal, tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A hash function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4).
    #[default]
    Sha256,
    /// SHA-512 (FIPS 180-4).
    Sha512,
}

/// A digest.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hash {
    /// The hash function.
    algorithm: Algorithm,
    /// The digest, in lower-case hexadecimal.
    digest: String,
}

/// Hashes a text (its UTF-8 bytes).
#[tool(read_only, idempotent, open_world = false)]
fn text_hash(
    /// The text.
    text: String,
    /// The hash function; sha256 if absent.
    #[serde(default)]
    algorithm: Algorithm,
) -> Hash {
    let digest = match algorithm {
        Algorithm::Sha256 => hexadecimal(&Sha256::digest(&text)),
        Algorithm::Sha512 => hexadecimal(&Sha512::digest(&text)),
    };
    Hash { algorithm, digest }
}

/// The measures of a text.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Statistics {
    /// UTF-8 bytes.
    bytes: usize,
    /// Unicode scalar values.
    characters: usize,
    /// Words: runs of characters other than white space.
    words: usize,
    /// Lines, the last with or without an end.
    lines: usize,
}

/// Counts the bytes, characters, words and lines of a text.
#[tool(read_only, idempotent, open_world = false)]
fn text_statistics(
    /// The text.
    text: String,
) -> Statistics {
    Statistics {
        bytes: text.len(),
        characters: text.chars().count(),
        words: text.split_whitespace().count(),
        lines: text.lines().count(),
    }
}

/// Replaces every occurrence of a piece of text and says how many there were.
#[tool(read_only, idempotent = false, open_world = false)]
fn text_replace(
    /// The text to look through.
    text: String,
    /// The text to find; not empty.
    find: String,
    /// The text to put in its place.
    replace: String,
) -> Result<Replaced, Error> {
    if find.is_empty() {
        return Err(Error::invalid_argument("/find", "must not be empty"));
    }
    Ok(Replaced { count: text.matches(&find).count(), text: text.replace(&find, &replace) })
}

/// A text in which something was replaced.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Replaced {
    /// The new text.
    text: String,
    /// How many occurrences were replaced.
    count: usize,
}

mcpp_tool::export!(text_hash, text_statistics, text_replace);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_standard() {
        let hash = text_hash("abc".into(), Algorithm::Sha256);
        assert_eq!(hash.digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let hash = text_hash("abc".into(), Algorithm::Sha512);
        assert!(hash.digest.starts_with("ddaf35a193617abacc417349ae204131"));
    }

    #[test]
    fn texts_are_measured() {
        let statistics = text_statistics("für\nalle Fälle".into());
        assert_eq!(statistics, Statistics { bytes: 16, characters: 14, words: 3, lines: 2 });
    }

    #[test]
    fn nothing_cannot_be_replaced() {
        assert_eq!(
            text_replace("a".into(), String::new(), "b".into()),
            Err(Error::invalid_argument("/find", "must not be empty"))
        );
        assert_eq!(text_replace("aXbX".into(), "X".into(), "-".into()), Ok(Replaced { text: "a-b-".into(), count: 2 }));
    }
}
