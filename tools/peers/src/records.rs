//! Peers that were heard of, and what was measured by the hour. A record that is not kept ends 30 minutes after the peer was last heard of, measurements end after 30 days.

use mcpp_tool::{
    mesh::Measures,
    store::{Budget, Counts, Index, StoreError, Table, Transaction, View, bites},
};
use serde::{Deserialize, Serialize};

/// A record that is not kept ends so long after the peer was last heard of, in milliseconds.
pub const TTL_MS: u64 = 30 * 60 * 1_000;
/// An hour, in milliseconds.
pub const HOUR_MS: u64 = 3_600 * 1_000;
/// Hours for which measurements are kept: 30 days.
pub const KEPT_HOURS: u64 = 30 * 24;
/// Peers that are recorded. A further one is passed over until a record ends.
pub const MAX_PEERS: i64 = 512;
/// Rows of measurements: 256 peers for 30 days. About 60 MB.
pub const MAX_HOURS: i64 = 256 * KEPT_HOURS as i64;

/// Peers that one call records as connected: each takes some eight writes.
const MAX_SAW: usize = 64;
/// A call records that of a peer again only after so long, in milliseconds.
const SAW_AGAIN_MS: u64 = 5_000;

/// How a peer became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The tenant deals with it.
    Tenant,
    /// A caller named it.
    Caller,
    /// A setting.
    Env,
    /// A file.
    File,
    /// The registry.
    Github,
    /// The list of public nodes.
    Public,
    /// It says that it provides the service.
    Dht,
}

impl Source {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Caller => "caller",
            Self::Env => "env",
            Self::File => "file",
            Self::Github => "github",
            Self::Public => "public",
            Self::Dht => "dht",
        }
    }
}

/// What was counted of a peer when it was last measured. The host's counters begin with the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Calls.
    pub requests: u64,
    /// Those without an answer.
    pub failures: u64,
    /// Bytes, both ways.
    pub bytes: u64,
}

impl Counters {
    /// The counters in these measures; none if there are none.
    pub fn of(measures: &Measures) -> Option<Self> {
        let bytes = measures.sent_bytes?.saturating_add(measures.received_bytes?);
        Some(Self { requests: measures.requests?, failures: measures.failures?, bytes })
    }

    /// By how much they have risen since `before`; all of it, if the host has begun anew.
    pub fn since(self, before: Self) -> Self {
        if self.requests < before.requests || self.bytes < before.bytes {
            return self;
        }
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// A peer that was heard of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// An address, if one is known.
    pub address: Option<String>,
    /// How it became known.
    pub source: Source,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub first_ms: u64,
    /// When it was last heard of, from whomever, in milliseconds since 1970-01-01 UTC.
    pub noted_ms: u64,
    /// When it was last connected, in milliseconds since 1970-01-01 UTC; none if it never was.
    pub alive_ms: Option<u64>,
    /// Whether the record is kept, and the peer connected again.
    pub is_kept: bool,
    /// Until when a call connects it, in milliseconds since 1970-01-01 UTC.
    pub connecting_until_ms: u64,
    /// What was counted when it was last measured.
    pub counted: Counters,
}

impl Record {
    /// A peer that was just heard of.
    pub fn new(source: Source, now_ms: u64) -> Self {
        let (address, counted) = (None, Counters::default());
        let (first_ms, noted_ms, alive_ms) = (now_ms, now_ms, None);
        Self { address, source, first_ms, noted_ms, alive_ms, is_kept: false, connecting_until_ms: 0, counted }
    }
}

/// Records that are not kept, by when the peer was last heard of.
const NOTED: Index<(), (u64, String)> = Index::new("noted");
/// Records that are kept.
pub const KEPT: Index<(), String> = Index::new("kept");
const COUNT: Counts<()> = Counts::new("peer-count");
/// Records by peer.
pub const PEERS: Table<String, Record> = Table::new("peers", |id, record, places| {
    places.count(&COUNT, &());
    match record.is_kept {
        true => places.index(&KEPT, &(), id),
        false => places.index(&NOTED, &(), &(record.noted_ms, id)),
    }
});

/// What was measured of a peer in an hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hour {
    /// How often it was looked at.
    pub samples: u32,
    /// Those in which it was connected.
    pub connected: u32,
    /// Those in which it was connected through a relay.
    pub relayed: u32,
    /// Those with a round trip.
    pub round_trips: u32,
    /// The sum of the round trips, in microseconds.
    pub round_trip_us: u64,
    /// Calls.
    pub requests: u64,
    /// Those without an answer.
    pub failures: u64,
    /// Bytes of calls, both ways.
    pub bytes: u64,
}

