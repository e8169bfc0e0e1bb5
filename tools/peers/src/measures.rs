//! What the tools show of a peer's measurements, and the reputation that follows from them. What was not measured is null.

use std::time::Duration;

use mcpp_tool::{
    environment::rfc3339,
    mesh::{self, Link, Measures, Peer},
};
use serde_json::{Value, json};

use crate::{
    address::with_peer,
    records::{Counters, HOUR_MS, Hour, KEPT_HOURS, Record},
};

/// The round trip that halves a connection's quality, in milliseconds.
const HALF_QUALITY_MS: f64 = 100.0;

/// A peer as it is now: what the host knows of it, and what is recorded.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// What the tenant has to do with it; none if it was only heard of.
    pub dealt: Option<Peer>,
    /// Its record, if it has one.
    pub record: Option<Record>,
    /// What was measured; nothing before [`Seen::measured`].
    pub measures: Measures,
}

impl Seen {
    /// A peer of which nothing was asked yet.
    pub fn new(id: String, dealt: Option<Peer>, record: Option<Record>) -> Self {
        Self { id, dealt, record, measures: Measures::default() }
    }

    /// The same with what was measured. That costs the host a look at all its connections, so only those that are shown are asked.
    #[must_use]
    pub fn measured(mut self) -> Self {
        self.measures = self.dealt.as_ref().and_then(|peer| mesh::metrics(&peer.id).ok()).unwrap_or_default();
        self
    }

    /// When its connection was made, in milliseconds since 1970-01-01 UTC; none if it is not connected.
    pub fn since_ms(&self) -> Option<u64> {
        Some(self.dealt.as_ref()?.connection?.since_ms)
    }

