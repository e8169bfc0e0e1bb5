//! Components at random through the process that compiles: whatever is in a file, the host is told by name what came of it, and goes on.

#![allow(dead_code, reason = "of the two programs that have it, each uses its part")]

use std::{path::Path, sync::Arc};

use mcpp::{
    call::ComponentName,
    wasm::{
        Engine, EngineConfig,
        compile::{BuildError, Builds, CompileConfig, Compiler},
        component::{self, LoadError},
        features::{Code, Fuel},
        limits::Limits,
    },
};

use super::random::Random;

/// What compiles.
pub struct Target {
    engine: Engine,
    builds: Arc<Builds>,
}

impl Target {
    /// With `program` as the child.
    pub fn new(program: &Path) -> Self {
        let small =
            EngineConfig { max_running: 2, max_waiting: 1, max_kept: 0, guest_threads: 1, ..EngineConfig::default() };
        let compile = CompileConfig {
            program: Some(program.to_owned()),
            memory_bytes: 256 << 20,
            cpu_ms: 20_000,
            ..CompileConfig::default()
        };
        Self {
            engine: Engine::new(&small).expect("an engine"),
            builds: Builds::of_tenant(Compiler::new(&compile), None),
        }
    }

    /// What came of a file, in words. Panics if the child failed for no reason of the component's.
    pub async fn run(&self, wasm: &[u8]) -> String {
        let source = component::Source {
            name: ComponentName::new("fuzzed").expect("legal"),
            wasm: wasm.to_vec().into(),
            fuel: Fuel::Uncounted,
            code: Code::Optimized,
            memory_bytes: Limits::default().memory_bytes,
            account: None,
        };
        match component::compile(&self.engine, &self.builds, source).await {
            Ok(_) => "compiled".to_owned(),
            Err(LoadError::Build(BuildError::Child(reason))) => panic!("the child failed: {reason}"),
            Err(error) => error.to_string(),
        }
    }
}

/// A seed with some of its bytes changed, cut or doubled. The first eight say what it is and stay.
pub fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut wasm = seed.to_vec();
    for _ in 0..random.below(4) + 1 {
        let at = 8 + random.below(wasm.len().saturating_sub(8));
        let piece = random.below(40).min(wasm.len().saturating_sub(at));
        match random.below(5) {
            0 | 1 => wasm.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next().to_le_bytes()[0]),
            2 => wasm.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            3 => drop(wasm.drain(at..at + piece)),
            _ => {
                let piece = wasm[at..at + piece].to_vec();
                wasm.splice(at..at, piece);
            }
        }
    }
    wasm
}
