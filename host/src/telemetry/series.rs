//! The series of all metrics: what the host counts, kept so that a series can end, and written as Prometheus reads it.
//!
//! A histogram keeps its buckets and no samples, so nothing grows between two scrapes. The exporter's own recorder can end a series only when it was idle, and keeps samples until it is
//! asked; so the registry here is that of `metrics-util`, and only the format is the exporter's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{
    LabelSet,
    formatting::{write_help_line, write_metric_line, write_type_line},
};
use metrics_util::{
    registry::{Registry, Storage},
    storage,
};

use super::known::{OTHER, with_known};

/// Bounds of the buckets of all histograms, in seconds: they measure calls and commits.
const BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0];

/// All series. Clones are the same ones.
#[derive(Clone)]
pub(super) struct Series(Arc<Inner>);

struct Inner {
    registry: Registry<Key, Kinds>,
    descriptions: Mutex<BTreeMap<String, SharedString>>,
}

impl std::fmt::Debug for Series {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Series").finish_non_exhaustive()
    }
}

/// The storage of each kind of series.
struct Kinds;

type Number = Arc<metrics::atomics::AtomicU64>;

impl Storage<Key> for Kinds {
    type Counter = Number;
    type Gauge = Number;
    type Histogram = Arc<Buckets>;

    fn counter(&self, _: &Key) -> Number {
        Arc::default()
    }

    fn gauge(&self, _: &Key) -> Number {
        Arc::default()
    }

    fn histogram(&self, _: &Key) -> Arc<Buckets> {
        Arc::default()
    }
}

/// One histogram.
struct Buckets(Mutex<Option<storage::Histogram>>);

impl Default for Buckets {
    fn default() -> Self {
        Self(Mutex::new(storage::Histogram::new(&BUCKETS)))
    }
}

impl HistogramFn for Buckets {
    fn record(&self, value: f64) {
        if let Some(histogram) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            histogram.record(value);
        }
    }
}

/// The series that end: those of some names of a tenant, or all of the tenant's.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    pub(super) tenant: &'a str,
    /// Whether the tenant itself is gone.
    pub(super) whole: bool,
    pub(super) tools: BTreeSet<String>,
    pub(super) components: BTreeSet<String>,
}

impl<'a> Ended<'a> {
    /// Nothing of this tenant's.
    pub(super) fn new(tenant: &'a str) -> Self {
        Self { tenant, whole: false, tools: BTreeSet::new(), components: BTreeSet::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.whole && self.tools.is_empty() && self.components.is_empty()
    }

    fn has(&self, key: &Key) -> bool {
        label(key, "tenant") == Some(self.tenant)
            && (self.whole
                || label(key, "tool").is_some_and(|tool| self.tools.contains(tool))
                || label(key, "component").is_some_and(|component| self.components.contains(component)))
    }
}

fn label<'a>(key: &'a Key, name: &str) -> Option<&'a str> {
    key.labels().find(|label| label.key() == name).map(Label::value)
}