    /// `connected`, `connecting` or `disconnected`.
    pub fn status(&self, now_ms: u64) -> &'static str {
        let is_connecting = self.record.as_ref().is_some_and(|record| record.connecting_until_ms > now_ms);
        match (self.since_ms(), is_connecting) {
            (Some(_), _) => "connected",
            (None, true) => "connecting",
            (None, false) => "disconnected",
        }
    }

    /// When it was last connected, in milliseconds since 1970-01-01 UTC; none if that was not seen.
    pub fn seen_ms(&self, now_ms: u64) -> Option<u64> {
        self.since_ms().map(|_| now_ms).or_else(|| self.record.as_ref()?.alive_ms)
    }

    /// The tools that this tenant may call there: a peer's capabilities, as far as they can be known.
    pub fn capabilities(&self) -> &[String] {
        self.dealt.as_ref().map_or(&[], |peer| &peer.tools_there)
    }

    /// Whether it has all of these capabilities.
    pub fn can(&self, all: &[String]) -> bool {
        all.iter().all(|tool| {
            self.dealt.as_ref().is_some_and(|peer| peer.may_call(tool)) || self.capabilities().contains(tool)
        })
    }

    /// An address that ends in the peer: that of its connection, or else the one that is recorded.
    pub fn address(&self, link: Option<&Link>) -> Option<String> {
        let of_link = link.and_then(|link| link.addresses.first().cloned());
        let address = of_link.or_else(|| self.record.as_ref()?.address.clone())?;
        Some(with_peer(&address, &self.id))
    }

    /// The connection's addresses and program.
    pub fn link(&self) -> Option<Link> {
        self.since_ms().and_then(|_| mesh::link(&self.id).ok().flatten())
    }

    /// The round trip in milliseconds.
    pub fn latency_ms(&self) -> Option<f64> {
        self.measures.round_trip.map(millis)
    }

    /// What `peer_list` and `peer_discover` show.
    pub fn brief(&self, now_ms: u64, reputation: &Reputation) -> Value {
        json!({
            "latency_ms": self.latency_ms(),
            // The host measures no throughput.
            "bandwidth_mbps": null,
            "reliability_score": reputation.score(),
            "uptime_hours": self.uptime_hours(now_ms),
        })
    }

    fn uptime_hours(&self, now_ms: u64) -> Option<f64> {
        self.since_ms().map(|since| hours_of(now_ms.saturating_sub(since)))
    }

    /// What `peer_metrics` shows.
    pub fn full(&self, now_ms: u64, reputation: &Reputation) -> Value {
        let counted = Counters::of(&self.measures);
        json!({
            "latency_ms": self.latency_ms(),
            "bandwidth_mbps": null,
            "packet_loss_percent": null,
            "connection_quality": self.latency_ms().filter(|_| self.since_ms().is_some()).map(quality),
            "reliability_score": reputation.score(),
            "uptime_hours": self.uptime_hours(now_ms),
            "requests_served": counted.map(|counted| counted.requests.saturating_sub(counted.failures)),
            "bytes_transferred": counted.map(|counted| counted.bytes),
            "requests": counted.map(|counted| counted.requests),
            "failures": counted.map(|counted| counted.failures),
            "call_overhead_ms": self.measures.call.map(millis),
            "path": self.measures.path.map(|path| format!("{path:?}").to_lowercase()),
        })
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn hours_of(ms: u64) -> f64 {
    ms as f64 / HOUR_MS as f64
}

/// The quality of a connection with this round trip: 1 at none, a half at 100 ms, towards 0 beyond.
pub fn quality(latency_ms: f64) -> f64 {
    HALF_QUALITY_MS / (HALF_QUALITY_MS + latency_ms.max(0.0))
}

/// What a peer's measured outcomes amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reputation(pub Hour);

impl Reputation {
    /// Of these hours together.
    pub fn of<'h>(hours: impl IntoIterator<Item = &'h Hour>) -> Self {
        let mut sum = Hour::default();
        hours.into_iter().for_each(|hour| sum.add(hour));
        Self(sum)
    }

    /// Adds calls that are counted, but not yet in an hour.
    #[must_use]
    pub fn with(mut self, risen: Counters) -> Self {
        let Counters { requests, failures, bytes } = risen;
        self.0.add(&Hour { requests, failures, bytes, ..Hour::default() });
        self
    }

    fn answered(&self) -> u64 {
        self.0.requests.saturating_sub(self.0.failures)
    }

    /// The chance that the next call is answered, as Laplace's rule of succession has it; none if no call was made.
    pub fn score(&self) -> Option<f64> {
        (self.0.requests > 0).then(|| (self.answered() as f64 + 1.0) / (self.0.requests as f64 + 2.0))
    }

    /// The score, and how it came about.
    pub fn explain(&self) -> Value {
        let (answered, requests, days) = (self.answered(), self.0.requests, KEPT_HOURS / 24);
        let explanation = match self.score() {
            Some(_) => format!(
                "{answered} of {requests} calls of this tenant were answered in the last {days} days: ({answered} + 1) / ({requests} + 2)"
            ),
            None => format!("this tenant made no call of the peer in the last {days} days"),
        };
        let availability = (self.0.samples > 0).then(|| f64::from(self.0.connected) / f64::from(self.0.samples));
        json!({
            "score": self.score(), "explanation": explanation, "answered": answered, "requests": requests,
            "availability": availability, "samples": self.0.samples,
        })
    }
}

/// An hour of a peer's history.
pub fn history(hour: u64, measured: &Hour) -> Value {
    let trips = measured.round_trips;
    let latency_ms = (trips > 0).then(|| measured.round_trip_us as f64 / f64::from(trips) / 1_000.0);
    json!({
        "timestamp": rfc3339(hour.saturating_mul(HOUR_MS)),
        "latency_ms": latency_ms,
        "bandwidth_mbps": null,
        "packet_loss_percent": null,
        "connected_share": (measured.samples > 0).then(|| f64::from(measured.connected) / f64::from(measured.samples)),
        "requests": measured.requests,
        "failures": measured.failures,
        "bytes_transferred": measured.bytes,
    })
}
