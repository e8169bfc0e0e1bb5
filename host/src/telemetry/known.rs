//! The tenants, tools and components that there are, as far as telemetry is concerned: only their names become labels of metrics, and each tenant has a rate for its guests' records.
//!
//! Names come and go; a series ends with the name that it carries. A tenant has a bound on names. A name beyond the bound, or gone already when it is counted, counts as [`OTHER`].

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::{install, series::Ended};
use crate::{limits::TenantLimits, names::TenantId};

/// Names of tools, and names of components, that become labels, for each tenant. One name has about twenty lines in a scrape.
pub const MAX_NAMES: usize = 1_000;
/// The label of what is beyond the bound, or of what there is no more. No tool, component or tenant can be called so.
pub const OTHER: &str = "(other)";
/// Seconds of a rate that may come at once.
const BURST_SECONDS: u32 = 10;
/// How often it is said at the most that a tenant's records are dropped.
const SAY_EVERY: Duration = Duration::from_secs(1);

static KNOWN: LazyLock<RwLock<HashMap<TenantId, Known>>> = LazyLock::new(RwLock::default);
/// For guests outside of a tenant's calls: components that are asked for their tools.
static UNOWNED: LazyLock<LogRate> = LazyLock::new(|| LogRate::new(&TenantLimits::default()));

/// One tenant. Several hosts in one process may each have a tenant of the same name.
#[derive(Debug)]
struct Known {
    holders: usize,
    tools: HashMap<String, usize>,
    components: HashMap<String, usize>,
    log: Arc<LogRate>,
}

/// A tenant in the host's telemetry. When it is dropped, the tenant's series end.
#[derive(Debug)]
pub struct TenantTelemetry {
    tenant: TenantId,
    names: Mutex<Names>,
}

/// The names of a tenant's tools and components.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Its tools.
    pub tools: BTreeSet<String>,
    /// Its components.
    pub components: BTreeSet<String>,
}

impl TenantTelemetry {
    /// Notes that there is a tenant.
    pub fn open(tenant: &TenantId, limits: &TenantLimits) -> Self {
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(tenant.clone()).or_insert_with(|| Known {
            holders: 0,
            tools: HashMap::new(),
            components: HashMap::new(),
            log: Arc::new(LogRate::new(limits)),
        });
        entry.holders = entry.holders.saturating_add(1);
        Self { tenant: tenant.clone(), names: Mutex::default() }
    }

    /// Gives the tenant's guests another rate for their records.
    pub fn set_limits(&self, limits: &TenantLimits) {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&self.tenant) {
            known.log.set(limits);
        }
    }

    /// Notes what the tenant has now. The series of what it has no more end.
    pub fn set_names(&self, mut next: Names) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = Ended::new(self.tenant.as_str());
        {
            let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
            let Some(known) = known.get_mut(&self.tenant) else { return };
            exchange(&mut known.tools, &names.tools, &mut next.tools, &mut ended.tools);
            exchange(&mut known.components, &names.components, &mut next.components, &mut ended.components);
        }
        *names = next;
        end(&ended);
    }
}

impl Drop for TenantTelemetry {
    fn drop(&mut self) {
        self.set_names(Names::default());
        let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get_mut(&self.tenant) else { return };
        entry.holders = entry.holders.saturating_sub(1);
        if entry.holders > 0 {
            return;
        }
        known.remove(&self.tenant);
        drop(known);
        end(&Ended { whole: true, ..Ended::new(self.tenant.as_str()) });
    }
}

fn end(ended: &Ended<'_>) {
    if !ended.is_empty()
        && let Some(series) = install::series()
    {
        series.end(ended);
    }
}

/// Lets go of the names `before`, and holds the names `next`, of which those stay for which there is room. Names that nobody holds any more are `ended`.
fn exchange(
    held: &mut HashMap<String, usize>,
    before: &BTreeSet<String>,
    next: &mut BTreeSet<String>,
    ended: &mut BTreeSet<String>,
) {
    for gone in before.difference(next) {
        if let Some(holders) = held.get_mut(gone) {
            *holders = holders.saturating_sub(1);
            if *holders == 0 {
                held.remove(gone);
                ended.insert(gone.clone());
            }
        }
    }
    next.retain(|name| {
        if before.contains(name) {
            return true;
        }
        let room = held.len() < MAX_NAMES || held.contains_key(name);
        if room {
            let holders = held.entry(name.clone()).or_default();
            *holders = holders.saturating_add(1);
        }
        room
    });
}

/// Calls `with` with which labels stay as they are; no name comes or goes meanwhile.
pub(super) fn with_known<T>(
    tenant: Option<&str>,
    tool: Option<&str>,
    component: Option<&str>,
    with: impl FnOnce(Labels) -> T,
) -> T {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let entry = tenant.and_then(|tenant| TenantId::new(tenant).ok()).and_then(|tenant| known.get(&tenant));
    let has = |names: fn(&Known) -> &HashMap<String, usize>, name: Option<&str>| {
        name.is_none_or(|name| entry.is_some_and(|entry| names(entry).contains_key(name)))
    };
    with(Labels {
        tenant: tenant.is_none() || entry.is_some(),
        tool: tenant.is_none() || has(|known| &known.tools, tool),
        component: tenant.is_none() || has(|known| &known.components, component),
    })
}

/// Which labels of a series are names that there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Labels {
    pub(super) tenant: bool,
    pub(super) tool: bool,
    pub(super) component: bool,
}

