//! Ranges of typed entries, read lazily: a [`Span`] says which entries, a [`Walk`] goes through them.
//!
//! A walk reads pages behind the scenes, small ones first: a caller that stops early has read little, and a walk to the end makes one host call for a thousand entries.

use std::{collections::VecDeque, fmt, marker::PhantomData};

use serde::{Deserialize, Serialize};

use super::{Entry, KeyOf, Order, Prefix, Range, StoreError, Transaction, View};

/// Entries of the first page of a walk. Each page has four times as many as the one before.
const FIRST_PAGE: u32 = 16;
/// Entries of the largest page, as the store has it.
const LARGEST_PAGE: u32 = 1_000;

/// A place in a span, to go on behind it: also in another call, as it can be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(Vec<u8>);

impl Cursor {
    /// The cursor as bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<Vec<u8>> for Cursor {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

/// How an entry becomes an item: from its key behind the span's own beginning, and its value.
pub(super) type Decode<T> = fn(&[u8], &Entry) -> Result<T, StoreError>;

/// Some entries of a collection, in order: those at places of type `P`, each an item of type `T`. Nothing is read until it is walked through.
///
/// ```
/// use mcpp_tool::store::{Map, StoreError, snapshot, transact};
///
/// const SCORES: Map<(String, u64), u64> = Map::new("scores");
///
/// transact(|t| {
///     SCORES.set(t, &("ada", 1), &10)?;
///     SCORES.set(t, &("ada", 2), &12)?;
///     SCORES.set(t, &("bob", 1), &9)
/// })?;
/// let t = &snapshot()?;
/// let of_ada: Vec<u64> = SCORES.under(&("ada",)).walk(t).map(|row| Ok(row?.1)).collect::<Result<_, StoreError>>()?;
/// assert_eq!(of_ada, [10, 12]);
/// let last = SCORES.all().descending().first(t)?;
/// assert_eq!(last, Some((("bob".to_owned(), 1), 9)));
/// # Ok::<(), StoreError>(())
/// ```
pub struct Span<P, T = P> {
    /// The bytes with which all its keys begin, and behind which a place begins.
    beginning: Vec<u8>,
    range: Range,
    order: Order,
    most: Option<usize>,
    decode: Decode<T>,
    places: PhantomData<fn(P)>,
}

impl<P, T> Clone for Span<P, T> {
    fn clone(&self) -> Self {
        let Self { beginning, range, order, most, decode, places } = self;
        let (beginning, range) = (beginning.clone(), range.clone());
        Self { beginning, range, order: *order, most: *most, decode: *decode, places: *places }
    }
}

impl<P, T> fmt::Debug for Span<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span").field("range", &self.range).field("order", &self.order).finish_non_exhaustive()
    }
}

/// All keys that start with `beginning`.
fn under(beginning: &[u8]) -> Range {
    let mut end = beginning.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Range { start: beginning.to_vec(), end: Some(end) };
        }
    }
    Range { start: beginning.to_vec(), end: None }
}

impl<P, T> Span<P, T> {
    /// All entries whose keys begin so.
    pub(super) fn of(beginning: Vec<u8>, decode: Decode<T>) -> Self {
        let range = under(&beginning);
        Self { beginning, range, order: Order::Ascending, most: None, decode, places: PhantomData }
    }

    /// Those of them under the first parts of a place.
    pub(super) fn narrowed(mut self, prefix: &impl Prefix<P>) -> Self {
        self.range = under(&self.prefixed(prefix));
        self
    }

    fn prefixed(&self, prefix: &impl Prefix<P>) -> Vec<u8> {
        let mut key = self.beginning.clone();
        prefix.encode_prefix(&mut key);
        key
    }

    /// Those at this place and above it.
    #[must_use]
    pub fn from(mut self, place: &impl Prefix<P>) -> Self {
        self.range.start = self.prefixed(place).max(self.range.start);
        self
    }

    /// Those below this place.
    #[must_use]
    pub fn below(mut self, place: &impl Prefix<P>) -> Self {
        let end = self.prefixed(place);
        self.range.end = Some(self.range.end.map_or(end.clone(), |known| known.min(end)));
        self
    }

    /// Those behind this place, in the order of the walk.
    #[must_use]
    pub fn after(self, place: &impl KeyOf<P>) -> Self {
        let mut key = self.beginning.clone();
        place.encode(&mut key);
        self.behind(Cursor(key))
    }

