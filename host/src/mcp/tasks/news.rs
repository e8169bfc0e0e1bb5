//! What a running call has said so far, for a client that does not hear it while it is said.

use std::collections::VecDeque;

use crate::call::CallEvent;

/// Lines of the log that are kept.
const MAX_LINES: usize = 20;
/// Bytes of one of them, and of the progress.
const MAX_LINE_BYTES: usize = 256;
/// The most that it takes, in bytes.
pub(super) const NEWS_BYTES: u64 = 8 << 10;

/// The last of what a call said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::mcp) struct CallNews {
    progress: Option<String>,
    log: VecDeque<String>,
}

impl CallNews {
    /// Notes an event.
    pub(in crate::mcp) fn note(&mut self, event: &CallEvent) {
        match event {
            CallEvent::Log { level, message, .. } => {
                if self.log.len() >= MAX_LINES {
                    self.log.pop_front();
                }
                self.log.push_back(line(&format!("{}: {}", level.as_str(), cut(message))));
            }
            CallEvent::Progress { done, total, message } => {
                let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
                let step = message.as_deref().map(|step| format!(": {}", cut(step))).unwrap_or_default();
                self.progress = Some(line(&format!("{done}{of}{step}")));
            }
        }
    }

    /// How far it is, in a line.
    pub(in crate::mcp) fn progress(&self) -> Option<&str> {
        self.progress.as_deref()
    }

    /// The last lines of its log.
    pub(in crate::mcp) fn log(&self) -> impl Iterator<Item = &str> {
        self.log.iter().map(String::as_str)
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_LINE_BYTES)).unwrap_or_default()
}

/// One line of a bounded length.
fn line(text: &str) -> String {
    cut(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::LogLevel;

    #[test]
    fn the_largest_news_keep_to_their_bound() {
        let mut news = CallNews::default();
        let text = "\u{1F600}".repeat(10_000);
        for _ in 0..1_000 {
            news.note(&CallEvent::Log { level: LogLevel::Emergency, component: "c".into(), message: text.clone() });
            news.note(&CallEvent::Progress { done: 0.1, total: Some(1.0 / 3.0), message: Some(text.clone()) });
        }
        let bytes: usize = news.log().map(str::len).sum::<usize>() + news.progress().map_or(0, str::len);
        assert_eq!(news.log().count(), MAX_LINES);
        assert!(bytes as u64 <= NEWS_BYTES, "{bytes}");
        assert!(bytes > MAX_LINES * (MAX_LINE_BYTES - 4), "{bytes}");
    }

    #[test]
    fn a_line_is_a_line() {
        let mut news = CallNews::default();
        news.note(&CallEvent::Progress { done: 3.0, total: Some(10.0), message: Some("a\nb".into()) });
        news.note(&CallEvent::Log { level: LogLevel::Info, component: "c".into(), message: "x\ry".into() });
        assert_eq!(news.progress(), Some("3 of 10: a b"));
        assert_eq!(news.log().collect::<Vec<_>>(), ["info: x y"]);
    }
}
