//! The log of a host that a developer looks at: guests' records by tool, and of the host itself what is wrong.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    cli::style::{Style, paint},
    telemetry::{GUEST, OF_LIBRARIES, lines_to_stderr},
};

/// The records that are shown unless `RUST_LOG` says otherwise. The command itself shows the outcome of a load, with the remedy.
const SHOWN: &str = "warn,guest=debug,mcpp::reload=off";

/// Starts it; a second start in one process changes nothing.
pub(super) fn start() -> anyhow::Result<()> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| format!("{SHOWN},{OF_LIBRARIES}"));
    let logs = tracing_subscriber::fmt().with_env_filter(EnvFilter::try_new(directives)?);
    let _second_start = logs.with_writer(lines_to_stderr(false)?).event_format(Lines).try_init();
    Ok(())
}

/// One line an event: `TOOL | MESSAGE`.
struct Lines;

#[derive(Default)]
struct Fields {
    tool: String,
    component: String,
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "tool" => self.tool = value.to_owned(),
            "component" => self.component = value.to_owned(),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let (name, into) = (field.name(), &mut self.rest);
        let _a_string_takes_all = match name {
            "message" => write!(self.message, "{value:?}"),
            _ => write!(into, " {name}={value:?}"),
        };
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Lines {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = match *event.metadata().level() {
            Level::ERROR => paint(Style::Bad, "error: "),
            Level::WARN => paint(Style::Warning, "warning: "),
            _ => String::new(),
        };
        let Fields { tool, component, message, rest } = fields;
        if event.metadata().target() == GUEST {
            let tool = if tool.is_empty() { component } else { tool };
            return writeln!(writer, "{} {level}{message}", paint(Style::of_tool(&tool), &format!("{tool} |")));
        }
        writeln!(writer, "{level}{message}{rest}")
    }
}
