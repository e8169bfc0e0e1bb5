//! A tool that is ready to be called: its name, schemas and limits checked, its place in its component known.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use serde_json::{Map, Value, json};

use super::{batches::Batches, error::InstallError, gate::Gate, remote::CallRemote, request::Service};
use crate::{
    call::{CallError, ToolResult, interface::InterfaceDigest},
    capability::{
        bindings::exports::mcpp::tool::tools::{Annotations, Tool as ToolListing},
        files::Folders,
        http::HttpGrant,
    },
    grants::{ComponentGrant, container::ContainerGrant, mesh::MeshGrant},
    guest::{component::LoadedTool, deferred::DeferredExport, instance::Target},
    limits::{Limits, Reuse, TaskSupport},
    names::{ComponentName, ToolName, ToolPattern},
    schema::{Mismatch, STEPS_PER_MS, Schema, Steps},
    telemetry::meters::CallMeters,
    tenant::Principal,
};

/// Longest description and title, in bytes.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// The powers of everything in one revision.
#[derive(Debug)]
pub struct Powers {
    /// The component.
    pub component: ComponentName,
    /// The tools that it may call.
    pub may_call: Arc<[ToolPattern]>,
    /// How large its space may become, in bytes; none if it has no store.
    pub quota_bytes: Option<u64>,
    /// The host's directories that it may see.
    pub files: Folders,
    /// Its settings.
    pub config: Arc<BTreeMap<String, String>>,
    /// The HTTP requests that it may make; none if it may make none.
    pub http: Option<Arc<HttpGrant>>,
    /// What it may see and do in the mesh; none if nothing.
    pub mesh: Option<Arc<MeshGrant>>,
    /// What it may run in containers; none if it has no grant for them.
    pub container: Option<Arc<ContainerGrant>>,
    /// Through which calls of the revision pass.
    pub gate: Arc<Gate>,
    /// Over when the revision is: nothing refers to it any more.
    pub life: Arc<()>,
}

impl Powers {
    /// No power at all.
    pub fn none(component: ComponentName) -> Self {
        Self {
            component,
            may_call: Arc::default(),
            quota_bytes: None,
            files: Folders::default(),
            config: Arc::default(),
            http: None,
            mesh: None,
            container: None,
            gate: Arc::default(),
            life: Arc::default(),
        }
    }
}

/// Where a call of a tool goes.
#[derive(Debug)]
pub enum ToolTarget {
    /// To a component of this host.
    Guest(Target),
    /// To another host.
    Remote(Arc<dyn CallRemote>),
}

/// One tool of a live revision, or of a mount.
#[derive(Debug)]
pub struct Tool {
    /// Its name in the catalog.
    pub name: ToolName,
    /// The component that has it, or `mount NAME`.
    pub component: Arc<str>,
    /// A name for people.
    pub title: Option<String>,
    /// A description of the tool.
    pub description: String,
    /// Hints to clients.
    pub annotations: Annotations,
    /// The schema of its arguments.
    pub input: Schema,
    /// Whether its input schema says that parameters stand in headers too.
    pub names_headers: bool,
    /// The schema of its result, if the tool has one.
    pub output: Option<Schema>,
    /// Identifies what clients read of it.
    pub interface: InterfaceDigest,
    /// Its powers, and the limits of its calls.
    pub service: Service,
    /// How it is called.
    pub target: ToolTarget,
    /// How its instances are used again, if they are.
    pub reuse: Option<Reuse>,
    /// When calls of it become tasks.
    pub task: TaskSupport,
    /// What has the answers that its calls put off.
    pub deferred: Option<DeferredExport>,
    /// Its calls that are served together, where its component does that.
    pub(super) batches: Option<Arc<Batches>>,
    /// The meters of its calls, from the first one on.
    pub meters: OnceLock<CallMeters>,
}

impl AsRef<Service> for Tool {
    fn as_ref(&self) -> &Service {
        &self.service
    }
}

