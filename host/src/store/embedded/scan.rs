//! Scans: the merge of pending writes over the entries in the database, in steps.
//!
//! A step compares keys, and copies an entry only to return it. It passes over a bounded number of entries and bytes, so that no scan keeps a thread for long.

use std::{cmp::Ordering, iter::Peekable};

use bytes::Bytes;

use super::base::{Base, Found, Overlay, Own, full_key};
use crate::{
    names::ComponentName,
    store::{Entry, KeyRange, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, Order, Page, Scan, StoreError, after_key},
};

/// Deleted entries that one step passes over: about as many as a half of the log has, so that a queue whose head was worked off is read in one step.
const STEP_ENTRIES: usize = 4_096;
/// Bytes of their keys and values: the host may have to read these from the disk.
const STEP_BYTES: usize = 4 << 20;
/// The part of a value's bytes that passing over it costs its reader. The host reads them, and does not copy them.
const PASSED_PART: usize = 16;

/// A scan under way, between two steps.
#[derive(Debug)]
pub(super) struct RangeWalk {
    /// The part of the range that is still to be looked at.
    rest: KeyRange,
    scan: Scan,
    page: Page,
    /// Bytes of the entries in the page.
    bytes: usize,
}

/// What one step has passed over.
#[derive(Debug, Default)]
struct PassedOver {
    entries: usize,
    bytes: usize,
}

/// A write that the database does not have yet: its key, its value if it is no deletion, and its version.
type PendingWrite<'a> = (&'a Bytes, Option<&'a Bytes>, u64);

impl RangeWalk {
    /// A scan of a range from its beginning.
    pub(super) fn new(range: &KeyRange, scan: Scan) -> Self {
        Self { rest: range.clone(), scan, page: Page::default(), bytes: 0 }
    }

    /// The page, once the walk is done.
    pub(super) fn into_page(self) -> Page {
        self.page
    }

    /// Counts an entry of this size; false where the page is full, so that the range has more.
    fn has_room_for(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        let is_full = self.page.entries.len() >= self.scan.limit.min(MAX_PAGE_ENTRIES);
        self.page.more = is_full || (self.bytes > MAX_PAGE_BYTES && !self.page.entries.is_empty());
        !self.page.more
    }

    /// Notes that a deleted entry was passed over; whether the step is over.
    fn pass_over(&mut self, passed: &mut PassedOver, key: &Bytes, value_bytes: usize) -> bool {
        passed.entries = passed.entries.saturating_add(1);
        passed.bytes = passed.bytes.saturating_add(key.len()).saturating_add(value_bytes);
        let cost = key.len().saturating_add(value_bytes / PASSED_PART);
        self.page.passed_bytes = self.page.passed_bytes.saturating_add(cost);
        let is_over = passed.entries >= STEP_ENTRIES || passed.bytes >= STEP_BYTES;
        if is_over {
            match self.scan.order {
                Order::Ascending => self.rest.start = after_key(key),
                Order::Descending => self.rest.end = key.clone(),
            }
        }
        is_over
    }

    /// Merges two runs in the order of the scan; where both have a key the pending write stands. Whether the walk is done.
    fn step<'a, 'f>(
        &mut self,
        base: &Base,
        strip: usize,
        durable: impl Iterator<Item = Result<Found<'f>, StoreError>>,
        mut pending: Peekable<impl Iterator<Item = PendingWrite<'a>>>,
    ) -> Result<bool, StoreError> {
        let (mut durable, mut passed) = (durable.peekable(), PassedOver::default());
        loop {
            let first = match (durable.peek(), pending.peek()) {
                (None, None) => return Ok(true),
                (Some(_), None) | (Some(Err(_)), Some(_)) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Ok(found)), Some((key, ..))) => compare(found.key(strip), key, self.scan.order),
            };
            let mut covered_bytes = 0;
            if first == Ordering::Less {
                let Some(found) = durable.next().transpose()? else { return Ok(true) };
                if !self.has_room_for(found.bytes(strip)) {
                    return Ok(true);
                }
                self.page.entries.push(base.entry(Bytes::copy_from_slice(found.key(strip)), found.stored())?);
                continue;
            }
            if first == Ordering::Equal
                && let Some(Ok(found)) = durable.next()
            {
                covered_bytes = found.value_bytes();
            }
            let Some((key, value, version)) = pending.next() else { return Ok(true) };
            let Some(value) = value else {
                if self.pass_over(&mut passed, key, covered_bytes) {
                    return Ok(false);
                }
                continue;
            };
            if !self.has_room_for(key.len().saturating_add(value.len())) {
                return Ok(true);
            }
            self.page.entries.push(Entry { key: key.clone(), value: value.clone(), version });
        }
    }
}

impl Base {
    /// Goes on with a scan, with `staged` over the entries in the database, and over that the `own` writes of a transaction. Whether the walk is done.
    pub(super) fn walk(
        &self,
        component: &ComponentName,
        staged: &Overlay,
        own: Option<Own<'_>>,
        walk: &mut RangeWalk,
    ) -> Result<bool, StoreError> {
        if walk.rest.is_empty() || walk.scan.limit == 0 {
            return Ok(true);
        }
        let (rest, order) = (walk.rest.clone(), walk.scan.order);
        let strip = component.as_str().len().saturating_add(1);
        let (start, end) = (full_key(component, &rest.start), full_key(component, &rest.end));
        let durable = self.range(&start, &end)?;
        let keys = || rest.start.clone()..rest.end.clone();
        let staged = staged.range(keys()).map(|(key, pending)| (key, pending.value.as_ref(), pending.version));
        let own = own
            .into_iter()
            .flat_map(|own| own.writes.range(keys()).map(move |(key, value)| (key, value.as_ref(), own.version)));
        match order {
            Order::Ascending => walk.step(self, strip, durable, over(own, staged, order)),
            Order::Descending => walk.step(self, strip, durable.rev(), over(own.rev(), staged.rev(), order)),
        }
    }
}

fn compare(one: &[u8], other: &[u8], order: Order) -> Ordering {
    match order {
        Order::Ascending => one.cmp(other),
        Order::Descending => other.cmp(one),
    }
}

/// Merges two runs of writes; where both have a key the upper one stands.
fn over<'a>(
    upper: impl Iterator<Item = PendingWrite<'a>>,
    lower: impl Iterator<Item = PendingWrite<'a>>,
    order: Order,
) -> Peekable<impl Iterator<Item = PendingWrite<'a>>> {
    let (mut upper, mut lower) = (upper.peekable(), lower.peekable());
    let merged = std::iter::from_fn(move || match (upper.peek(), lower.peek()) {
        (Some((above, ..)), Some((below, ..))) => match compare(above, below, order) {
            Ordering::Less => upper.next(),
            Ordering::Equal => lower.next().and(upper.next()),
            Ordering::Greater => lower.next(),
        },
        (Some(_), None) => upper.next(),
        (None, _) => lower.next(),
    });
    merged.peekable()
}
