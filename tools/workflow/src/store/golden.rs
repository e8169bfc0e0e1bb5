//! Every form of a record that a build has written is read by this one; and this one writes the newest of the forms that are kept in `golden/`.
//!
//! A change of a form: keep the file of before, add one with a higher number, and name it here.

use mcpp_tool::{builds::Build, rights::Rights};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    blob::Blob,
    definition::{EventWanted, Form, Step},
    engine::rehearsal::{Called, Fault, FaultKind, Script},
    engine::{Heard, cache::CachedResult},
    run::{Fork, HandedTask, Inner, Limited, Line, Node, Phase, Run, State, Turn},
    schedule::{Overlap, Schedule, Template},
};

/// The kept forms, oldest first.
const GOLDEN: [(&str, &str); 7] = [
    ("1", include_str!("../../golden/1.json")),
    ("2", include_str!("../../golden/2.json")),
    ("3", include_str!("../../golden/3.json")),
    ("4", include_str!("../../golden/4.json")),
    ("5", include_str!("../../golden/5.json")),
    ("6", include_str!("../../golden/6.json")),
    ("7", include_str!("../../golden/7.json")),
];

fn steps() -> Vec<Step> {
    serde_json::from_value(json!([
        {
            "step_id": "a", "action": "text_hash", "inputs": { "text": "${input.x}" }, "depends_on": ["b"], "timeout_s": 1.5, "plan": true, "may_fail": true,
            "retry": { "max_attempts": 3, "backoff_s": 0.5, "factor": 3.0, "max_backoff_s": 9.0, "jitter": 0.2, "final_errors": ["no"] },
            "when": { "value": "${input.y}", "is": 1, "is_not": 2, "above": 0.5 },
            "for_each": { "items": [1, 2], "parallel": 3, "join": { "at_least": 1 } },
            "concurrency": { "key": "render-${input.x}", "limit": 4 }, "rate": { "key": "mail", "limit": 10, "per_s": 60.0 }, "cache": { "ttl_s": 3600.0 },
            "undo": { "action": "text_count", "inputs": { "text": "${result.digest}" } }
        },
        { "step_id": "b", "action": "wait", "inputs": { "seconds": 1.0 } }
    ]))
    .unwrap()
}

fn form() -> Form {
    Form { message: "Who?".into(), schema: json!({ "type": "object", "properties": {} }) }
}

fn states() -> Vec<State> {
    let claim = || "delivery".to_owned();
    vec![
        State::Pending,
        State::Ready,
        State::Held,
        State::InLine(Line { of: Limited::Concurrency, key: "render-7".into() }),
        State::InLine(Line { of: Limited::Rate, key: "mail".into() }),
        State::Running { claim: claim(), until_ms: 9 },
        State::Delayed { until_ms: 9 },
        State::Waiting { signal: Some("go".into()), token: Some("t".into()), until_ms: Some(9), form: None },
        State::Waiting { signal: Some("go".into()), token: None, until_ms: None, form: Some(form()) },
        State::Open(Inner::Fan {
            total: 3,
            begun: 2,
            nodes: Vec::new(),
            open: vec![5],
            succeeded: 1,
            failed: 0,
            why: None,
        }),
        State::Open(Inner::Group { first: 4, total: 2, open: 1, failed: Some("x".into()), why: None }),
        State::Listening {
            event: EventWanted { topic: "orders/paid".into(), key: Some("7".into()) },
            since_ms: 8,
            until_ms: Some(9),
        },
        State::Handed { until_ms: Some(9), look_ms: 8 },
        State::Completed,
        State::Failed,
        State::Skipped,
        State::Cancelled,
        State::Undoing { claim: None },
        State::Undoing { claim: Some((claim(), 9)) },
        State::UndoDelayed { until_ms: 9 },
        State::Undone,
        State::UndoFailed,
    ]
}

fn node(state: State) -> Node {
    Node {
        number: 3,
        path: "sub/a".into(),
        step: steps().remove(0),
        parent: Some(1),
        scope: Some(1),
        depth: 1,
        names: [("b".to_owned(), 4)].into(),
        depends_on: vec![4],
        dependents: vec![5],
        waiting_for: 1,
        rank: 7,
        ready_ms: 8,
        order: 2,
        index: Some(0),
        state,
        attempt: 2,
        started_ms: Some(5),
        ended_ms: Some(6),
        error: Some("why".into()),
        turn: Some(Turn {
            concurrency: Some("render-7".into()),
            rate: Some("mail".into()),
            has_slot: true,
            is_next: true,
        }),
        is_cached: true,
        task: Some(HandedTask { id: "wf-1".into(), worker: Some("w".into()), looks: 3, has_ended: true }),
        host: Some("12D3KooWPeer".into()),
    }
}

