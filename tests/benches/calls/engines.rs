//! The cost of an engine's features for a call that needs none of them: the same synchronous component in a fresh instance, on each engine in turn.

use std::time::{Duration, Instant};

use wasmtime::{
    Engine, Store,
    component::{Component, Func, InstancePre, Linker, Val},
};

/// Calls of one turn; short, so that what else the machine does is shared out.
const TURN: usize = 2_000;
/// Turns of each engine.
const TURNS: usize = 20;

/// One engine, and the component on it.
struct Contender {
    name: &'static str,
    engine: Engine,
    linked: InstancePre<()>,
    times: Vec<Duration>,
}

impl Contender {
    fn new(name: &'static str, engine: &Engine, wasm: &[u8]) -> Self {
        let component = Component::new(engine, wasm).expect("a component");
        let linked = Linker::new(engine).instantiate_pre(&component).expect("no imports");
        Self { name, engine: engine.clone(), linked, times: Vec::new() }
    }

    async fn call(&self) -> Val {
        let mut store = Store::new(&self.engine, ());
        store.set_epoch_deadline(1_000_000);
        if self.engine.get_consume_fuel() {
            store.set_fuel(u64::MAX).expect("fuel is counted");
        }
        let instance = self.linked.instantiate_async(&mut store).await.expect("an instance");
        let func: Func = instance.get_func(&mut store, "add").expect("the function");
        let mut results = [Val::Bool(false)];
        func.call_async(&mut store, &[Val::S32(40), Val::S32(2)], &mut results).await.expect("no trap");
        let [result] = results;
        result
    }

    async fn turn(&mut self) {
        let started = Instant::now();
        for _ in 0..TURN {
            assert_eq!(self.call().await, Val::S32(42));
        }
        self.times.push(started.elapsed());
    }

    /// The middle turn's time of one call, in microseconds.
    fn median(&mut self) -> f64 {
        self.times.sort();
        self.times[self.times.len() / 2].as_secs_f64() * 1e6 / TURN as f64
    }
}

/// The name of each engine, and the time of one call on it in microseconds. The first one's is what the others are to be compared with.
pub(super) async fn measure(engines: &[(&'static str, Engine)], wasm: &[u8]) -> Vec<(&'static str, f64)> {
    let mut contenders: Vec<_> = engines.iter().map(|(name, engine)| Contender::new(name, engine, wasm)).collect();
    for contender in &mut contenders {
        contender.turn().await;
        contender.times.clear();
    }
    for _ in 0..TURNS {
        for contender in &mut contenders {
            contender.turn().await;
        }
    }
    contenders.iter_mut().map(|contender| (contender.name, contender.median())).collect()
}
