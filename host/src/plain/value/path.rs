//! Place of a value within another. The host writes it out only for a reader of an error: a value may have a million parts, and their names may be long.

use std::fmt;

use super::escape;

/// A place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    /// The whole value.
    Whole,
    /// Named part of another.
    Name(&'a Path<'a>, &'a str),
    /// Numbered part of another.
    Item(&'a Path<'a>, usize),
}

/// JSON pointer.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Name(within, name) => write!(f, "{within}/{}", escape(name)),
            Self::Item(within, number) => write!(f, "{within}/{number}"),
        }
    }
}
