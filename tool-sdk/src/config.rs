//! The settings that the operator wrote into the component's grant: `config = { region = "eu" }`. No place for secrets.

/// One setting; none without it. In a native test, what [`memory::set`] has set.
pub fn get(key: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    {
        crate::bindings::wasi::config::store::get(key).ok().flatten()
    }
    #[cfg(not(target_arch = "wasm32"))]
    memory::get(key)
}

/// Settings in memory, for native tests: of each thread its own, none at first.
#[cfg(not(target_arch = "wasm32"))]
pub mod memory {
    use std::{cell::RefCell, collections::BTreeMap};

    thread_local! {
        static SETTINGS: RefCell<BTreeMap<String, String>> = RefCell::default();
    }

    /// Sets a setting of this thread.
    pub fn set(key: &str, value: &str) {
        SETTINGS.with_borrow_mut(|settings| drop(settings.insert(key.to_owned(), value.to_owned())));
    }

    /// Takes all settings of this thread away.
    pub fn clear() {
        SETTINGS.with_borrow_mut(BTreeMap::clear);
    }

    pub(super) fn get(key: &str) -> Option<String> {
        SETTINGS.with_borrow(|settings| settings.get(key).cloned())
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn settings_are_those_that_the_test_has_set() {
            assert_eq!(crate::config::get("region"), None);
            super::set("region", "eu");
            assert_eq!(crate::config::get("region").as_deref(), Some("eu"));
            super::clear();
            assert_eq!(crate::config::get("region"), None);
        }
    }
}