/// Whether a guest's record of this size, or the host's about a guest's failure, may be written now. One that may not is counted, and that is said.
pub(crate) fn may_log(tenant: Option<&TenantId>, bytes: usize) -> bool {
    let rate = tenant.and_then(|tenant| {
        let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
        known.get(tenant).map(|known| Arc::clone(&known.log))
    });
    rate.as_deref().unwrap_or(&UNOWNED).take(tenant, bytes)
}

/// A rate for records of guests, in number and in bytes.
#[derive(Debug)]
struct LogRate {
    limits: ArcSwap<Limiters>,
    dropped: AtomicU64,
    said: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Limiters {
    per_second: (u64, u64),
    records: DefaultDirectRateLimiter,
    bytes: DefaultDirectRateLimiter,
    most_bytes: NonZeroU32,
}

fn at_least_one(number: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(number).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

impl Limiters {
    fn new(per_second: (u64, u64)) -> Self {
        let (records, bytes) = (at_least_one(per_second.0), at_least_one(per_second.1));
        let burst = |rate: NonZeroU32| rate.saturating_mul(NonZeroU32::new(BURST_SECONDS).unwrap_or(NonZeroU32::MIN));
        let limiter = |rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(burst(rate)));
        Self { per_second, records: limiter(records), bytes: limiter(bytes), most_bytes: burst(bytes) }
    }
}

impl LogRate {
    fn new(limits: &TenantLimits) -> Self {
        let limiters = Limiters::new((limits.log_records_per_second, limits.log_bytes_per_second));
        Self { limits: ArcSwap::from_pointee(limiters), dropped: AtomicU64::new(0), said: Mutex::default() }
    }

    fn set(&self, limits: &TenantLimits) {
        let per_second = (limits.log_records_per_second, limits.log_bytes_per_second);
        if self.limits.load().per_second != per_second {
            self.limits.store(Arc::new(Limiters::new(per_second)));
        }
    }

    fn take(&self, tenant: Option<&TenantId>, bytes: usize) -> bool {
        let limits = self.limits.load();
        // A record larger than all that may come at once takes all of that.
        let bytes = NonZeroU32::new(u32::try_from(bytes).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let refused = if limits.records.check().is_err() {
            Some("records")
        } else if !matches!(limits.bytes.check_n(bytes.min(limits.most_bytes)), Ok(Ok(()))) {
            Some("bytes")
        } else {
            None
        };
        if let Some(reason) = refused {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            let tenant = tenant.map_or_else(|| OTHER.to_owned(), TenantId::to_string);
            metrics::counter!("mcpp_log_records_dropped_total", "tenant" => tenant, "reason" => reason).increment(1);
        }
        if self.dropped.load(Ordering::Relaxed) > 0 {
            self.say(tenant);
        }
        refused.is_none()
    }

    fn say(&self, tenant: Option<&TenantId>) {
        {
            // Somebody else is about to say it.
            let Ok(mut said) = self.said.try_lock() else { return };
            if said.is_some_and(|when| when.elapsed() < SAY_EVERY) {
                return;
            }
            *said = Some(Instant::now());
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let tenant = tenant.map_or(OTHER, TenantId::as_str);
        tracing::warn!(
            tenant,
            dropped,
            "log records of guests were dropped: they come faster than the tenant's log_records_per_second or log_bytes_per_second"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(records: u64, bytes: u64) -> TenantLimits {
        TenantLimits { log_records_per_second: records, log_bytes_per_second: bytes, ..TenantLimits::default() }
    }

    #[test]
    fn records_are_bounded_in_number_and_in_bytes_and_one_tenant_takes_nothing_from_another() {
        let [a, b] = ["rate-a", "rate-b"].map(|name| TenantId::new(name).expect("legal"));
        let first = TenantTelemetry::open(&a, &limits(5, 1 << 30));
        let _second = TenantTelemetry::open(&b, &limits(1_000_000, 1_024));
        let admitted = |tenant: &TenantId, bytes| (0..1_000).filter(|_| may_log(Some(tenant), bytes)).count();
        let records = admitted(&a, 1);
        // Those of the burst, and a few that the time that passed allows again.
        assert!((50..60).contains(&records), "{records}");
        let bytes = admitted(&b, 1_000);
        assert!((10..12).contains(&bytes), "{bytes}");
        assert!(!may_log(Some(&b), usize::MAX), "the largest takes all, and that is taken");
        first.set_limits(&limits(1_000_000, 1 << 30));
        assert_eq!(admitted(&a, 1), 1_000);
    }

    #[test]
    fn names_are_bounded_and_make_room_when_they_go() {
        let tenant = TenantId::new("names").expect("legal");
        let telemetry = TenantTelemetry::open(&tenant, &TenantLimits::default());
        let is_known = |tool: &str| with_known(Some("names"), Some(tool), None, |known| known.tool);
        let names = |numbers: std::ops::Range<usize>| Names {
            tools: numbers.map(|number| format!("t{number:05}")).collect(),
            ..Names::default()
        };
        telemetry.set_names(names(0..MAX_NAMES + 1));
        assert!(is_known("t00000") && is_known("t00999") && !is_known("t01000"));
        telemetry.set_names(names(1..MAX_NAMES + 1));
        assert!(!is_known("t00000") && is_known("t00999") && is_known("t01000"));
        let other = TenantTelemetry::open(&tenant, &TenantLimits::default());
        other.set_names(names(1..2));
        drop(telemetry);
        assert!(is_known("t00001") && !is_known("t00002"), "another host's stay");
        drop(other);
        assert!(!with_known(Some("names"), None, None, |known| known.tenant));
        assert!(with_known(None, Some("t"), None, |known| known.tool), "what is no tenant's has no names to know");
    }
}