impl Tool {
    /// Checks what a component says of a tool.
    pub fn check(
        powers: &Arc<Powers>,
        (name, tool): (ToolName, LoadedTool),
        grant: &ComponentGrant,
        defaults: &Limits,
    ) -> Result<Self, InstallError> {
        let LoadedTool { listing, target, task, deferred, batch } = tool;
        let mut limits = defaults.patched(&grant.limits);
        let (mut reuse, mut task) = (grant.reuse, grant.task.unwrap_or(task));
        if let Some(own) = grant.tools.get(name.as_str()) {
            limits = limits.patched(&own.limits);
            reuse = own.reuse.or(reuse);
            task = own.task.unwrap_or(task);
        }
        let tool = Self::new(powers, name, listing, ToolTarget::Guest(target), limits)?;
        Ok(Self { reuse, task, deferred, batches: batch.map(Batches::new), ..tool })
    }

    /// A tool with the texts and schemas that its owner wrote, once they are checked.
    pub fn new(
        powers: &Arc<Powers>,
        name: ToolName,
        listing: ToolListing,
        target: ToolTarget,
        limits: Limits,
    ) -> Result<Self, InstallError> {
        let refuse = |reason: String| InstallError::Tool { tool: name.to_string(), reason };
        for (what, text) in [("description", Some(&listing.description)), ("title", listing.title.as_ref())] {
            if text.is_some_and(|text| text.len() > MAX_TEXT_BYTES) {
                return Err(refuse(format!("its {what} is longer than {MAX_TEXT_BYTES} bytes")));
            }
        }
        let input =
            Schema::parse(&listing.input_schema).map_err(|error| refuse(format!("its input schema: {error}")))?;
        let output = listing.output_schema.as_deref().map(Schema::parse).transpose();
        let output = output.map_err(|error| refuse(format!("its output schema: {error}")))?;
        let interface = interface(&listing, &input.json, output.as_ref().map(|schema| &*schema.json));
        Ok(Self {
            name,
            component: powers.component.shared(),
            title: listing.title,
            description: listing.description,
            annotations: listing.annotations,
            input,
            names_headers: listing.input_schema.contains("x-mcp-header"),
            output,
            interface,
            service: Service::new("tool", Arc::clone(powers), limits),
            target,
            reuse: None,
            task: TaskSupport::default(),
            deferred: None,
            batches: None,
            meters: OnceLock::new(),
        })
    }

    /// The memory of its compiled schemas, in bytes.
    pub fn schema_bytes(&self) -> u64 {
        self.input.memory_bytes().saturating_add(self.output.as_ref().map_or(0, Schema::memory_bytes))
    }

    /// Whether a call of it may last longer than a client waits that knows no tasks.
    pub fn is_long(&self) -> bool {
        let Limits { deadline_ms, long_call_s, .. } = self.service.limits;
        let may_last = self.deferred.is_some() || deadline_ms > long_call_s.saturating_mul(1_000);
        self.task != TaskSupport::Never && may_last
    }

    /// Whether it is of the host itself, and there for every principal.
    pub fn is_of_host(&self) -> bool {
        *self.component == *ComponentName::of_host().as_str()
    }

    /// Whether its calls run on this host, whatever they call in their turn.
    pub fn runs_here(&self) -> bool {
        self.is_of_host() || matches!(self.target, ToolTarget::Guest(_))
    }

    /// Whether it is there for a principal.
    pub fn is_for(&self, principal: &Principal) -> bool {
        self.is_of_host() || principal.may_use(&self.name)
    }

    /// Whether guests of it may stay after a call.
    pub fn stays(&self) -> bool {
        self.reuse.is_some() || matches!(&self.target, ToolTarget::Guest(target) if target.has_handles())
    }

    /// How many steps a check may have: as the schemas' bound is a bound, about what its processor time allows.
    pub fn check_steps(&self) -> u64 {
        self.service.limits.cpu_ms.saturating_mul(STEPS_PER_MS)
    }

