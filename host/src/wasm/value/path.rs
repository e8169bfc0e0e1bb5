//! Where a value stands in what it is a part of. It is written out only for somebody who is told what is wrong there: a value may have a million parts, and their names may be long.

use std::fmt;

use super::escape;

/// A place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path<'a> {
    /// All of it.
    Whole,
    /// What has a name in another.
    Name(&'a Path<'a>, &'a str),
    /// What has a number in another.
    Item(&'a Path<'a>, usize),
}

/// As a JSON pointer.
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Name(within, name) => write!(f, "{within}/{}", escape(name)),
            Self::Item(within, number) => write!(f, "{within}/{number}"),
        }
    }
}
