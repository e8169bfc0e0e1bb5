//! `wasi:config/store`: the settings that the operator wrote into the component's grant. Every component may ask; without a grant it gets none.

use wasmtime::component::{HasSelf, Linker};

use crate::capability::{bindings::standard::wasi::config::store, state::State};

type SettingsAnswer<T> = wasmtime::Result<Result<T, store::Error>>;

/// Links the interface.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    store::add_to_linker::<State, HasSelf<State>>(linker, |state| state)
}

impl store::Host for State {
    fn get(&mut self, key: String) -> SettingsAnswer<Option<String>> {
        Ok(Ok(self.running.as_ref().and_then(|running| running.config.get(&key).cloned())))
    }

    fn get_all(&mut self) -> SettingsAnswer<Vec<(String, String)>> {
        let all = self.running.iter().flat_map(|running| running.config.iter());
        Ok(Ok(all.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }
}
