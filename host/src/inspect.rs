//! What a component file is, before any host loads it: its parts, its powers, the least grant with which it loads, and its tools.
//!
//! The component may be hostile. So it is compiled first: every later reading stays within the bounds of a valid component.

pub mod anatomy;
mod least;
pub mod world;

use std::path::Path;

use anyhow::Context as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

use self::{anatomy::Anatomy, least::Wants, world::ComponentWorld};
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

/// What a component file is, asks for and offers.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Its name: that of the file.
    pub component: String,
    /// Its size.
    pub bytes: usize,
    /// BLAKE3 of its bytes, hexadecimal.
    pub digest: String,
    /// The parts of it.
    #[serde(flatten)]
    pub anatomy: Anatomy,
    /// Its world; why not, if it cannot be told in WIT (null in JSON).
    #[serde(serialize_with = "world_or_null")]
    pub world: Result<ComponentWorld, String>,
    /// The interfaces that it imports.
    pub imports: Vec<Import>,
    /// Its tools.
    pub tools: Vec<InspectedTool>,
    /// Its resources, templates and prompts: the kind, and the URI or name.
    pub listed: Vec<InspectedEntry>,
    /// The topics to which it subscribes.
    pub topics: Vec<String>,
    /// The format of its data; none if it migrates none.
    pub data_format: Option<u32>,
    /// The least grant with which it loads, to paste; none if it needs none, or none helps.
    pub grant: Option<String>,
    /// Remarks for the author.
    pub notes: Vec<String>,
}

/// One import.
#[derive(Debug, Serialize)]
pub struct Import {
    /// The name, with the version.
    pub interface: String,
    /// The capability that it belongs to; none if the host knows none.
    pub capability: Option<&'static str>,
    /// The meaning of that capability.
    pub meaning: Option<&'static str>,
    /// The line of a grant that gives it; none if everybody has it.
    pub grant: Option<&'static str>,
    /// Whether a component with this import loads.
    pub loads: bool,
    /// The version that this host speaks, where the component asks for another.
    pub spoken: Option<String>,
}

/// One tool.
#[derive(Debug, Serialize)]
pub struct InspectedTool {
    /// Its name, as the component calls it.
    pub name: String,
    /// Its description.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: Value,
    /// JSON Schema of its result, if it has one.
    pub output_schema: Option<Value>,
}

/// One resource, template or prompt.
#[derive(Debug, Serialize)]
pub struct InspectedEntry {
    /// Which of them.
    pub kind: &'static str,
    /// Its URI, its template or its name.
    pub name: String,
    /// Its description.
    pub description: String,
}

fn world_or_null<S: Serializer>(world: &Result<ComponentWorld, String>, serializer: S) -> Result<S::Ok, S::Error> {
    world.as_ref().ok().serialize(serializer)
}

/// Inspects a component file. It is compiled, and asked for its tools once, with nothing behind its imports.
pub async fn inspect(file: &Path) -> anyhow::Result<Inspection> {
    let reading = || format!("cannot read {}", file.display());
    let bytes = std::fs::metadata(file).with_context(reading)?.len();
    if bytes > MAX_COMPONENT_BYTES {
        return Err(ComponentError::TooLarge(bytes).into());
    }
    let wasm = std::fs::read(file).with_context(reading)?;
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
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
    let mut explanation = Inspection {
        component: stem,
        bytes: wasm.len(),
        digest: blake3::hash(&wasm).to_hex().to_string(),
        anatomy: Anatomy::of(&wasm),
        world: world::read(wasm).await,
        imports,
        tools: Vec::new(),
        listed: Vec::new(),
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
        let mesh = serde_json::from_value(serde_json::json!({
            "see": true, "connect": ["*"], "discover": ["s"], "announce": ["t"], "call": ["*: *"]
        }))?;
        let grant = ComponentGrant { call: vec![everything], store, http, mesh, ..ComponentGrant::default() };
        let loaded = compiled.admit(&grant)?.load(&engine, (&Admission::new(&config), &share)).await?;
        explanation.tools = loaded.tools.iter().map(tool).collect();
        explanation.listed = listed(&loaded.primitives);
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
                Revision::check(loaded, Origin::File(file.to_owned()), &grant, &Limits::default(), |_| Ok(()));
            checked.map_err(|error: InstallError| crate::error::chain(&error))
        });
        if let Err(reason) = checked {
            explanation.notes.push(format!("It will not load: {reason}"));
        }
    }
    Ok(explanation)
}

impl Inspection {
    /// Whether there is a grant under which its imports are linked.
    pub fn loads(&self) -> bool {
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

fn listed(primitives: &component::LoadedPrimitives) -> Vec<InspectedEntry> {
    let entry = |kind, name: &String, description: &Option<String>| InspectedEntry {
        kind,
        name: name.clone(),
        description: description.clone().unwrap_or_default(),
    };
    let lists = primitives.resources.iter().flat_map(|(_, (resources, templates))| {
        let resources = resources.iter().map(|one| entry("resource", &one.uri, &one.description));
        resources.chain(templates.iter().map(|one| entry("template", &one.uri_template, &one.description)))
    });
    let prompts = primitives.prompts.iter().flat_map(|(_, prompts)| prompts);
    lists.chain(prompts.map(|one| entry("prompt", &one.name, &one.description))).collect()
}

fn tool(tool: &component::LoadedTool) -> InspectedTool {
    let schema = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    InspectedTool {
        input_schema: schema(&tool.listing.input_schema),
        output_schema: tool.listing.output_schema.as_deref().map(schema),
        name: tool.listing.name.clone(),
        description: tool.listing.description.clone(),
    }
}
