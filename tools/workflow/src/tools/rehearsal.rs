//! `workflow_rehearse`: for `mcpp workflow test`, on a host of its own.

use mcpp_tool::{caller, rights, tool};
use serde_json::{Map, Value, json};

use super::{Reply, put, read, settle, submission::submit, summary};
use crate::{
    engine::{
        self, Draft, WorkflowError,
        rehearsal::{Script, called, prepared},
    },
    validate::parse,
};

/// Runs a workflow with a fault in it, as `mcpp workflow test` does on a host of its own: one step fails, is done twice or comes late. What tools do, they do. Without `steps` it shows a rehearsal and its calls.
#[tool(destructive)]
pub fn workflow_rehearse(
    /// A name for this run, of at most 128 bytes.
    workflow_id: String,
    /// The steps.
    #[arg(default)]
    steps: Vec<Value>,
    /// What `${input…}` stands for.
    #[arg(default)]
    input: Value,
    /// What `${metadata…}` stands for.
    #[arg(default)]
    metadata: Map<String, Value>,
    /// The fault, and the answers of what is not asked.
    #[arg(default)]
    script: Script,
) -> Reply {
    let rehearsed = (|| {
        if steps.is_empty() {
            return read(|t| {
                let run = engine::find(t, &workflow_id)?;
                if !run.is_rehearsal {
                    return Err(WorkflowError::Refused(format!("Workflow {workflow_id} is no rehearsal")));
                }
                let mut shown = summary(&run);
                put(&mut shown, "calls", json!(called(t, &workflow_id)?));
                Ok(shown)
            });
        }
        let draft = Draft {
            id: workflow_id.clone(),
            name: "rehearsal".into(),
            steps: parse(&steps)?,
            priority: 1.0,
            tags: vec!["rehearsal".into()],
            metadata,
            input,
            rights: rights::of_caller(),
            by: caller::caller().subject,
            ..Draft::default()
        };
        let draft = prepared(draft, &script);
        Ok(summary(&submit(&Draft { script: Some(script), ..draft })?))
    })();
    settle(rehearsed, &workflow_id)
}