fn run(phase: Phase) -> Run {
    Run {
        name: "n".into(),
        phase,
        priority: 0.5,
        tags: vec!["t".into()],
        metadata: Map::from_iter([("k".to_owned(), json!(1))]),
        rights: Rights(Some(vec!["text_*".into()])),
        by: "ada".into(),
        waits_for: vec!["other".into()],
        started_ms: Some(2),
        ended_ms: Some(3),
        paused_ms: Some(4),
        cancelled: Some("asked".into()),
        error: Some("why".into()),
        has_failed: true,
        current: Some("a".into()),
        taken: Some(3),
        untold: vec![(1, 2)],
        to_cancel: vec![3],
        cancelling: Some(4),
        is_forced: true,
        undoing: Some(5),
        sequence: 6,
        held: vec![7],
        forked: Some(Fork { run: "before".into(), step: Some("a".into()), by: "bob".into() }),
        key: "k".into(),
        builds: vec![Build { component: "text".into(), digest: "d".into() }],
        is_rehearsal: true,
        ..Run::new("r".into(), 1)
    }
}

fn schedule() -> Schedule {
    Schedule {
        name: "s".into(),
        cron: Some("0 3 * * *".into()),
        time_zone: "Europe/Berlin".into(),
        overlap: Overlap::Cancel,
        catch_up_ms: 1,
        is_paused: true,
        steps: steps(),
        tags: vec!["t".into()],
        input: json!({ "x": 1 }),
        by: "ada".into(),
        rights: Rights::default(),
        next_ms: Some(2),
        last_run: Some("s-1".into()),
        runs: 3,
        left_out: 4,
        last_error: Some("why".into()),
    }
}

/// All forms as this build writes them.
fn today() -> Value {
    let phases = [
        Phase::Blocked,
        Phase::Running,
        Phase::Undoing,
        Phase::UndoFailed,
        Phase::Completed,
        Phase::Failed,
        Phase::Cancelled,
    ];
    let template =
        Template { steps: steps(), tags: vec!["t".into()], by: "ada".into(), rights: Rights::default(), written_ms: 1 };
    let script = Script {
        fault: Some(Fault { step: "a".into(), undo: true, kind: FaultKind::Repeat }),
        ends_badly: true,
        is_stepped: true,
        recorded: Map::from_iter([("t".to_owned(), json!(1))]),
        given: Map::from_iter([("go".to_owned(), json!(2))]),
    };
    let called = Called {
        step: "a".into(),
        undo: false,
        tool: "t".into(),
        effect: "k/do/a".into(),
        times: 2,
        succeeded: true,
        recorded: false,
    };
    json!({
        "runs": phases.map(run),
        "nodes": states().into_iter().map(node).collect::<Vec<_>>(),
        "definitions": [steps()],
        "templates": [template],
        "schedules": [schedule()],
        "scripts": [script],
        "called": [called],
        "blobs": [Blob { digest: "d".into(), bytes: 1, pieces: 2 }],
        "cached": [CachedResult { created_ms: 1, expires_ms: 2, bytes: 3 }],
        "heard": [Heard { topic: "orders/paid".into(), key: "7".into(), payload: json!({ "by": "ada" }), encoding: "json".into(), time_ms: 9, id: "orders/1-0".into() }],
        "claims": [("r".to_owned(), 1_u32)],
    })
}

/// Reads all records of a form; each is written as it was read, but for fields that it lacked.
fn read<T: DeserializeOwned + Serialize>(file: &str, name: &str, records: &[Value]) {
    for record in records {
        let text = record.to_string();
        let known: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {name}: {error}: {text}"));
        let again = serde_json::to_value(known).expect("written");
        if let (Value::Object(was), Value::Object(is)) = (record, &again) {
            for (field, value) in was {
                assert_eq!(is.get(field), Some(value), "{file}: {name}: the field {field} is lost");
            }
        } else {
            assert_eq!(record, &again, "{file}: {name}");
        }
    }
}

#[test]
fn records_of_every_form_that_was_ever_written_are_read() {
    for (file, text) in GOLDEN {
        let kept: Map<String, Value> = serde_json::from_str(text).expect("JSON");
        for (name, records) in &kept {
            let records = records.as_array().expect("a list");
            assert!(!records.is_empty());
            match name.as_str() {
                "runs" => read::<Run>(file, name, records),
                "nodes" => read::<Node>(file, name, records),
                "definitions" => read::<Vec<Step>>(file, name, records),
                "templates" => read::<Template>(file, name, records),
                "schedules" => read::<Schedule>(file, name, records),
                "scripts" => read::<Script>(file, name, records),
                "called" => read::<Called>(file, name, records),
                "blobs" => read::<Blob>(file, name, records),
                "cached" => read::<CachedResult>(file, name, records),
                "heard" => read::<Heard>(file, name, records),
                "claims" => read::<(String, u32)>(file, name, records),
                other => panic!("{file} has an unknown form {other}"),
            }
        }
    }
}

#[test]
fn this_build_writes_the_newest_kept_form() {
    let (file, text) = GOLDEN[GOLDEN.len() - 1];
    let kept: Value = serde_json::from_str(text).expect("JSON");
    let today = today();
    assert!(
        kept == today,
        "records have another form than in golden/{file}.json; keep it, and add a file with this one:\n{today:#}"
    );
}