impl Series {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { registry: Registry::new(Kinds), descriptions: Mutex::default() }))
    }

    /// Ends series. Later counts into an ended series are lost.
    pub(super) fn end(&self, ended: &Ended<'_>) {
        self.0.registry.retain_counters(|key, _| !ended.has(key));
        self.0.registry.retain_gauges(|key, _| !ended.has(key));
        self.0.registry.retain_histograms(|key, _| !ended.has(key));
    }

    /// Calls `with` with the key of the series in which `key` is counted: labels that are no names of anything there is are [`OTHER`].
    fn with_key<T>(&self, key: &Key, with: impl FnOnce(&Key) -> T) -> T {
        let [tenant, tool, component] = ["tenant", "tool", "component"].map(|name| label(key, name));
        // The series is made before a name can go, so that it ends with it.
        with_known(tenant, tool, component, |known| {
            if known.tenant && known.tool && known.component {
                return with(&key.to_retained());
            }
            let labels = key.labels().map(|label| {
                let is_known = match label.key() {
                    "tenant" => known.tenant,
                    "tool" => known.tool,
                    "component" => known.component,
                    _ => true,
                };
                let value = if is_known { label.value().to_owned() } else { OTHER.to_owned() };
                Label::new(label.key().to_owned(), value)
            });
            with(&Key::from_parts(key.name().to_owned(), labels.collect::<Vec<_>>()))
        })
    }

    /// All series, as Prometheus reads them. Takes as long as there are series: it is not for a door's thread.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        let registry = &self.0.registry;
        let mut counters = BTreeMap::<String, Vec<(LabelSet, u64)>>::new();
        registry.visit_counters(|key, counter| push(&mut counters, key, counter.load(Ordering::Acquire)));
        self.write(&mut text, "counter", counters, |text, name, labels, value| {
            write_metric_line::<&str, u64>(text, name, None, labels, None, value, None);
        });
        let mut gauges = BTreeMap::new();
        registry.visit_gauges(|key, gauge| push(&mut gauges, key, f64::from_bits(gauge.load(Ordering::Acquire))));
        self.write(&mut text, "gauge", gauges, |text, name, labels, value| {
            write_metric_line::<&str, f64>(text, name, None, labels, None, value, None);
        });
        let mut histograms = BTreeMap::new();
        registry.visit_histograms(|key, buckets| {
            let histogram = buckets.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            histogram.into_iter().for_each(|histogram| push(&mut histograms, key, histogram));
        });
        self.write(&mut text, "histogram", histograms, write_histogram);
        text
    }

    fn write<T>(
        &self,
        text: &mut String,
        kind: &str,
        metrics: BTreeMap<String, Vec<(LabelSet, T)>>,
        line: impl Fn(&mut String, &str, &LabelSet, T),
    ) {
        for (name, series) in metrics {
            let description = self.lock_descriptions().get(&name).cloned();
            if let Some(description) = description {
                write_help_line(text, &name, None, None, &description);
            }
            write_type_line(text, &name, None, None, kind);
            for (labels, value) in series {
                line(text, &name, &labels, value);
            }
            text.push('\n');
        }
    }

    fn describe(&self, name: &KeyName, description: SharedString) {
        self.lock_descriptions().insert(name.as_str().to_owned(), description);
    }

    fn lock_descriptions(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, SharedString>> {
        self.0.descriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(metrics: &mut BTreeMap<String, Vec<(LabelSet, T)>>, key: &Key, value: T) {
    let labels = LabelSet::from_key_and_global(key, &Default::default());
    match metrics.get_mut(key.name()) {
        Some(series) => series.push((labels, value)),
        None => drop(metrics.insert(key.name().to_owned(), vec![(labels, value)])),
    }
}

fn write_histogram(text: &mut String, name: &str, labels: &LabelSet, histogram: storage::Histogram) {
    let (sum, count) = (histogram.sum(), histogram.count());
    for (bound, count) in histogram.buckets() {
        write_metric_line(text, name, Some("bucket"), labels, Some(("le", bound)), count, None);
    }
    write_metric_line(text, name, Some("bucket"), labels, Some(("le", "+Inf")), count, None);
    write_metric_line::<&str, f64>(text, name, Some("sum"), labels, None, sum, None);
    write_metric_line::<&str, u64>(text, name, Some("count"), labels, None, count, None);
}

impl Recorder for Series {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.describe(&name, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.with_key(key, |key| {
            self.0.registry.get_or_create_counter(key, |counter| Counter::from_arc(Arc::clone(counter)))
        })
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.with_key(key, |key| self.0.registry.get_or_create_gauge(key, |gauge| Gauge::from_arc(Arc::clone(gauge))))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.with_key(key, |key| {
            self.0.registry.get_or_create_histogram(key, |buckets| Histogram::from_arc(Arc::clone(buckets)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        limits::TenantLimits,
        names::TenantId,
        telemetry::known::{MAX_NAMES, Names, TenantTelemetry},
    };

    fn count(series: &Series, tool: &str) {
        metrics::with_local_recorder(series, || {
            metrics::counter!("calls", "tenant" => "series", "tool" => tool.to_owned()).increment(1);
            metrics::histogram!("seconds", "tenant" => "series", "tool" => tool.to_owned()).record(0.002);
        });
    }

    fn names(tools: impl IntoIterator<Item = String>) -> Names {
        Names { tools: tools.into_iter().collect(), ..Names::default() }
    }

    #[test]
    fn tools_that_come_and_go_under_new_names_leave_a_bounded_number_of_series() {
        let series = Series::new();
        let tenant = TenantTelemetry::open(&TenantId::new("series").expect("legal"), &TenantLimits::default());
        let all = || (0..3 * MAX_NAMES).map(|number| format!("t{number}"));
        tenant.set_names(names(all()));
        all().for_each(|tool| count(&series, &tool));
        let text = series.render();
        let lines = |text: &str, start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(lines(&text, "calls{"), MAX_NAMES + 1);
        assert!(text.contains("calls{tenant=\"series\",tool=\"(other)\"} 2000"), "nothing is left uncounted");
        assert_eq!(lines(&text, "seconds_bucket{"), (MAX_NAMES + 1) * (BUCKETS.len() + 1));
        assert!(text.contains("seconds_bucket{tenant=\"series\",tool=\"t1\",le=\"0.0025\"} 1"), "{text:.2000}");
    }

    #[test]
    fn a_series_ends_with_its_tool_and_a_late_count_does_not_bring_it_back() {
        let series = Series::new();
        let id = TenantId::new("series-end").expect("legal");
        let tenant = TenantTelemetry::open(&id, &TenantLimits::default());
        tenant.set_names(names(["a".to_owned(), "b".to_owned()]));
        let count = |tool: &str| {
            metrics::with_local_recorder(&series, || {
                metrics::counter!("calls", "tenant" => "series-end", "tool" => tool.to_owned()).increment(1);
                metrics::gauge!("memory", "tenant" => "series-end", "tool" => tool.to_owned()).set(1.0);
                metrics::histogram!("seconds", "tenant" => "series-end", "tool" => tool.to_owned()).record(1.0);
            });
        };
        ["a", "b"].into_iter().for_each(count);
        series.end(&Ended { tools: BTreeSet::from(["a".to_owned()]), ..Ended::new("series-end") });
        let text = series.render();
        assert!(!text.contains("tool=\"a\"") && text.contains("tool=\"b\""), "{text}");
        tenant.set_names(names(["b".to_owned()]));
        count("a");
        let text = series.render();
        assert!(!text.contains("tool=\"a\"") && text.contains("tool=\"(other)\"} 1"), "{text}");
        drop(tenant);
        series.end(&Ended { whole: true, ..Ended::new("series-end") });
        assert!(!series.render().contains("series-end"));
        count("b");
        assert!(!series.render().contains("series-end"), "the tenant is gone");
    }

    #[test]
    fn what_is_counted_is_written_as_prometheus_reads_it() {
        let series = Series::new();
        metrics::with_local_recorder(&series, || {
            metrics::describe_counter!("requests", "All \"requests\"");
            metrics::counter!("requests", "reason" => "a \"b\"").increment(3);
            metrics::gauge!("open").increment(2.0);
            metrics::gauge!("open").decrement(1.0);
            (0..1_000).for_each(|_| metrics::histogram!("seconds").record(0.5));
        });
        let text = series.render();
        for line in [
            "# TYPE requests counter\nrequests{reason=\"a \\\"b\\\"\"} 3\n",
            "# TYPE open gauge\nopen 1\n",
            "# TYPE seconds histogram\n",
            "seconds_bucket{le=\"0.25\"} 0\nseconds_bucket{le=\"1\"} 1000\n",
            "seconds_bucket{le=\"+Inf\"} 1000\nseconds_sum 500\nseconds_count 1000\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.starts_with("# HELP requests All"), "{text}");
    }
}
