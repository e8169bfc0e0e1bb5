//! Logs to standard error, metrics for Prometheus. Standard output is for data and, on stdio, for MCP alone.
//!
//! Metric labels come from the catalog and the configuration, never from a request, so their number is bounded.

use std::{io::IsTerminal as _, sync::OnceLock};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    call::{CallError, LogLevel, Receipt, ToolResult},
    tenant::TenantId,
};

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

/// Starts logging at `level` (`RUST_LOG` overrides it); a second start in one process changes nothing.
pub fn start_logging(level: &str, format: LogFormat) -> Result<(), String> {
    // The protocol engine logs every refused request as a warning and every client that left as an error; what matters of that is in our own records.
    let directives = format!("{level},rmcp=off,hyper=warn");
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter),
        Err(_) => EnvFilter::try_new(directives),
    }
    .map_err(|error| format!("log level {level:?} is not understood: {error}"))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let logs = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let _second_start = if json { logs.json().flatten_event(true).try_init() } else { logs.compact().try_init() };
    Ok(())
}

/// The target of guests' records in the host's log.
pub const GUEST: &str = "guest";

/// Writes a guest's record to the host's log. Control characters are escaped, so that a guest cannot write to the operator's terminal.
pub fn guest_record(component: &str, tool: &str, level: LogLevel, message: &str) {
    let message: String =
        message.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    match level {
        LogLevel::Debug => tracing::debug!(target: GUEST, component, tool, "{message}"),
        LogLevel::Info | LogLevel::Notice => tracing::info!(target: GUEST, component, tool, "{message}"),
        LogLevel::Warning => tracing::warn!(target: GUEST, component, tool, "{message}"),
        LogLevel::Error | LogLevel::Critical | LogLevel::Alert | LogLevel::Emergency => {
            tracing::error!(target: GUEST, component, tool, severity = level.as_str(), "{message}");
        }
    }
}

/// An error with all its sources, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
/// Bounds of the buckets of call durations, in seconds.
const DURATION_BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// The process's metrics; installed at the first use.
pub fn metrics() -> Option<&'static PrometheusHandle> {
    METRICS.get_or_init(install_metrics).as_ref()
}

fn install_metrics() -> Option<PrometheusHandle> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("mcpp_call_duration_seconds".into()), &DURATION_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full("mcpp_store_commit_seconds".into()), &DURATION_BUCKETS)
        })
        .inspect_err(|error| tracing::error!(%error, "the metrics have no buckets"))
        .ok()?;
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).ok()?;
    metrics::describe_counter!("mcpp_calls_total", "Tool calls that ended, by tenant, tool and outcome");
    metrics::describe_histogram!(
        "mcpp_call_duration_seconds",
        metrics::Unit::Seconds,
        "Time from door to answer, by tenant and tool"
    );
    metrics::describe_counter!(
        "mcpp_call_cpu_microseconds_total",
        "Processor time of guests in microseconds, by tenant and tool"
    );
    metrics::describe_counter!("mcpp_call_fuel_total", "Fuel of guests where it is counted, by tenant and tool");
    metrics::describe_gauge!("mcpp_tenant_instances", "Instances and queueing calls of a tenant, by state");
    metrics::describe_counter!("mcpp_host_calls_total", "Calls of guests into the host, by tenant and tool");
    metrics::describe_counter!("mcpp_guest_store_ops_total", "Operations of guests on the store, by tenant and tool");
    metrics::describe_counter!(
        "mcpp_guest_store_bytes_total",
        metrics::Unit::Bytes,
        "Bytes that guests read from the store and wrote to it, by tenant and tool"
    );
    metrics::describe_counter!(
        "mcpp_guest_file_bytes_total",
        metrics::Unit::Bytes,
        "Bytes that guests wrote to files, by tenant and tool"
    );
    metrics::describe_counter!("mcpp_http_requests_total", "HTTP requests of guests, by tenant and tool");
    metrics::describe_counter!(
        "mcpp_http_bytes_total",
        metrics::Unit::Bytes,
        "Bytes that guests sent and received over HTTP, by tenant and tool"
    );
    metrics::describe_gauge!(
        "mcpp_call_memory_bytes",
        metrics::Unit::Bytes,
        "Linear memory of the last call, by tenant and tool"
    );
    metrics::describe_counter!(
        "mcpp_guests_dropped_total",
        "Guests that did not end after they were stopped and were dropped"
    );
    metrics::describe_counter!(
        "mcpp_call_events_dropped_total",
        "Log and progress events that a slow client had no room for"
    );
    metrics::describe_histogram!(
        "mcpp_store_commit_seconds",
        metrics::Unit::Seconds,
        "Durable commits of the store, each of one or more transactions"
    );
    metrics::describe_counter!("mcpp_store_transactions_total", "Transactions committed, by tenant");
    metrics::describe_counter!("mcpp_store_failures_total", "Commits that the disk refused, by tenant");
    metrics::describe_counter!(
        "mcpp_deliveries_total",
        "Events and timers delivered, by tenant, component and outcome"
    );
    metrics::describe_counter!("mcpp_swaps_total", "Loads of a component, by tenant and outcome");
    metrics::describe_gauge!("mcpp_sessions", "Legacy sessions, by tenant");
    metrics::describe_gauge!("mcpp_instances", "Instances, by state");
    metrics::describe_gauge!("mcpp_connections", "Open HTTP connections");
    metrics::describe_counter!("mcpp_refused_total", "Requests refused before they reached a tool, by reason");
    Some(handle)
}

/// Counts a call that ended.
pub fn call_ended(tenant: &TenantId, tool: &str, result: Result<&ToolResult, &CallError>, receipt: Receipt) {
    let Receipt { duration, cost } = receipt;
    let outcome = match result {
        Ok(result) if result.is_error => "tool_error",
        Ok(_) => "ok",
        Err(error) => error.kind(),
    };
    let (tenant, tool) = (tenant.to_string(), tool.to_owned());
    metrics::histogram!("mcpp_call_duration_seconds", "tenant" => tenant.clone(), "tool" => tool.clone())
        .record(duration.as_secs_f64());
    let counted = [
        ("mcpp_call_cpu_microseconds_total", u64::try_from(cost.processor_time.as_micros()).unwrap_or(u64::MAX)),
        ("mcpp_host_calls_total", cost.host_calls),
        ("mcpp_guest_store_ops_total", cost.store_ops),
        ("mcpp_guest_store_bytes_total", cost.store_bytes),
        ("mcpp_guest_file_bytes_total", cost.file_bytes),
        ("mcpp_http_requests_total", cost.http_requests),
        ("mcpp_http_bytes_total", cost.http_bytes),
    ];
    let fuel = cost.fuel.map(|fuel| ("mcpp_call_fuel_total", fuel));
    for (name, amount) in counted.into_iter().chain(fuel).filter(|(_, amount)| *amount > 0) {
        metrics::counter!(name, "tenant" => tenant.clone(), "tool" => tool.clone()).increment(amount);
    }
    metrics::gauge!("mcpp_call_memory_bytes", "tenant" => tenant.clone(), "tool" => tool.clone())
        .set(cost.memory_bytes as f64);
    metrics::counter!("mcpp_calls_total", "tenant" => tenant, "tool" => tool, "outcome" => outcome).increment(1);
}
