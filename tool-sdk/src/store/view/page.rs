//! Pages of a range, with the transaction's own writes in them: the host need not have those before.

use super::{
    super::{Entry, Order, Page, Range, StoreError, ahead::Change},
    View,
};

/// Own writes that are put into a page. Where a range has more, the host gets them first.
const MOST_MERGED: usize = 256;

impl View<'_> {
    /// Part of a range, as [`View::scan`] gives it. An entry that this transaction has written has no version but 0.
    pub(in crate::store) fn page(&self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        self.write_counts_in(range)?;
        let own = self.ahead.borrow().few_in(range, MOST_MERGED);
        if let Some(own) = own {
            // What was removed takes a place of the host's page; what was written anew gives it back.
            let removed = own.iter().filter(|(_, value)| value.is_none()).count();
            let most = limit.saturating_add(u32::try_from(removed).unwrap_or(u32::MAX));
            let page = self.ask_page(range, most, order)?;
            if let Some(merged) = merge(page, own, limit, order) {
                return Ok(merged);
            }
        }
        self.scan(range, limit, order)
    }

    /// Part of a range, as the host has it.
    pub(super) fn ask_page(&self, range: &Range, limit: u32, order: Order) -> Result<Page, StoreError> {
        if self.ahead.borrow().is_empty(range) {
            return Ok(Page::default());
        }
        self.called();
        let page = self.noted(self.source.scan(range, limit, order))?;
        if page.entries.is_empty() && limit > 0 {
            self.ahead.borrow_mut().learn_empty(range);
        }
        self.charge(0, page.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum(), false);
        Ok(page)
    }
}

/// Puts own writes, in the order of their keys, into a page of the host's. None where all of the page was removed, and the range has more.
fn merge(mut page: Page, own: Vec<Change>, limit: u32, order: Order) -> Option<Page> {
    if !own.is_empty() {
        let end = page.entries.last().filter(|_| page.more).map(|last| last.key.clone());
        // Behind the end of a page there may be entries of the host's before an own one.
        let is_within = |key: &[u8]| match (&end, order) {
            (None, _) => true,
            (Some(end), Order::Ascending) => key <= &**end,
            (Some(end), Order::Descending) => key >= &**end,
        };
        page.entries.retain(|entry| own.binary_search_by(|(key, _)| key.cmp(&entry.key)).is_err());
        let written = own.into_iter().filter(|(key, _)| is_within(key));
        let entry = |(key, value): Change| value.map(|value| Entry { key, value, version: 0 });
        page.entries.extend(written.filter_map(entry));
        match order {
            Order::Ascending => page.entries.sort_unstable_by(|one, other| one.key.cmp(&other.key)),
            Order::Descending => page.entries.sort_unstable_by(|one, other| other.key.cmp(&one.key)),
        }
        if page.entries.is_empty() && page.more {
            return None;
        }
    }
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    page.more |= page.entries.len() > most;
    page.entries.truncate(most);
    Some(page)
}
