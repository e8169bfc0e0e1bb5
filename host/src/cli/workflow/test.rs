//! `mcpp workflow test`: rehearses a workflow on a store of its own. Every step and every undo in turn fails, is done twice and comes late; the command names the steps whose effects stay.
//!
//! An effect is an entry of a component's store, a timer of it, or a file in a directory that it may write. A recorded answer counts as an effect by its call.

mod effects;
mod stage;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::{
    effects::{KnownEffects, SeenEffects},
    stage::Stage,
};
use super::{ask, field};
use crate::cli::{clean, print, print_json};

/// Most rehearsals of one test.
const MAX_REHEARSALS: usize = 3_000;
/// How long one rehearsal may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the command asks how far it is.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The workflow: a JSON file with what `workflow_submit` takes, and perhaps `recorded` answers by tool and what waits are `given`, by signal or step
    file: PathBuf,
    /// Folder of components that it needs; may be repeated
    #[arg(long, value_name = "DIR")]
    tools: Vec<PathBuf>,
    /// Configuration file of the host whose tools and grants it needs [default: ./mcpp.toml if it is there]
    #[arg(long, env = "MCPP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the host whose grants it needs
    #[arg(long, env = "MCPP_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

/// The parts of the file that a rehearsal needs.
#[derive(Debug, Deserialize)]
struct WorkflowFile {
    steps: Vec<Value>,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    recorded: Map<String, Value>,
    #[serde(default)]
    given: Map<String, Value>,
}

/// What goes wrong in a rehearsal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Injected {
    step: String,
    undo: bool,
    kind: &'static str,
}

/// A call of a rehearsal.
#[derive(Debug, Clone, Deserialize)]
struct CallMade {
    step: String,
    undo: bool,
    tool: String,
    succeeded: bool,
    recorded: bool,
}

/// How a rehearsal ended.
#[derive(Debug)]
struct RehearsalEnd {
    phase: String,
    error: String,
    calls: Vec<CallMade>,
    effects: SeenEffects,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Leak {
    /// The step whose effect it is; none if that cannot be said.
    step: Option<String>,
    /// What is wrong.
    reason: String,
}

pub(super) async fn run(args: TestArgs, as_json: bool) -> anyhow::Result<u8> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let file = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no workflow with `steps`", args.file.display()))?;
    let stage = Box::pin(Stage::open(&args)).await?;
    let mut test = WorkflowTest { file, stage, runs: 0, known: KnownEffects::default(), read_only: BTreeSet::new() };
    let found = test.examine(as_json).await;
    test.stage.close().await?;
    let found = found?;
    let leaks = found.iter().map(|(_, leaks)| leaks.len()).fold(0, usize::saturating_add);
    if as_json {
        let rows = found.iter().map(|(injected, leaks)| json!({ "fault": injected, "leaks": leaks }));
        print_json(&json!({ "healthy": leaks == 0, "rehearsals": test.runs, "faults": rows.collect::<Vec<_>>() }))?;
    } else {
        print(&format!("{} rehearsals, {leaks} leaks", test.runs))?;
    }
    Ok(u8::from(leaks > 0))
}

struct WorkflowTest {
    file: WorkflowFile,
    stage: Stage,
    runs: usize,
    /// What is known of effects without a fault.
    known: KnownEffects,
    /// Tools that change nothing, by what they say.
    read_only: BTreeSet<String>,
}

type Findings = Vec<(Injected, Vec<Leak>)>;

impl WorkflowTest {
    /// All rehearsals, with what was found in each.
    async fn examine(&mut self, as_json: bool) -> anyhow::Result<Findings> {
        self.read_only = self.stage.read_only_tools().await?;
        let plain = self.rehearse(json!({})).await?;
        if plain.phase != "completed" {
            bail!("without any fault the workflow does not complete, but ends {}: {}", plain.phase, plain.error);
        }
        self.watch(&plain).await?;
        let mut found = Vec::new();
        let steps: BTreeSet<String> = plain.calls.iter().map(|call| call.step.clone()).collect();
        for step in &steps {
            for kind in ["fail", "repeat", "delay"] {
                let injected = Injected { step: step.clone(), undo: false, kind };
                let leaks = self.with_step_fault(&injected).await?;
                tell(&injected, &leaks, as_json)?;
                found.push((injected, leaks));
            }
        }
        let undone = self.rehearse(json!({ "ends_badly": true })).await?;
        let undos: BTreeSet<String> =
            undone.calls.iter().filter(|call| call.undo).map(|call| call.step.clone()).collect();
        let injected = Injected { step: "every step".into(), undo: true, kind: "none" };
        let leaks = self.left_behind(&undone);
        tell(&injected, &leaks, as_json)?;
        found.push((injected, leaks));
        for step in &undos {
            for kind in ["fail", "repeat", "delay"] {
                let injected = Injected { step: step.clone(), undo: true, kind };
                let leaks = self.with_undo_fault(&injected).await?;
                tell(&injected, &leaks, as_json)?;
                found.push((injected, leaks));
            }
        }
        Ok(found)
    }

    async fn with_step_fault(&mut self, injected: &Injected) -> anyhow::Result<Vec<Leak>> {
        let ended = self.rehearse(json!({ "fault": injected })).await?;
        Ok(match (injected.kind, ended.phase.as_str()) {
            ("fail", "failed") => self.left_behind(&ended),
            // It may fail, or others are enough.
            ("fail", "completed") => Vec::new(),
            (_, "completed") => self.known.differs(&ended.effects, &injected.step),
            (_, phase) => vec![Leak {
                step: Some(injected.step.clone()),
                reason: format!("the run ends {phase}: {}", ended.error),
            }],
        })
    }