impl Hour {
    /// Adds another hour's measurements.
    pub fn add(&mut self, other: &Self) {
        self.samples = self.samples.saturating_add(other.samples);
        self.connected = self.connected.saturating_add(other.connected);
        self.relayed = self.relayed.saturating_add(other.relayed);
        self.round_trips = self.round_trips.saturating_add(other.round_trips);
        self.round_trip_us = self.round_trip_us.saturating_add(other.round_trip_us);
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

const BY_HOUR: Index<(), (u64, String)> = Index::new("by-hour");
const HOUR_COUNT: Counts<()> = Counts::new("hour-count");
/// Measurements by peer and hour, which is counted since 1970-01-01 UTC.
pub const HOURS: Table<(String, u64), Hour> = Table::new("hours", |(peer, hour), _, places| {
    places.index(&BY_HOUR, &(), &(*hour, peer));
    places.count(&HOUR_COUNT, &());
});

/// A peer was heard of: its record is made or changed. Whether there is one then.
///
/// # Errors
/// See [`StoreError`].
pub fn note(
    t: &Transaction<'_>,
    peer: &str,
    source: Source,
    now_ms: u64,
    change: impl FnOnce(&mut Record),
) -> Result<bool, StoreError> {
    let known = PEERS.get(t, peer)?;
    if known.is_none() && COUNT.get(t, &())? >= MAX_PEERS {
        return Ok(false);
    }
    let mut record = known.unwrap_or_else(|| Record::new(source, now_ms));
    change(&mut record);
    PEERS.put(t, &peer.to_owned(), &record)?;
    Ok(true)
}

/// A peer is connected, or was until now.
///
/// # Errors
/// See [`StoreError`].
pub fn connected(t: &Transaction<'_>, peer: &str, source: Source, now_ms: u64) -> Result<(), StoreError> {
    let change = |record: &mut Record| {
        record.noted_ms = record.noted_ms.max(now_ms);
        record.alive_ms = record.alive_ms.max(Some(now_ms));
    };
    note(t, peer, source, now_ms, change).map(drop)
}

/// A call happens to see that these peers are connected. A peer may come and go between two rounds, so the call records that, of at most [`MAX_SAW`] peers.
///
/// # Errors
/// See [`StoreError`].
pub fn saw<'p>(t: &Transaction<'_>, peers: impl Iterator<Item = &'p String>, now_ms: u64) -> Result<(), StoreError> {
    let mut written = 0;
    for peer in peers {
        let seen = PEERS.get(t, peer)?.and_then(|record| record.alive_ms);
        if written < MAX_SAW && seen.is_none_or(|seen| seen.saturating_add(SAW_AGAIN_MS) <= now_ms) {
            written += 1;
            connected(t, peer, Source::Tenant, now_ms)?;
        }
    }
    Ok(())
}

/// Adds measurements to a peer's hour.
///
/// # Errors
/// See [`StoreError`].
pub fn measure(t: &Transaction<'_>, peer: &str, now_ms: u64, measured: &Hour) -> Result<(), StoreError> {
    let key = (peer.to_owned(), now_ms / HOUR_MS);
    let known = HOURS.get(t, &key)?;
    if known.is_none() && HOUR_COUNT.get(t, &())? >= MAX_HOURS {
        return Ok(());
    }
    let mut hour = known.unwrap_or_default();
    hour.add(measured);
    HOURS.put(t, &key, &hour).map(drop)
}

/// The hours of a peer, the oldest first, from `first` on.
///
/// # Errors
/// See [`StoreError`].
pub fn hours(t: &View<'_>, peer: &str, first: u64) -> Result<Vec<(u64, Hour)>, StoreError> {
    let rows = HOURS.under(&(peer,)).from(&(peer, first)).most(KEPT_HOURS as usize + 1);
    rows.walk(t).map(|row| row.map(|((_, hour), measured)| (hour, measured))).collect()
}

/// Ends records and measurements that are too old; how many records.
///
/// # Errors
/// See [`StoreError`].
pub fn tidy(now_ms: u64) -> Result<usize, StoreError> {
    let mut budget = Budget { entries: 2_000, ..Budget::UNBOUNDED };
    let old_peers = NOTED.of(&()).below(&(now_ms.saturating_sub(TTL_MS),));
    let ended = bites(&mut budget, &old_peers, |t, (_, peer)| PEERS.remove(t, &peer).map(|gone| gone.is_some()))?;
    let first = (now_ms / HOUR_MS).saturating_sub(KEPT_HOURS);
    let old_hours = BY_HOUR.of(&()).below(&(first,));
    bites(&mut budget, &old_hours, |t, (hour, peer)| HOURS.remove(t, &(peer, hour)).map(|gone| gone.is_some()))?;
    Ok(ended.changed)
}
