//! The process's metrics: their one recorder, and what each metric means.

use std::sync::OnceLock;

use super::series::Series;

static SERIES: OnceLock<Option<Series>> = OnceLock::new();

/// The process's series; the recorder is installed at the first use. None if another program's recorder is.
pub(super) fn series() -> Option<&'static Series> {
    SERIES.get_or_init(install).as_ref()
}

fn install() -> Option<Series> {
    let series = Series::new();
    metrics::set_global_recorder(series.clone())
        .inspect_err(|error| tracing::error!(%error, "the metrics are not kept"))
        .ok()?;
    describe();
    Some(series)
}

fn describe() {
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
    metrics::describe_histogram!(
        "mcpp_store_checkpoint_seconds",
        metrics::Unit::Seconds,
        "Checkpoints of the store: many commits go from the log into the database"
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
    metrics::describe_gauge!("mcpp_connections", "Open HTTP connections, by kind");
    metrics::describe_gauge!("mcpp_tenant_connections", "Open HTTP connections of a tenant");
    metrics::describe_gauge!("mcpp_tenant_streams", "Open streams of a tenant that stand without a call");
    metrics::describe_counter!(
        "mcpp_tenant_held_back_total",
        "Waits of a tenant's large messages (traffic) and notifications (notices) for their rate"
    );
    metrics::describe_counter!("mcpp_connections_cut_total", "Connections that the host ended, by reason");
    metrics::describe_gauge!(
        "mcpp_memory_bytes",
        metrics::Unit::Bytes,
        "Memory in use, by tenant and pool; without a tenant, of the whole host"
    );
    metrics::describe_gauge!("mcpp_memory_bound_bytes", metrics::Unit::Bytes, "Memory of the host, by pool");
    metrics::describe_counter!("mcpp_containers_total", "Containers that ended, by tenant and outcome");
    metrics::describe_counter!("mcpp_refused_total", "Requests refused before they reached a tool, by reason");
    metrics::describe_counter!(
        "mcpp_log_lines_lost_total",
        "Lines of the log that were lost because standard error was not read as fast as they came"
    );
    metrics::describe_counter!(
        "mcpp_log_records_dropped_total",
        "Log records of guests that came faster than their tenant's rate, by tenant and reason"
    );
}
