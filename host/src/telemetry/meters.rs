//! The meters of one tool's calls. The host finds each series once, and counts every later call without a look-up.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Gauge, Histogram, SharedString};

use crate::{
    call::{CallError, Cost, Receipt, ToolResult},
    names::{TenantId, ToolName},
};

/// Counters of a call's cost.
const COSTS: [&str; 8] = [
    "mcpp_call_cpu_microseconds_total",
    "mcpp_host_calls_total",
    "mcpp_guest_store_ops_total",
    "mcpp_guest_store_bytes_total",
    "mcpp_guest_file_bytes_total",
    "mcpp_http_requests_total",
    "mcpp_http_bytes_total",
    "mcpp_call_fuel_total",
];

/// The series of one tool of a live revision. They end with the tool's name: later counts are lost.
#[derive(Debug)]
pub struct CallMeters {
    tenant: SharedString,
    tool: SharedString,
    duration: Histogram,
    memory: Gauge,
    succeeded: Counter,
    /// A counter of [`COSTS`] begins with the first call that costs something of its kind.
    costs: [OnceLock<Counter>; COSTS.len()],
}

impl CallMeters {
    /// Meters of a tool that the tenant has.
    pub fn new(tenant: &TenantId, tool: &ToolName) -> Self {
        let (tenant, tool) = (shared(tenant.as_str()), shared(tool.as_str()));
        let labels = || [("tenant", tenant.clone()), ("tool", tool.clone())];
        let duration = metrics::histogram!("mcpp_call_duration_seconds", &labels());
        let memory = metrics::gauge!("mcpp_call_memory_bytes", &labels());
        let succeeded = metrics::counter!(
            "mcpp_calls_total", "tenant" => tenant.clone(), "tool" => tool.clone(), "outcome" => "ok"
        );
        Self { tenant, tool, duration, memory, succeeded, costs: Default::default() }
    }

    /// Counts a call that ended.
    pub fn call_ended(&self, result: Result<&ToolResult, &CallError>, receipt: Receipt) {
        let Receipt { duration, cost } = receipt;
        self.duration.record(duration.as_secs_f64());
        self.memory.set(cost.memory_bytes as f64);
        for ((name, counter), amount) in COSTS.iter().zip(&self.costs).zip(amounts(&cost)) {
            if amount > 0 {
                counter.get_or_init(|| self.counter(name)).increment(amount);
            }
        }
        let outcome = match result {
            Ok(result) if !result.is_error => return self.succeeded.increment(1),
            Ok(_) => "tool_error",
            Err(error) => error.kind(),
        };
        let (tenant, tool) = (self.tenant.clone(), self.tool.clone());
        metrics::counter!("mcpp_calls_total", "tenant" => tenant, "tool" => tool, "outcome" => outcome).increment(1);
    }

    fn counter(&self, name: &'static str) -> Counter {
        metrics::counter!(name, "tenant" => self.tenant.clone(), "tool" => self.tool.clone())
    }
}

/// The amounts of [`COSTS`].
fn amounts(cost: &Cost) -> [u64; COSTS.len()] {
    [
        u64::try_from(cost.processor_time.as_micros()).unwrap_or(u64::MAX),
        cost.host_calls,
        cost.store_ops,
        cost.store_bytes,
        cost.file_bytes,
        cost.http_requests,
        cost.http_bytes,
        cost.fuel.unwrap_or_default(),
    ]
}

fn shared(text: &str) -> SharedString {
    SharedString::from_shared(Arc::from(text))
}
