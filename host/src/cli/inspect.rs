//! `mcpp inspect`: the parts of a component, its powers, its least grant and its tools, before any host loads it.
//!
//! The component may be hostile. So it is compiled first: every later reading stays within the bounds of a valid component.

mod anatomy;
mod least;
mod page;
mod schema;
mod world;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::Value;

use self::{anatomy::Anatomy, least::Wants, world::ComponentWorld};
use super::{clean, print, print_json};
use crate::{
    capability::{self, Access},
    control::admission::{Admission, Share},
    engine::{
        Engine, EngineConfig,
        compile::{Builds, CompileConfig, Compiler, MAX_COMPONENT_BYTES},
        features::Code,
    },
    grants::{ComponentGrant, StoreGrant},
    guest::component::{self, ComponentError, Origin},
    limits::{Fuel, Limits, TenantLimits},
    names::{ComponentName, ToolPattern},
    registry::{catalog::Revision, error::InstallError},
};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The component
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the whole WIT of its world, and nothing else
    #[arg(long, conflicts_with = "json")]
    wit: bool,
}

#[derive(Serialize)]
struct WrittenExplanation {
    component: String,
    bytes: usize,
    digest: String,
    #[serde(flatten)]
    anatomy: Anatomy,
    /// Null in JSON if it cannot be told in WIT.
    #[serde(serialize_with = "world_or_null")]
    world: Result<ComponentWorld, String>,
    imports: Vec<Import>,
    tools: Vec<ToolPage>,
    /// The topics to which it subscribes.
    topics: Vec<String>,
    /// The format of its data; none if it migrates none.
    data_format: Option<u32>,
    /// The least grant with which it loads, to paste; none if it needs none, or none helps.
    grant: Option<String>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Import {
    interface: String,
    capability: Option<&'static str>,
    meaning: Option<&'static str>,
    grant: Option<&'static str>,
    loads: bool,
    /// The version that this host speaks, where the component asks for another.
    spoken: Option<String>,
}

#[derive(Serialize)]
struct ToolPage {
    name: String,
    description: String,
    input_schema: Value,
    output_schema: Option<Value>,
}

fn world_or_null<S: Serializer>(world: &Result<ComponentWorld, String>, serializer: S) -> Result<S::Ok, S::Error> {
    world.as_ref().ok().serialize(serializer)
}

impl Inspect {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let explanation = self.explain().await?;
        match &explanation.world {
            _ if self.json => print_json(&explanation)?,
            _ if !self.wit => print(&page::page(&explanation))?,
            Ok(world) if !world.cut => print(&clean(&world.wit))?,
            Ok(world) => anyhow::bail!("the WIT has more than {} bytes", world.wit.len()),
            Err(reason) => anyhow::bail!("its world cannot be told in WIT: {}", clean(reason)),
        }
        Ok(u8::from(!explanation.loads()))
    }

    async fn explain(&self) -> anyhow::Result<WrittenExplanation> {
        let reading = || format!("cannot read {}", self.file.display());
        let bytes = std::fs::metadata(&self.file).with_context(reading)?.len();
        if bytes > MAX_COMPONENT_BYTES {
            return Err(ComponentError::TooLarge(bytes).into());
        }
        let wasm = std::fs::read(&self.file).with_context(reading)?;
        let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = ComponentName::new(&stem)?;
        let config = EngineConfig { max_running: 2, max_waiting: 1, guest_threads: 1, ..EngineConfig::default() };
        let engine = Engine::new(&config)?;
        let builds = Builds::of_tenant(Compiler::new(&CompileConfig::default()), None);
        let source = component::ComponentSource {
            name,
            wasm: wasm.clone().into(),
            fuel: Fuel::Uncounted,
            code: Code::Optimized,
            memory_bytes: Limits::default().memory_bytes,
            account: None,
        };
        let compiled = component::compile(&engine, &builds, source).await?;
        let imports: Vec<Import> = compiled.imports().into_iter().map(import).collect();
        let mut explanation = WrittenExplanation {
            component: stem,
            bytes: wasm.len(),
            digest: blake3::hash(&wasm).to_hex().to_string(),
            anatomy: Anatomy::of(&wasm),
            world: world::read(wasm).await,
            imports,
            tools: Vec::new(),
            topics: Vec::new(),
            data_format: None,
            grant: None,
            notes: Vec::new(),
        };
        if explanation.loads() {
            // To list its tools the component runs once, with everything linked and nothing behind it: there is no call, so nothing can be reached.
            let everything = ToolPattern::try_from("*".to_owned()).map_err(anyhow::Error::msg)?;
            let store = Some(StoreGrant::default());
            let share = Share::alone(TenantLimits::default());
            let http = serde_json::from_value(serde_json::json!([{ "url": "https://host.invalid" }]))?;
            let grant = ComponentGrant { call: vec![everything], store, http, ..ComponentGrant::default() };
            let loaded = compiled.admit(&grant)?.load(&engine, (&Admission::new(&config), &share)).await?;
            explanation.tools = loaded.tools.iter().map(tool).collect();
            explanation.notes.clone_from(&loaded.notes);
            explanation.topics = loaded.handler.as_ref().map(|(_, topics)| topics.clone()).unwrap_or_default();
            explanation.data_format = loaded.migration.as_ref().map(|(_, format)| *format);
            explanation.grant = explanation.least_grant();
            let grant = match &explanation.grant {
                Some(text) => ComponentGrant::parse(Path::new("the grant"), text),
                None => Ok(ComponentGrant::default()),
            };
            let checked = grant.map_err(|error| crate::error::chain(&error)).and_then(|grant| {
                let checked =
                    Revision::check(loaded, Origin::File(self.file.clone()), &grant, &Limits::default(), |_| Ok(()));
                checked.map_err(|error: InstallError| crate::error::chain(&error))
            });
            if let Err(reason) = checked {
                explanation.notes.push(format!("It will not load: {reason}"));
            }
        }
        Ok(explanation)
    }
}

impl WrittenExplanation {
    /// Whether there is a grant under which its imports are linked.
    fn loads(&self) -> bool {
        self.imports.iter().all(|import| import.loads)
    }

    fn least_grant(&self) -> Option<String> {
        let capabilities: Vec<_> = self.imports.iter().filter_map(|import| import.capability).collect();
        let tools: Vec<&str> = self.tools.iter().map(|tool| tool.name.as_str()).collect();
        let (component, topics) = (self.component.as_str(), self.topics.as_slice());
        least::grant(Wants { component, capabilities: &capabilities, topics, tools: &tools })
    }
}

fn import(interface: String) -> Import {
    let capability = capability::of_import(&interface);
    let spoken = capability::foreign_standard(&interface).map(|(_, spoken)| spoken);
    let (grant, loads) = match capability.map(|capability| &capability.access) {
        _ if spoken.is_some() => (None, false),
        Some(Access::Everyone | Access::Nobody) => (None, true),
        Some(Access::Granted { grant, .. }) => (Some(*grant), true),
        None => (None, false),
    };
    Import {
        interface,
        capability: capability.map(|known| known.name),
        meaning: capability.map(|known| known.meaning),
        grant,
        loads,
        spoken,
    }
}

fn tool(tool: &component::LoadedTool) -> ToolPage {
    let schema = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    ToolPage {
        input_schema: schema(&tool.listing.input_schema),
        output_schema: tool.listing.output_schema.as_deref().map(schema),
        name: tool.listing.name.clone(),
        description: tool.listing.description.clone(),
    }
}
