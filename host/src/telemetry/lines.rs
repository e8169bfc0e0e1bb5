//! The way of log lines to standard error. A writer never waits: a line for which there is no room is lost, and counted.
//!
//! One thread writes the waiting lines. The parent process may read the host's standard error slowly, or not at all; only that thread and the log suffer. The waiting lines are
//! bounded in number and in bytes, and a guest's may take half of the room at the most, so that guests cannot push out the host's own lines.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime},
};

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

use super::GUEST;

/// Lines that wait.
const MAX_WAITING_LINES: usize = 16 << 10;
/// Bytes of the lines that wait.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// A longer line is cut. A guest's record of the largest size fits, escaped.
const MAX_LINE_BYTES: usize = 24 << 10;
/// How often it is said at the most that lines were lost.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How soon to look again whether all is written.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The way to standard error. Clones are the same way.
#[derive(Debug, Clone)]
pub(super) struct LogLines {
    lines: SyncSender<Vec<u8>>,
    waiting: Arc<WaitingLine>,
    /// Of what waits, how much these lines may be.
    most_bytes: usize,
}

#[derive(Debug)]
struct WaitingLine {
    bytes: AtomicUsize,
    lost: AtomicU64,
    json: bool,
}

impl LogLines {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static, json: bool) -> io::Result<Self> {
        let (lines, waiting_lines) = sync_channel(MAX_WAITING_LINES);
        let waiting = Arc::new(WaitingLine { bytes: AtomicUsize::new(0), lost: AtomicU64::new(0), json });
        let written = Arc::clone(&waiting);
        std::thread::Builder::new().name("log".into()).spawn(move || write_out(&waiting_lines, &written, out))?;
        Ok(Self { lines, waiting, most_bytes: MAX_WAITING_BYTES })
    }

    /// Waits until all is written, but no longer than `patience`: it may be that nobody reads.
    #[expect(clippy::disallowed_methods, reason = "at the program's end, on its main thread")]
    pub(super) fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        while self.waiting.bytes.load(Ordering::Acquire) > 0 && Instant::now() < until {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn take(&self, line: &[u8]) {
        let line = if line.len() > MAX_LINE_BYTES { cut(line, self.waiting.json) } else { line.to_vec() };
        let bytes = line.len();
        let before = self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before.saturating_add(bytes) > self.most_bytes || self.lines.try_send(line).is_err() {
            self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.waiting.lost.fetch_add(1, Ordering::AcqRel);
            metrics::counter!("mcpp_log_lines_lost_total").increment(1);
        }
    }
}

/// Each call hands over one whole line, as the subscriber's formatter does.
impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Self {
        let most_bytes = if about.target() == GUEST { MAX_WAITING_BYTES / 2 } else { MAX_WAITING_BYTES };
        Self { most_bytes, ..self.clone() }
    }
}

/// Writes line after line, for as long as there may be one, and says between them how many were lost.
fn write_out(lines: &Receiver<Vec<u8>>, waiting: &WaitingLine, mut out: impl Write) {
    let (mut said, mut said_at) = (0, None::<Instant>);
    for line in lines {
        // If there is nobody to read there is nobody to tell.
        let _written = out.write_all(&line);
        let lost = waiting.lost.load(Ordering::Acquire);
        let all_written = waiting.bytes.load(Ordering::Acquire) == line.len();
        if lost > said && (all_written || said_at.is_none_or(|when| when.elapsed() >= SAY_EVERY)) {
            let _written = out.write_all(&lost_lines(lost.saturating_sub(said), waiting.json));
            (said, said_at) = (lost, Some(Instant::now()));
        }
        waiting.bytes.fetch_sub(line.len(), Ordering::AcqRel);
    }
}

fn lost_lines(lost: u64, json: bool) -> Vec<u8> {
    const MESSAGE: &str = "log lines were lost: standard error was not read as fast as they came";
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let line = if json {
        serde_json::json!({ "timestamp": now, "level": "WARN", "message": MESSAGE, "lost": lost }).to_string()
    } else {
        format!("{now}  WARN {MESSAGE} lost={lost}")
    };
    format!("{line}\n").into_bytes()
}

