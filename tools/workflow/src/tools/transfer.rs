//! `workflow_export` and `workflow_import`: a run as one JSON document.

use mcpp_tool::{caller, rights, tool};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Reply, put, read, settle, submission::submit};
use crate::{
    definition::Step,
    engine::{self, Copied, Draft, WorkflowError, rehearsal},
    run::{Fork, Number, State},
    store::{DEFINITIONS, INPUTS, MAX_RESULT_BYTES, ROOT, node, result},
};

/// The form of a document.
const FORM: &str = "mcpp-workflow-run/1";
/// Largest document, in bytes of its results: one call gives it, and one transaction takes it.
const MAX_DOCUMENT_BYTES: usize = 2 << 20;

/// A run as it is exported: its definition, and the results of the steps that have completed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    form: String,
    workflow_id: String,
    name: String,
    status: String,
    steps: Vec<Step>,
    priority: f64,
    tags: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    input: Value,
    results: Map<String, Value>,
}

/// Gives a run as one document: its steps, its input, and the results of those that have completed, to be imported on another host.
#[tool(read_only)]
pub fn workflow_export(
    /// The run.
    workflow_id: String,
) -> Reply {
    let exported = read(|t| {
        let run = engine::find(t, &workflow_id)?;
        let steps = DEFINITIONS.get(t, &run.id)?.ok_or_else(|| WorkflowError::NoRun(run.id.clone()))?;
        let (mut results, mut bytes) = (Map::new(), 0_usize);
        for number in 0..Number::try_from(steps.len()).unwrap_or(Number::MAX) {
            let node = node(t, &run.id, number)?;
            if node.state != State::Completed {
                continue;
            }
            let value = result(t, &run.id, number)?.unwrap_or_default();
            bytes = bytes.saturating_add(value.to_string().len());
            if bytes > MAX_DOCUMENT_BYTES {
                let reason =
                    format!("the results of Workflow {workflow_id} have more than {MAX_DOCUMENT_BYTES} bytes together");
                return Err(WorkflowError::Refused(reason));
            }
            results.insert(node.path, value);
        }
        let document = Document {
            form: FORM.into(),
            workflow_id: run.id.clone(),
            name: run.name.clone(),
            status: run.status().into(),
            steps,
            priority: run.priority,
            tags: run.tags.clone(),
            metadata: run.metadata.clone(),
            input: INPUTS.get(t, &(&run.id, ROOT))?.unwrap_or_default(),
            results,
        };
        Ok(json!({ "workflow_id": run.id, "document": document }))
    });
    settle(exported, &workflow_id)
}

/// Makes a run of a document of `workflow_export`, with the importer's rights: steps that have results there keep them, and the others run here.
#[tool]
pub fn workflow_import(
    /// The document.
    document: Value,
    /// Id of the new run; the one in the document if absent.
    #[arg(default)]
    workflow_id: Option<String>,
) -> Reply {
    let id = workflow_id.clone().unwrap_or_default();
    let imported = (|| {
        let bytes = document.to_string().len();
        if bytes > MAX_DOCUMENT_BYTES.saturating_mul(2) {
            return Err(WorkflowError::Invalid(format!("the document has {bytes} bytes; it is too large")));
        }
        let read: Document = serde_json::from_value(document)
            .map_err(|error| WorkflowError::Invalid(format!("the document is none of workflow_export: {error}")))?;
        if read.form != FORM {
            return Err(WorkflowError::Invalid(format!(
                "the document has the form {:?}; this host reads {FORM:?}",
                read.form
            )));
        }
        // Large results are written before the run.
        super::read(|t| engine::leave_reserve(t))?;
        let by = caller::caller().subject;
        let mut copied = Vec::new();
        for (name, value) in &read.results {
            let place = read.steps.iter().position(|step| step.step_id == *name);
            let number = place.and_then(|place| Number::try_from(place).ok());
            let number =
                number.ok_or_else(|| WorkflowError::Invalid(format!("there is a result of no step: {name:?}")))?;
            let value = match value.to_string().len() > MAX_RESULT_BYTES {
                true => Copied::Large(crate::blob::write(value, mcpp_tool::environment::now_ms())?),
                false => Copied::Value(value.clone()),
            };
            copied.push((number, value));
        }
        let kept = copied.len();
        let draft = Draft {
            id: workflow_id.unwrap_or_else(|| read.workflow_id.clone()),
            name: read.name,
            steps: read.steps,
            priority: read.priority,
            tags: read.tags,
            metadata: read.metadata,
            input: read.input,
            rights: rights::of_caller(),
            by: by.clone(),
            forked: Some(Fork { run: read.workflow_id, step: None, by }),
            copied,
            script: None::<rehearsal::Script>,
            ..Draft::default()
        };
        let run = submit(&draft)?;
        let mut reply = json!({ "workflow_id": run.id, "status": run.status(), "steps_kept": kept });
        put(&mut reply, "imported_from", json!(draft.forked.map(|fork| fork.run)));
        Ok(reply)
    })();
    settle(imported, &id)
}