    async fn with_undo_fault(&mut self, injected: &Injected) -> anyhow::Result<Vec<Leak>> {
        let mut ended = self.rehearse(json!({ "fault": injected, "ends_badly": true })).await?;
        if injected.kind == "fail" && ended.phase == "undo_failed" {
            let id = self.id();
            ask(&self.stage.client, "workflow_retry", json!({ "workflow_id": id })).await?;
            ended = self.end(&id).await?;
        }
        if ended.phase == "failed" {
            return Ok(self.left_behind(&ended));
        }
        let reason = format!("the undo does not end well: the run is {}: {}", ended.phase, ended.error);
        Ok(vec![Leak { step: Some(injected.step.clone()), reason }])
    }

    /// The effects that a run which failed has left behind.
    fn left_behind(&self, ended: &RehearsalEnd) -> Vec<Leak> {
        let undone: BTreeSet<&str> =
            ended.calls.iter().filter(|call| call.undo && call.succeeded).map(|call| &*call.step).collect();
        let mut leaks = self.known.left(&ended.effects, &undone);
        let by_call = ended.calls.iter().filter(|call| !call.undo && call.recorded && call.succeeded);
        for call in by_call.filter(|call| !undone.contains(&*call.step) && !self.read_only.contains(&call.tool)) {
            let reason =
                format!("its effect stays: nothing takes back the call of `{}`, whose answer is recorded", call.tool);
            leaks.push(Leak { step: Some(call.step.clone()), reason });
        }
        leaks
    }

    fn id(&self) -> String {
        format!("rehearsal-{}", self.runs)
    }

    async fn begin(&mut self, script: Value) -> anyhow::Result<String> {
        if self.runs >= MAX_REHEARSALS {
            bail!("the workflow needs more than {MAX_REHEARSALS} rehearsals; test its parts");
        }
        self.runs = self.runs.saturating_add(1);
        self.stage.clear().await?;
        let mut script = script;
        if let Some(script) = script.as_object_mut() {
            script.insert("recorded".to_owned(), Value::Object(self.file.recorded.clone()));
            script.insert("given".to_owned(), Value::Object(self.file.given.clone()));
        }
        let WorkflowFile { steps, input, metadata, .. } = &self.file;
        let id = self.id();
        let arguments =
            json!({ "workflow_id": id, "steps": steps, "input": input, "metadata": metadata, "script": script });
        ask(&self.stage.client, "workflow_rehearse", arguments).await?;
        Ok(id)
    }

    async fn rehearse(&mut self, script: Value) -> anyhow::Result<RehearsalEnd> {
        let id = self.begin(script).await?;
        self.end(&id).await
    }

    /// How far a rehearsal is.
    async fn look(&self, id: &str) -> anyhow::Result<(Value, Vec<CallMade>)> {
        let run = Value::Object(ask(&self.stage.client, "workflow_rehearse", json!({ "workflow_id": id })).await?);
        let calls = serde_json::from_value(run.get("calls").cloned().unwrap_or_default())?;
        Ok((run, calls))
    }

    async fn end(&self, id: &str) -> anyhow::Result<RehearsalEnd> {
        let ending = async {
            loop {
                let (run, calls) = self.look(id).await?;
                let phase = field(&run, "phase");
                if ["completed", "failed", "cancelled", "undo_failed"].contains(&&*phase) {
                    let effects = self.stage.effects().await?;
                    return Ok(RehearsalEnd { phase, error: field(&run, "error"), calls, effects });
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, ending).await.with_context(|| format!("{id} does not end"))?
    }

    /// Rehearses without a fault and looks at the effects behind each call: which step wrote what, and what differs from run to run.
    async fn watch(&mut self, plain: &RehearsalEnd) -> anyhow::Result<()> {
        let id = self.begin(json!({ "is_stepped": true })).await?;
        let mut writers = BTreeMap::new();
        let (mut before, mut seen) = (SeenEffects::default(), 0);
        let watching = async {
            loop {
                let (run, calls) = self.look(&id).await?;
                if calls.len() > seen {
                    seen = calls.len();
                    let now = self.stage.effects().await?;
                    if let Some(last) = calls.last() {
                        for place in now.changed_since(&before) {
                            writers.insert(place, last.step.clone());
                        }
                    }
                    before = now;
                }
                if !run.get("end_time").is_none_or(Value::is_null) {
                    return Ok::<_, anyhow::Error>(before);
                }
                if run.get("paused") == Some(&Value::Bool(true)) {
                    ask(&self.stage.client, "workflow_resume", json!({ "workflow_id": id })).await?;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let last = tokio::time::timeout(PATIENCE, watching).await.with_context(|| format!("{id} does not end"))??;
        self.known = KnownEffects::new(plain.effects.clone(), &last, writers);
        Ok(())
    }
}

/// Says what one rehearsal found.
fn tell(injected: &Injected, leaks: &[Leak], as_json: bool) -> anyhow::Result<()> {
    if as_json {
        return Ok(());
    }
    let part = if injected.undo { "undo of " } else { "" };
    let what = match injected.kind {
        "fail" => "fails",
        "repeat" => "is done twice",
        "delay" => "comes late",
        _ => "is done",
    };
    let head = format!("{part}{} {what}", clean(&injected.step));
    if leaks.is_empty() {
        return print(&format!("ok    {head}"));
    }
    for leak in leaks {
        let step = leak.step.as_ref().map_or_else(String::new, |step| format!("step '{}': ", clean(step)));
        print(&format!("LEAK  {head}: {step}{}", clean(&leak.reason)))?;
    }
    Ok(())
}
