//! Components at random through the process that compiles: whatever is in a file, the host is told by name what came of it, and goes on.

use std::{path::Path, sync::Arc};

use mcpp::{
    engine::{
        Engine, EngineConfig,
        compile::{BuildError, Builds, CompileConfig, Compiler},
        features::Code,
    },
    guest::component::{self, ComponentError},
    limits::{Fuel, Limits},
    names::ComponentName,
};

use super::{json::mutated_bytes, random::Random};

/// The engine and the builds that compile a case.
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

    /// The outcome for a file, in words. Panics if the child failed for no reason of the component's.
    pub async fn run(&self, wasm: &[u8]) -> String {
        let source = component::ComponentSource {
            name: ComponentName::new("fuzzed").expect("legal"),
            wasm: wasm.to_vec().into(),
            fuel: Fuel::Uncounted,
            code: Code::Optimized,
            memory_bytes: Limits::default().memory_bytes,
            account: None,
        };
        match component::compile(&self.engine, &self.builds, source).await {
            Ok(_) => "compiled".to_owned(),
            Err(ComponentError::Build(BuildError::Child(reason))) => panic!("the child failed: {reason}"),
            Err(error) => error.to_string(),
        }
    }
}

/// A seed with something changed. Its first eight bytes say what it is and stay.
pub fn mutated(seed: &[u8], random: &mut Random) -> Vec<u8> {
    mutated_bytes(seed, 8, random)
}