    /// Those behind the place where an earlier walk stopped.
    #[must_use]
    pub fn behind(mut self, cursor: impl Into<Option<Cursor>>) -> Self {
        if let Some(Cursor(mut key)) = cursor.into() {
            match self.order {
                Order::Ascending => {
                    key.push(0);
                    self.range.start = key.max(self.range.start);
                }
                Order::Descending => self.range.end = Some(self.range.end.map_or(key.clone(), |end| end.min(key))),
            }
        }
        self
    }

    /// The greatest place first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.order = Order::Descending;
        self
    }

    /// At most so many of them.
    #[must_use]
    pub fn most(mut self, entries: usize) -> Self {
        self.most = Some(entries);
        self
    }

    /// Goes through them. The data may be changed meanwhile in the same transaction; of what is changed ahead, the walk may show the old or the new.
    pub fn walk<'t>(&self, t: &'t View<'_>) -> Walk<'t, T>
    where
        P: 't,
    {
        let first = self.most.map_or(FIRST_PAGE, |most| u32::try_from(most).unwrap_or(u32::MAX));
        Walk {
            t,
            beginning: self.beginning.len(),
            range: self.range.clone(),
            order: self.order,
            left: self.most,
            decode: self.decode,
            page: VecDeque::new(),
            page_entries: first.min(LARGEST_PAGE),
            is_over: false,
            last: None,
        }
    }

    /// All of them, as a vector. Only for what is known to be few.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn collect<C: FromIterator<T>>(&self, t: &View<'_>) -> Result<C, StoreError> {
        self.walk(t).collect()
    }

    /// The first of them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn first(self, t: &View<'_>) -> Result<Option<T>, StoreError> {
        self.most(1).walk(t).next().transpose()
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn is_empty(&self, t: &View<'_>) -> Result<bool, StoreError> {
        Ok(t.page(&self.range, 1, self.order)?.entries.is_empty())
    }

    /// The first of them that no other open transaction has taken: at most `limit`, 1,000, and 1 MiB. For the head of a queue.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn take(&self, t: &Transaction<'_>, limit: u32) -> Result<Vec<T>, StoreError> {
        t.take(&self.range, limit)?.iter().map(|entry| decode(self.decode, self.beginning.len(), entry)).collect()
    }
}

fn decode<T>(decode: Decode<T>, beginning: usize, entry: &Entry) -> Result<T, StoreError> {
    decode(entry.key.get(beginning..).ok_or(StoreError::Unreadable)?, entry)
}

/// Items of a [`Span`], one by one. After an error of the store it ends; an entry that cannot be read is an error by itself, and the walk goes on behind it.
#[derive(Debug)]
pub struct Walk<'t, T> {
    t: &'t View<'t>,
    beginning: usize,
    range: Range,
    order: Order,
    left: Option<usize>,
    decode: Decode<T>,
    page: VecDeque<Entry>,
    page_entries: u32,
    is_over: bool,
    last: Option<Vec<u8>>,
}

impl<T> Walk<'_, T> {
    /// Behind the last item that was given; none before the first.
    pub fn cursor(&self) -> Option<Cursor> {
        self.last.clone().map(Cursor)
    }

    fn read_page(&mut self) -> Result<(), StoreError> {
        let page = self.t.page(&self.range, self.page_entries, self.order)?;
        self.is_over = !page.more;
        self.page_entries = self.page_entries.saturating_mul(4).min(LARGEST_PAGE);
        if let Some(last) = page.entries.last() {
            match self.order {
                Order::Ascending => {
                    self.range.start.clone_from(&last.key);
                    self.range.start.push(0);
                }
                Order::Descending => self.range.end = Some(last.key.clone()),
            }
        }
        self.page = page.entries.into();
        Ok(())
    }
}

impl<T> Iterator for Walk<'_, T> {
    type Item = Result<T, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == Some(0) {
            return None;
        }
        if self.page.is_empty()
            && !self.is_over
            && let Err(error) = self.read_page()
        {
            self.is_over = true;
            return Some(Err(error));
        }
        let entry = self.page.pop_front()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        let item = decode(self.decode, self.beginning, &entry);
        self.last = Some(entry.key);
        Some(item)
    }
}
