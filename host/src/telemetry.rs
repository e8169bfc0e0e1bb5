//! Logs to standard error, metrics for Prometheus. Standard output is for data and, on stdio, for MCP alone.
//!
//! Neither ever holds up a guest or a door: lines for which there is no room are lost and counted ([`lines`]), guests' records have a rate for each tenant, and labels of metrics are names that
//! there are ([`known`]), never words of a request, so the number of series is bounded and a series ends with its tool ([`series`]).

mod install;
pub mod known;
mod lines;
pub mod meters;
mod series;

use std::{
    io::{IsTerminal as _, Write as _},
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter, fmt};

use self::lines::LogLines;
use crate::{call::LogLevel, names::TenantId};

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The variable of the environment that overrides the configured level.
const OVERRIDE: &str = "RUST_LOG";

/// Refuses a configured level that the log does not understand, or takes for the name of a target: such a level would silence the host.
pub fn check_level(level: &str) -> Result<(), String> {
    configured(level).map(drop)
}

fn configured(level: &str) -> Result<EnvFilter, String> {
    let refuse = |reason: String| format!("log.level = {level:?}: {reason}");
    let mut words = level.split(',').map(str::trim).filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Err(refuse("it is empty; name error, warn, info, debug, trace or off".into()));
    }
    let is_known = |word: &&str| word.contains(['=', '[', ']', '{', '}']) || word.parse::<LevelFilter>().is_ok();
    if let Some(word) = words.find(|word| !is_known(word)) {
        return Err(refuse(format!(
            "{word:?} is neither error, warn, info, debug, trace or off, nor a directive such as guest=debug"
        )));
    }
    EnvFilter::try_new(format!("{level},{OF_LIBRARIES}")).map_err(|error| refuse(error.to_string()))
}

/// Starts logging at `level` (`RUST_LOG` overrides it); a second start in one process changes nothing.
pub fn start_logging(level: &str, format: LogFormat) -> Result<(), String> {
    let filter = match std::env::var(OVERRIDE).ok().filter(|filter| !filter.is_empty()) {
        Some(filter) => {
            EnvFilter::try_new(&filter).map_err(|error| format!("{OVERRIDE}={filter:?} is not understood: {error}"))?
        }
        None => configured(level)?,
    };
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let lines = lines_to_stderr(json).map_err(|error| format!("the log has no thread: {error}"))?;
    let logs = fmt().with_env_filter(filter).with_writer(lines).with_ansi(std::io::stderr().is_terminal());
    let _second_start = if json { logs.json().flatten_event(true).try_init() } else { logs.compact().try_init() };
    Ok(())
}

/// The way of the log to standard error; started at the first use, for this process's life.
static LINES: OnceLock<LogLines> = OnceLock::new();
/// How long the program waits at its end for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A writer for the log that never waits. Panics are written to the log too from then on: the usual report of one would wait for whoever reads standard error.
pub(crate) fn lines_to_stderr(json: bool) -> std::io::Result<impl for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static> {
    if let Some(lines) = LINES.get() {
        return Ok(lines.clone());
    }
    let lines = LogLines::start(std::io::stderr(), json)?;
    let lines = LINES.get_or_init(|| lines).clone();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let message = panic.payload_as_str().unwrap_or("without a message");
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(thread = thread.name(), location, message, "a thread panicked");
        if thread.name() == Some("main") {
            flush();
        }
    }));
    Ok(lines)
}

/// Waits until the log is written, for a second at the most.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(LAST_LINES);
    }
}

/// Writes the last word of the program to standard error, after the log. If no process reads it, the program waits for two seconds.
pub fn last_word(word: String) {
    flush();
    let (written, done) = std::sync::mpsc::sync_channel(1);
    let writer = std::thread::Builder::new().name("last word".into()).spawn(move || {
        let _nobody_may_read_it = std::io::stderr().write_all(word.as_bytes());
        let _the_program_may_have_gone_on = written.send(());
    });
    if writer.is_ok() {
        let _or_nobody_reads = done.recv_timeout(2 * LAST_LINES);
    }
}

/// What the libraries may say, as directives. The protocol engine logs every refused request as a warning and every client that left as an error, and the network warns of each message that it
/// refuses. What matters of that is in our own records.
pub(crate) const OF_LIBRARIES: &str = "rmcp=off,hyper=warn,libp2p=error";

/// The target of guests' records in the host's log.
pub const GUEST: &str = "guest";

/// A longer record of a guest is cut in the host's log; the call's client gets it whole.
const MAX_RECORD_BYTES: usize = 8 << 10;

/// Writes a guest's record to the host's log, unless its tenant's guests write too many. Control characters are escaped, so that a guest cannot write to the operator's terminal.
pub fn guest_record(tenant: Option<&TenantId>, component: &str, tool: &str, level: LogLevel, message: &str) {
    if !known::may_log(tenant, message.len().min(MAX_RECORD_BYTES)) {
        return;
    }
    let message = escaped(message);
    match level {
        LogLevel::Debug => tracing::debug!(target: GUEST, component, tool, "{message}"),
        LogLevel::Info | LogLevel::Notice => tracing::info!(target: GUEST, component, tool, "{message}"),
        LogLevel::Warning => tracing::warn!(target: GUEST, component, tool, "{message}"),
        LogLevel::Error | LogLevel::Critical | LogLevel::Alert | LogLevel::Emergency => {
            tracing::error!(target: GUEST, component, tool, severity = level.as_str(), "{message}");
        }
    }
}

/// The message without control characters, and cut if it is too long.
fn escaped(message: &str) -> String {
    let mut escaped = String::with_capacity(message.len().min(MAX_RECORD_BYTES));
    for (at, character) in message.char_indices() {
        if escaped.len() >= MAX_RECORD_BYTES {
            let left_out = message.len().saturating_sub(at);
            escaped.push_str(&format!(" … {left_out} bytes were cut"));
            break;
        }
        if character.is_control() { escaped.extend(character.escape_default()) } else { escaped.push(character) }
    }
    escaped
}

/// Installs the process's metrics, unless that was done.
pub fn start_metrics() {
    let _installed = install::series();
}

/// All metrics, as Prometheus reads them. They are written on a thread of their own, one scrape at a time: with many tenants they are megabytes.
pub async fn render() -> Option<String> {
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let series = install::series()?;
    let _one_at_a_time = ONE_AT_A_TIME.lock().await;
    tokio::task::spawn_blocking(|| series.render()).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_would_silence_the_log_is_refused() {
        for good in ["info", "WARN", "off", "info,guest=debug", "mcpp=debug,guest=off", "warn,[call{tool}]=trace"] {
            assert_eq!(check_level(good), Ok(()), "{good}");
        }
        for bad in ["wran", "chatty", "", " , ", "info,guest", "mcpp=loud"] {
            let error = check_level(bad).expect_err(bad);
            assert!(error.starts_with(&format!("log.level = {bad:?}: ")), "{error}");
        }
    }

    #[test]
    fn a_record_is_escaped_and_cut() {
        assert_eq!(escaped("a\nb\u{1b}[31m\u{9b}é"), "a\\nb\\u{1b}[31m\\u{9b}é");
        let longest = "é".repeat(MAX_RECORD_BYTES / 2);
        assert_eq!(escaped(&longest), longest);
        assert_eq!(escaped(&format!("{longest}ab")), format!("{longest} … 2 bytes were cut"));
        assert!(escaped(&"\u{1b}".repeat(MAX_RECORD_BYTES)).len() < MAX_RECORD_BYTES + 64);
    }
}
