//! Colors, where a person looks at a terminal and does not mind them (`NO_COLOR`).

use std::{io::IsTerminal as _, sync::LazyLock};

use clap::builder::styling::{AnsiColor, Style as Ansi};

/// The kind of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Good,
    Bad,
    Warning,
    Change,
    /// One of several that are told apart: tools.
    One(usize),
}

/// Colors that are read well on dark and on bright ground.
const SEVERAL: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::Green,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

static COLORED: LazyLock<bool> = LazyLock::new(|| {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !unwanted && std::io::stderr().is_terminal()
});

impl Style {
    /// The style of one line of a difference.
    pub(super) fn of_difference(line: &str) -> Self {
        match line.chars().next() {
            Some('+') => Self::Good,
            Some('-') => Self::Bad,
            _ => Self::Change,
        }
    }

    /// The style of one tool, the same every time.
    pub(super) fn of_tool(tool: &str) -> Self {
        Self::One(tool.bytes().fold(0, |sum, byte| (sum * 31 + usize::from(byte)) % SEVERAL.len()))
    }

    fn color(self) -> Option<AnsiColor> {
        Some(match self {
            Self::Plain => return None,
            Self::Good => AnsiColor::Green,
            Self::Bad => AnsiColor::Red,
            Self::Warning | Self::Change => AnsiColor::Yellow,
            Self::One(number) => SEVERAL.get(number % SEVERAL.len()).copied().unwrap_or(AnsiColor::Cyan),
        })
    }
}

/// The text in its color, or as it is.
pub(super) fn paint(style: Style, text: &str) -> String {
    let Some(color) = style.color().filter(|_| *COLORED) else { return text.to_owned() };
    let ansi = Ansi::new().fg_color(Some(color.into()));
    format!("{ansi}{text}{ansi:#}")
}