    /// The cost of checking arguments against the input schema; an error if that is more than a call may have.
    pub fn steps_of_arguments(&self, arguments: &Value) -> Result<Steps, CallError> {
        let steps = self.input.steps(arguments).and_then(|steps| self.within_budget(steps));
        steps.map_err(|Mismatch { path, reason }| CallError::InvalidArguments { path, reason })
    }

    /// The same for a result and the output schema; none if there is nothing to check.
    pub fn steps_of_result(&self, result: &ToolResult) -> Result<Option<Steps>, CallError> {
        let (Some(schema), Some(value), false) = (&self.output, &result.structured, result.is_error) else {
            return Ok(None);
        };
        let steps = schema.steps(value).and_then(|steps| self.within_budget(steps));
        steps.map(Some).map_err(|Mismatch { path, reason }| CallError::InvalidResult { path, reason })
    }

    fn within_budget(&self, steps: Steps) -> Result<Steps, Mismatch> {
        if steps.whether <= self.check_steps() {
            return Ok(steps);
        }
        let cpu_ms = self.service.limits.cpu_ms;
        let reason =
            format!("to hold it to its schema could take more processor time than the call has (`cpu_ms`, {cpu_ms})");
        Err(Mismatch { path: String::new(), reason })
    }

    /// Holds arguments to the input schema, which costs `steps`. Where the component's own types know a deeper place that is wrong, that is named: of alternatives a schema only says that none fits.
    pub fn check_arguments(&self, arguments: &Value, steps: Steps) -> Result<(), CallError> {
        let Err(Mismatch { path, reason }) = self.input.check_counted(arguments, steps, self.check_steps()) else {
            return Ok(());
        };
        let deeper = match &self.target {
            ToolTarget::Guest(target) => target.check(arguments),
            ToolTarget::Remote(_) => Ok(()),
        };
        match deeper {
            Err(CallError::InvalidArguments { path: deeper, reason }) if deeper.len() > path.len() => {
                Err(CallError::InvalidArguments { path: deeper, reason })
            }
            _ => Err(CallError::InvalidArguments { path, reason }),
        }
    }

    /// Holds a result to the output schema that the tool declared, which costs `steps`.
    pub fn check_result(&self, result: ToolResult, steps: Option<Steps>) -> Result<ToolResult, CallError> {
        let (Some(schema), false) = (&self.output, result.is_error) else { return Ok(result) };
        let checked = match (&result.structured, steps) {
            (Some(value), Some(steps)) => schema.check_counted(value, steps, self.check_steps()),
            _ => {
                let reason = "the tool declares an output schema and gave no structured result".to_owned();
                Err(Mismatch { path: String::new(), reason })
            }
        };
        checked.map(|()| result).map_err(|Mismatch { path, reason }| CallError::InvalidResult { path, reason })
    }

    /// Whether a client that knows `other` knows this one.
    pub fn lists_the_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.title == other.title
            && self.description == other.description
            && self.input.json == other.input.json
            && self.output.as_ref().map(|schema| &schema.json) == other.output.as_ref().map(|schema| &schema.json)
            && format!("{:?}", self.annotations) == format!("{:?}", other.annotations)
    }
}

/// Identifies what clients read of a tool. The host lists no input schema without `properties` (`mcp::convert`), so an empty one counts as none: a mount reads the one, its peer the other.
fn interface(tool: &ToolListing, input: &Map<String, Value>, output: Option<&Map<String, Value>>) -> InterfaceDigest {
    let mut input = input.clone();
    input.entry("properties").or_insert_with(|| json!({}));
    let Annotations { read_only, destructive, idempotent, open_world } = tool.annotations;
    InterfaceDigest::of(&json!({
        "title": tool.title,
        "description": tool.description,
        "hints": [read_only, destructive, idempotent, open_world],
        "input": input,
        "output": output,
    }))
}
