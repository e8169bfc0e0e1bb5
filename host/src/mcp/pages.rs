//! Pages of the list of tools, as JSON. The host writes a page once for each catalog, and sends the same text to every client that may use all tools.
//!
//! A tenant pays for its pages from its `message_bytes`. The host forgets them when the catalog changes, and keeps none for which the tenant has no memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use serde_json::value::RawValue;

use crate::{
    memory::{Account, MemoryUse, Reservation},
    names::TenantId,
    registry::catalog::Catalog,
};

/// Most pages of one tenant, in both eras together.
const MAX_PAGES: usize = 16;
/// The largest page that the host keeps, in bytes.
const MAX_PAGE_BYTES: usize = 256 << 10;

/// Which page: whether it is in the words of the modern era, and the cursor from which it goes on.
pub(super) type PageKey = (bool, Option<String>);

/// The kept pages of all tenants.
#[derive(Debug, Default)]
pub(super) struct ListPages(Mutex<HashMap<TenantId, CatalogPages>>);

/// The pages of one catalog.
#[derive(Debug)]
struct CatalogPages {
    catalog: Weak<Catalog>,
    pages: HashMap<PageKey, (Arc<RawValue>, Reservation)>,
}

impl ListPages {
    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, CatalogPages>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page of this very catalog, if it is kept.
    pub(super) fn get(&self, tenant: &TenantId, catalog: &Arc<Catalog>, key: &PageKey) -> Option<Arc<RawValue>> {
        let kept = self.lock();
        let kept = kept.get(tenant).filter(|kept| std::ptr::eq(kept.catalog.as_ptr(), Arc::as_ptr(catalog)))?;
        kept.pages.get(key).map(|(page, _)| Arc::clone(page))
    }

    /// Keeps a page, if there is room for it.
    pub(super) fn keep(
        &self,
        tenant: &TenantId,
        catalog: &Arc<Catalog>,
        key: PageKey,
        page: &Arc<RawValue>,
        account: &Arc<Account>,
    ) {
        if page.get().len() > MAX_PAGE_BYTES {
            return;
        }
        let mut kept = self.lock();
        // Pages of catalogs that are gone pay for nothing any more.
        kept.retain(|_, kept| kept.catalog.strong_count() > 0);
        let is_other = |kept: &CatalogPages| !std::ptr::eq(kept.catalog.as_ptr(), Arc::as_ptr(catalog));
        if kept.get(tenant).is_none_or(is_other) {
            kept.insert(tenant.clone(), CatalogPages { catalog: Arc::downgrade(catalog), pages: HashMap::new() });
        }
        let Some(kept) = kept.get_mut(tenant).filter(|kept| kept.pages.len() < MAX_PAGES) else { return };
        let bytes = u64::try_from(page.get().len()).unwrap_or(u64::MAX);
        if let Ok(held) = account.reserve(MemoryUse::Messages, bytes) {
            kept.pages.insert(key, (Arc::clone(page), held));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{AccountLimits, HostMemory, MemoryConfig};

    fn account(bytes: u64) -> Arc<Account> {
        let limits = AccountLimits { message_bytes: Some(bytes), ..AccountLimits::default() };
        HostMemory::new(&MemoryConfig::default()).account(limits)
    }

    /// A page of this many characters, and two quotes.
    fn text(characters: usize) -> Arc<RawValue> {
        Arc::from(serde_json::value::to_raw_value(&"x".repeat(characters)).expect("JSON"))
    }

    #[test]
    fn a_page_is_kept_for_its_catalog_alone_and_paid_for() {
        let (pages, tenant, account) = (ListPages::default(), TenantId::local(), account(1_000));
        let (catalog, next) = (Arc::new(Catalog::default()), Arc::new(Catalog::default()));
        let key = |cursor: &str| (true, Some(cursor.to_owned()));
        let kept = |catalog, key| pages.get(&tenant, catalog, &key).map(|page| page.get().len());
        let keep = |catalog, key, page| pages.keep(&tenant, catalog, key, &page, &account);
        keep(&catalog, key("a"), text(600));
        assert_eq!(kept(&catalog, key("a")), Some(602));
        assert_eq!(kept(&catalog, (false, Some("a".to_owned()))), None, "the other era's words differ");
        keep(&catalog, key("b"), text(600));
        assert_eq!(kept(&catalog, key("b")), None, "the tenant has no memory for another");
        assert_eq!(kept(&next, key("a")), None, "another catalog");
        keep(&next, key("b"), text(600));
        assert_eq!(kept(&next, key("b")), Some(602), "the pages before gave their memory back");
        keep(&next, key("c"), text(MAX_PAGE_BYTES));
        assert_eq!(kept(&next, key("c")), None, "it is too large");
    }
}
