//! `wasi:config/store`: the settings that the operator wrote into the component's grant. Every component may ask; without a grant it gets none.

use std::collections::BTreeMap;

use wasmtime::component::{HasData, Linker};

use crate::capability::{bindings::standard::wasi::config::store, state::State};

type SettingsAnswer<T> = wasmtime::Result<Result<T, store::Error>>;

/// The part of an instance's state that the interface sees: the settings, if there is a call.
#[derive(Debug)]
pub struct SettingsView<'a>(pub Option<&'a BTreeMap<String, String>>);

impl HasData for SettingsView<'static> {
    type Data<'a> = SettingsView<'a>;
}

/// Links the interface.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, SettingsView<'static>>(linker, State::settings)
}

impl store::Host for SettingsView<'_> {
    fn get(&mut self, key: String) -> SettingsAnswer<Option<String>> {
        Ok(Ok(self.0.and_then(|settings| settings.get(&key).cloned())))
    }

    fn get_all(&mut self) -> SettingsAnswer<Vec<(String, String)>> {
        let all = self.0.into_iter().flatten();
        Ok(Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
