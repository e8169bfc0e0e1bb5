//! `mcpp workflow follow`: a run's steps as they go on, as a tree that is drawn again in place, or as lines of text or JSON that are only added.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant, SystemTime},
};

use console::Term;
use serde_json::Value;

use super::{field, steps, tree};
use crate::{
    cli::{clean, print, print_json, style::paint},
    mcp::client::Client,
};

/// How often the command asks, if the host answers soon.
const LOOK: Duration = Duration::from_millis(300);
/// The command waits at least so many times as long as the last answer took: a run with many steps has a long one.
const REST: u32 = 4;
/// How often it draws the tree again, for the time that ticks.
const TICK: Duration = Duration::from_millis(200);

pub(super) async fn follow(client: &Client, id: &str, as_json: bool) -> anyhow::Result<u8> {
    let mut screen = if as_json { None } else { Screen::of_terminal() };
    let mut followed: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let asked = Instant::now();
        let run = steps::whole(client, id).await?;
        let again = Instant::now().checked_add(LOOK.max(asked.elapsed().saturating_mul(REST)));
        // An undo that failed waits for an operator, and would be followed without end.
        let has_ended = field(&run, "phase") == "undo_failed" || steps::has(&run, "end_time");
        match &mut screen {
            Some(screen) => screen.draw(&run)?,
            None => tell(&run, &mut followed, as_json)?,
        }
        if has_ended {
            let status = field(&run, "status");
            if !as_json {
                print(&format!("{}: {status} ({})", clean(id), field(&run, "phase")))?;
            }
            return Ok(u8::from(status != "completed"));
        }
        while again.is_some_and(|again| Instant::now() < again) {
            tokio::time::sleep(TICK).await;
            if let Some(screen) = &mut screen {
                screen.draw(&run)?;
            }
        }
    }
}

/// Prints the steps of which something is new.
fn tell(run: &Value, followed: &mut BTreeMap<String, String>, as_json: bool) -> anyhow::Result<()> {
    for step in run.get("steps").and_then(Value::as_array).into_iter().flatten() {
        let (path, said) = (field(step, "step_id"), steps::describe(step));
        if followed.get(&path) == Some(&said) {
            continue;
        }
        if as_json {
            print_json(step)?;
        } else {
            print(&format!("{path} {said}"))?;
        }
        followed.insert(path, said);
    }
    Ok(())
}

/// The last lines of a terminal, which are drawn again and again.
#[derive(Debug)]
struct Screen {
    terminal: Term,
    /// Lines that it has drawn, and stands below.
    drawn: usize,
}

impl Screen {
    /// None where nobody looks, or where the terminal cannot move back.
    fn of_terminal() -> Option<Self> {
        let is_able = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let is_seen = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        (is_able && is_seen).then(|| Self { terminal: Term::stderr(), drawn: 0 })
    }

    fn draw(&mut self, run: &Value) -> anyhow::Result<()> {
        let (rows, columns) = self.terminal.size();
        // The cursor stands below the last line, and a line that fills the row would begin another one.
        let room = (usize::from(rows).saturating_sub(1), usize::from(columns).saturating_sub(1));
        let lines = tree::lines(run, room, SystemTime::now());
        let lines: Vec<String> = lines.iter().map(|line| paint(line.style, &line.text)).collect();
        let mut out = std::io::stderr().lock();
        out.write_all(redrawn(self.drawn, &lines).as_bytes())?;
        out.flush()?;
        self.drawn = lines.len();
        Ok(())
    }
}

/// The bytes that put lines in the place of as many as were `drawn`: each is cleared as it is written, so that nothing flickers.
fn redrawn(drawn: usize, lines: &[String]) -> String {
    let mut text = String::new();
    if drawn > 0 {
        text.push_str(&format!("\r\u{1b}[{drawn}A"));
    }
    for line in lines {
        text.push_str(&format!("{line}\u{1b}[K\n"));
    }
    text.push_str("\u{1b}[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_take_the_place_of_those_before_and_leave_nothing_of_them() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert_eq!(redrawn(0, &lines), "a\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(redrawn(3, &lines), "\r\u{1b}[3Aa\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
    }
}