/// The beginning of a line that is too long, in a form that readers of the log still understand.
fn cut(line: &[u8], json: bool) -> Vec<u8> {
    let kept = MAX_LINE_BYTES / 2;
    let begins = String::from_utf8_lossy(line.get(..kept).unwrap_or(line));
    let left_out = line.len().saturating_sub(kept);
    if json {
        // Escaped, half of the longest line may become two halves.
        let begins: String = begins.chars().take(kept / 4).collect();
        let record = serde_json::json!({ "level": "WARN", "message": "a log line was too long", "bytes": line.len(), "begins": begins });
        return format!("{record}\n").into_bytes();
    }
    // A color that the line has begun ends with it.
    let reset = if begins.contains('\u{1b}') { "\u{1b}[0m" } else { "" };
    format!("{begins}{reset} … {left_out} bytes were cut\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    /// Whether a pipe is read, and what was read of it.
    type PipeState = Mutex<(bool, Vec<u8>)>;

    /// A reader that reads nothing until it is told to.
    #[derive(Clone, Default)]
    struct Pipe(Arc<(PipeState, Condvar)>);

    impl Pipe {
        fn read_on(&self) {
            self.0.0.lock().expect("whole").0 = true;
            self.0.1.notify_all();
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().expect("whole").1.clone()).expect("text")
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let open = self.0.0.lock().expect("whole");
            let mut open = self.0.1.wait_while(open, |(open, _)| !*open).expect("whole");
            open.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_what_is_lost_is_said() {
        let pipe = Pipe::default();
        let lines = LogLines::start(pipe.clone(), false).expect("started");
        let guests = LogLines { most_bytes: MAX_WAITING_BYTES / 2, ..lines.clone() };
        let line = vec![b'x'; MAX_LINE_BYTES];
        let fit = |most: usize| most / MAX_LINE_BYTES;
        for _ in 0..fit(MAX_WAITING_BYTES) + 50 {
            guests.take(&line);
        }
        assert_eq!(lines.waiting.bytes.load(Ordering::Acquire), fit(MAX_WAITING_BYTES / 2) * MAX_LINE_BYTES);
        lines.take(b"the host's own line\n");
        for _ in 0..fit(MAX_WAITING_BYTES) {
            lines.take(&line);
        }
        assert!(lines.waiting.bytes.load(Ordering::Acquire) <= MAX_WAITING_BYTES);
        let lost = lines.waiting.lost.load(Ordering::Acquire);
        let offered = 2 * fit(MAX_WAITING_BYTES) + 50;
        // One byte more, the host's own line, leaves no room for a whole last line.
        assert_eq!(usize::try_from(lost).expect("few"), offered - (fit(MAX_WAITING_BYTES - 20)), "{lost}");
        lines.flush(Duration::ZERO);
        pipe.read_on();
        lines.flush(PATIENCE);
        let text = pipe.text();
        assert!(text.contains("the host's own line"));
        let said: Vec<&str> = text.lines().filter_map(|line| line.split_once("lost=").map(|(_, lost)| lost)).collect();
        assert_eq!(said.iter().map(|lost| lost.parse::<u64>().expect("a number")).sum::<u64>(), lost);
    }

    #[test]
    fn lines_that_wait_are_bounded_in_number_too() {
        let lines = LogLines::start(Pipe::default(), true).expect("started");
        for _ in 0..MAX_WAITING_LINES + 100 {
            lines.take(b"\n");
        }
        let lost = usize::try_from(lines.waiting.lost.load(Ordering::Acquire)).expect("few");
        // One may be on its way out.
        assert!((99..=100).contains(&lost), "{lost}");
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_stays_readable() {
        let pipe = Pipe::default();
        pipe.read_on();
        for json in [false, true] {
            let lines = LogLines::start(pipe.clone(), json).expect("started");
            let longest = format!("{}\n", "\"".repeat(MAX_LINE_BYTES - 1));
            lines.take(longest.as_bytes());
            lines.take(format!("\"{longest}").as_bytes());
            lines.flush(PATIENCE);
            let text = pipe.text();
            let last = text.lines().last().expect("a line");
            assert!(text.contains(&longest) && last.len() <= MAX_LINE_BYTES, "{}", last.len());
            let read = serde_json::from_str::<serde_json::Value>(last).map(|record| record["bytes"].as_u64());
            assert_eq!(read.ok().flatten(), json.then_some(MAX_LINE_BYTES as u64 + 1));
        }
    }
}
