//! `mcpp inspect`: what a component would be able to do, and its tools, before it is loaded anywhere.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{clean, print, print_json, table};
use crate::{
    call::ComponentName,
    capability::{self, Access},
    grants::{ComponentGrant, StoreGrant, ToolPattern},
    tenant::TenantId,
    wasm::{
        Engine, EngineConfig,
        admission::{Admission, Share},
        component::{self, LoadError, MAX_COMPONENT_BYTES},
        features::Fuel,
        limits::TenantLimits,
    },
};

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The component
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Explanation {
    component: String,
    bytes: usize,
    digest: String,
    imports: Vec<Import>,
    tools: Vec<Tool>,
    /// The topics of which it wants to be told.
    topics: Vec<String>,
    /// The format of its data; none if it migrates none.
    data_format: Option<u32>,
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
struct Tool {
    name: String,
    description: String,
    input_schema: Value,
    output_schema: Option<Value>,
}

impl Inspect {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let explanation = self.explain().await?;
        if self.json {
            print_json(&explanation)?;
        } else {
            explanation.print()?;
        }
        Ok(u8::from(explanation.imports.iter().any(|import| !import.loads)))
    }

    async fn explain(&self) -> anyhow::Result<Explanation> {
        let reading = || format!("cannot read {}", self.file.display());
        let bytes = std::fs::metadata(&self.file).with_context(reading)?.len();
        if bytes > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes).into());
        }
        let wasm = std::fs::read(&self.file).with_context(reading)?;
        let stem = self.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = ComponentName::new(&stem)?;
        let config = EngineConfig { max_running: 2, max_waiting: 1, guest_threads: 1, ..EngineConfig::default() };
        let engine = Engine::new(&config)?;
        let compiled = component::compile(&engine, None, name, &wasm, Fuel::Uncounted)?;
        let imports: Vec<Import> = compiled.imports().into_iter().map(import).collect();
        let mut explanation = Explanation {
            component: stem,
            bytes: wasm.len(),
            digest: blake3::hash(&wasm).to_hex().to_string(),
            imports,
            tools: Vec::new(),
            topics: Vec::new(),
            data_format: None,
            notes: Vec::new(),
        };
        if explanation.imports.iter().all(|import| import.loads) {
            // To list its tools the component runs once, with everything linked and nothing behind it: there is no call, so nothing can be reached.
            let everything = ToolPattern::try_from("*".to_owned()).map_err(anyhow::Error::msg)?;
            let store = Some(StoreGrant::default());
            let share = Share::new(TenantId::local(), TenantLimits::default());
            let http = serde_json::from_value(serde_json::json!([{ "url": "https://host.invalid" }]))?;
            let grant = ComponentGrant { call: vec![everything], store, http, ..ComponentGrant::default() };
            let loaded = compiled.admit(&grant)?.load(&engine, (&Admission::new(&config), &share)).await?;
            explanation.tools = loaded.tools.into_iter().map(tool).collect();
            explanation.notes = loaded.notes;
            explanation.topics = loaded.handler.map(|(_, topics)| topics).unwrap_or_default();
            explanation.data_format = loaded.migration.map(|(_, format)| format);
        }
        Ok(explanation)
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

fn tool(tool: component::LoadedTool) -> Tool {
    let schema = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    Tool {
        input_schema: schema(&tool.listing.input_schema),
        output_schema: tool.listing.output_schema.as_deref().map(schema),
        name: tool.listing.name,
        description: tool.listing.description,
    }
}

impl Explanation {
    fn print(&self) -> anyhow::Result<()> {
        print(&format!(
            "{}: {} bytes, revision {}\n",
            self.component,
            self.bytes,
            self.digest.get(..12).unwrap_or_default()
        ))?;
        print("It asks for:")?;
        for capability in capability::TABLE {
            if self.imports.iter().any(|import| import.capability == Some(capability.name)) {
                let access = match capability.access {
                    Access::Everyone => "every component has this".to_owned(),
                    Access::Granted { grant, .. } => {
                        format!("needs `{grant}` in grants/{}.toml", self.component)
                    }
                    Access::Nobody => "no component has this, and the component loads all the same".to_owned(),
                };
                print(&format!("  {:<10} {} ({access})", capability.name, capability.meaning))?;
            }
        }
        for unknown in self.imports.iter().filter(|import| import.capability.is_none()) {
            print(&format!("  {:<10} unknown to this host: the component will not load", clean(&unknown.interface)))?;
        }
        for (import, spoken) in self.imports.iter().filter_map(|import| Some((import, import.spoken.as_ref()?))) {
            let interface = clean(&import.interface);
            print(&format!("  {interface}: this host speaks version {spoken}: the component will not load"))?;
        }
        if !self.tools.is_empty() {
            print("")?;
            let rows = self
                .tools
                .iter()
                .map(|tool| vec![clean(&tool.name), clean(&tool.description), tool.input_schema.to_string()]);
            print(&table(&["TOOL", "DESCRIPTION", "INPUT SCHEMA"], rows))?;
        }
        for topic in &self.topics {
            let needs = match topic.split_once('/') {
                Some((component, _)) if component != self.component => {
                    format!(" (needs `subscribe = [{topic:?}]` in grants/{}.toml)", self.component)
                }
                _ => String::new(),
            };
            print(&format!("\nIt wants to be told of {}{needs}", clean(topic)))?;
        }
        if let Some(format) = self.data_format {
            print(&format!("\nIts data has format {format}; older data is migrated when it is loaded"))?;
        }
        for note in &self.notes {
            print(&format!("\n{}", clean(note)))?;
        }
        Ok(())
    }
}
