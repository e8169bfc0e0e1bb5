//! Every field of every operation, with values that it cannot use.

use mcpp_tool::store::memory;
use serde_json::{Value, json};

use super::handle;
use crate::origin::memory::as_peer;

/// The kind of a field.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Name,
    Number,
    Whole,
    Time,
    Flag,
    Texts,
    Objects,
    Clock,
}

impl Kind {
    fn wrong(self) -> Vec<Value> {
        let mut wrong = match self {
            Self::Text => vec![json!(7), json!(7.5), json!(true), json!(["x"])],
            Self::Name => vec![json!(7), json!(true), json!(["x"]), json!(" x"), json!("x\u{a0}"), json!("a\nb")],
            Self::Number => vec![json!("nine"), json!("inf"), json!("0x9"), json!(" 9"), json!(true), json!([9])],
            Self::Whole => {
                vec![json!("nine"), json!(-1), json!(1.5), json!("1.5"), json!(true), json!([1]), json!(1e300)]
            }
            Self::Time => {
                vec![json!("tomorrow"), json!("2099-01-01"), json!(true), json!([1]), json!(1e15), json!("1e300")]
            }
            Self::Flag => vec![json!("true"), json!(1), json!([true])],
            Self::Texts => vec![json!(7), json!(true), json!(["x", 7]), json!([null])],
            Self::Objects => vec![json!("line"), json!(7), json!(["line"])],
            Self::Clock => vec![json!("now"), json!(7), json!([])],
        };
        if !matches!(self, Self::Clock | Self::Texts) {
            wrong.push(json!({ "no": 1 }));
        }
        wrong
    }
}

fn with(request: &Value, place: &str, value: &Value) -> Value {
    let mut request = request.clone();
    *request.pointer_mut(place).expect("the place is there") = value.clone();
    request
}

#[test]
fn a_value_that_a_field_cannot_use_is_refused_with_the_fields_name() {
    let submit = json!({ "op": "submit", "task_type": null, "model_name": null, "payload": {
        "priority": null, "max_attempts": null, "next_attempt_at": null, "idempotency_key": null, "task_id": null,
        "session_id": null, "session": null, "p2p_session": null, "sticky_worker_id": null, "sticky_worker": null,
    } });
    let claim = json!({ "op": "claim", "worker_id": "w", "peer": null, "peer_id": null, "clock": null,
        "supported_task_types": null, "task_types": null, "session_id": null, "session": null, "p2p_session": null, "wait_s": null });
    let many =
        json!({ "op": "claim_many", "worker_id": "w", "max_tasks": null, "limit": null, "same_task_type": null });
    let complete = json!({ "op": "complete", "task_id": "t", "status": null, "error": null, "worker_id": null,
        "assigned_worker": null, "fencing_token": null });
    let report = json!({ "op": "task.report", "task_id": "t", "logs": null });
    let line =
        json!({ "op": "task.report", "task_id": "t", "logs": [{ "ts": null, "stream": null, "message": null }] });
    let list = json!({ "op": "list", "status": null, "limit": null, "task_types": null, "cursor": null });
    let configure = json!({ "op": "configure", "deterministic": null, "tools": null, "cache": null, "keep_s": null, "keep_tasks": null, "age_s": null });
    let mut checked = 0;
    for (request, fields) in [
        (
            &submit,
            &[
                ("/task_type", Kind::Name),
                ("/model_name", Kind::Name),
                ("/payload/priority", Kind::Number),
                ("/payload/max_attempts", Kind::Whole),
                ("/payload/next_attempt_at", Kind::Time),
                ("/payload/idempotency_key", Kind::Name),
                ("/payload/task_id", Kind::Name),
                ("/payload/session_id", Kind::Name),
                ("/payload/session", Kind::Name),
                ("/payload/p2p_session", Kind::Name),
                ("/payload/sticky_worker_id", Kind::Name),
                ("/payload/sticky_worker", Kind::Name),
            ][..],
        ),
        (
            &claim,
            &[
                ("/worker_id", Kind::Name),
                ("/peer", Kind::Name),
                ("/peer_id", Kind::Name),
                ("/wait_s", Kind::Number),
                ("/clock", Kind::Clock),
                ("/supported_task_types", Kind::Texts),
                ("/task_types", Kind::Texts),
                ("/session_id", Kind::Name),
                ("/session", Kind::Name),
                ("/p2p_session", Kind::Name),
            ],
        ),
        (&many, &[("/max_tasks", Kind::Number), ("/limit", Kind::Number), ("/same_task_type", Kind::Flag)]),
        (
            &complete,
            &[
                ("/task_id", Kind::Text),
                ("/status", Kind::Text),
                ("/error", Kind::Text),
                ("/worker_id", Kind::Text),
                ("/assigned_worker", Kind::Text),
                ("/fencing_token", Kind::Whole),
            ],
        ),
        (
            &json!({ "op": "release", "task_id": "t", "worker_id": "w", "reason": null }),
            &[("/task_id", Kind::Text), ("/worker_id", Kind::Text), ("/reason", Kind::Text)],
        ),
        (
            &json!({ "op": "cancel", "task_id": "t", "reason": null }),
            &[("/task_id", Kind::Text), ("/reason", Kind::Text)],
        ),
        (
            &json!({ "op": "task.heartbeat", "task_id": "t", "worker_id": "w", "fencing_token": null }),
            &[("/task_id", Kind::Text), ("/worker_id", Kind::Text), ("/fencing_token", Kind::Whole)],
        ),
        (&report, &[("/task_id", Kind::Text), ("/logs", Kind::Objects)]),
        (&line, &[("/logs/0/ts", Kind::Number), ("/logs/0/stream", Kind::Text), ("/logs/0/message", Kind::Text)]),
        (
            &json!({ "op": "heartbeat", "peer": null, "peer_id": "p", "clock": null }),
            &[("/peer", Kind::Name), ("/peer_id", Kind::Name), ("/clock", Kind::Clock)],
        ),
        (
            &list,
            &[("/status", Kind::Text), ("/limit", Kind::Number), ("/task_types", Kind::Texts), ("/cursor", Kind::Text)],
        ),
        (&json!({ "op": "get", "task_id": null }), &[("/task_id", Kind::Text)]),
        (
            &json!({ "op": "wait", "task_id": "t", "timeout_s": null }),
            &[("/task_id", Kind::Text), ("/timeout_s", Kind::Number)],
        ),
        (&json!({ "op": "status", "detail": null }), &[("/detail", Kind::Flag)]),
        (&json!({ "op": "call_tool", "tool": null }), &[("/tool", Kind::Text)]),
        (&json!({ "op": "cache.get", "key": null }), &[("/key", Kind::Text)]),
        (
            &json!({ "op": "cache.set", "key": "k", "value": 1, "ttl_s": null }),
            &[("/key", Kind::Text), ("/ttl_s", Kind::Number)],
        ),
        (
            &configure,
            &[
                ("/deterministic", Kind::Flag),
                ("/tools", Kind::Flag),
                ("/cache", Kind::Flag),
                ("/keep_s", Kind::Number),
                ("/keep_tasks", Kind::Whole),
                ("/age_s", Kind::Number),
            ],
        ),
    ] {
        for (place, kind) in fields {
            let field = place.rsplit('/').next().expect("a name");
            for value in kind.wrong() {
                memory::clear();
                let request = with(request, place, &value);
                let reply = handle(&request);
                assert_eq!(reply["error"], "invalid_message", "{request}: {reply}");
                let detail = reply["detail"].as_str().unwrap_or_default();
                // A session has three names, a sticky worker two: the check of the name itself uses the first.
                let family = ["session", "sticky_worker", "peer"].into_iter().find(|family| field.contains(family));
                assert!(detail.contains(family.unwrap_or(field)), "{request}: {detail:?} does not name {field}");
                assert!(memory::entries().is_empty(), "{request} has left something");
                checked += 1;
            }
        }
    }
    assert!(checked > 250, "{checked} wrong values were tried");
}

#[test]
fn numbers_and_times_are_understood_where_they_are_clear() {
    for (field, value, shown, expected) in [
        ("priority", json!("9"), "priority", json!(9.0)),
        ("priority", json!("2.5"), "priority", json!(2.5)),
        ("priority", json!(99), "priority", json!(10.0)),
        ("max_attempts", json!("7"), "max_attempts", json!(7)),
        ("max_attempts", json!(7.0), "max_attempts", json!(7)),
        ("max_attempts", json!(0), "max_attempts", json!(0)),
        ("next_attempt_at", json!("2099-01-01T00:00:00Z"), "next_attempt_at", json!(4_070_908_800.0)),
        ("next_attempt_at", json!("2099-01-01T02:00:00.5+02:00"), "next_attempt_at", json!(4_070_908_800.5)),
        ("next_attempt_at", json!("4070908800"), "next_attempt_at", json!(4_070_908_800.0)),
        ("next_attempt_at", json!(4_070_908_800.25), "next_attempt_at", json!(4_070_908_800.25)),
        ("next_attempt_at", json!(0), "next_attempt_at", json!(0.0)),
        ("next_attempt_at", json!(-5), "next_attempt_at", json!(0.0)),
        ("idempotency_key", json!("7"), "idempotency_key", json!("7")),
        ("idempotency_key", json!(""), "idempotency_key", json!(null)),
    ] {
        memory::clear();
        let submitted = handle(&json!({ "op": "submit", "payload": { field: value } }));
        assert_eq!(submitted["ok"], true, "{field} {value}: {submitted}");
        let record = handle(&json!({ "op": "get", "task_id": submitted["task_id"] }));
        assert_eq!(record["task"][shown], expected, "{field} {value}");
        let claimed = handle(&json!({ "op": "claim", "worker_id": "w" }));
        let is_later = field == "next_attempt_at" && expected != json!(0.0);
        assert_eq!(claimed["task"].is_null(), is_later, "{field} {value}: {claimed}");
    }
    // A null or empty name does not hide the other one.
    memory::clear();
    handle(&json!({ "op": "submit", "payload": { "session_id": null, "session": "", "p2p_session": "s" } }));
    assert!(handle(&json!({ "op": "claim", "worker_id": "w" }))["task"].is_null());
    assert!(!handle(&json!({ "op": "claim", "worker_id": "w", "session": "s" }))["task"].is_null());
}

#[test]
fn a_reply_of_many_large_tasks_has_as_many_as_fit() {
    for _ in 0..6 {
        let payload = json!({ "fill": "x".repeat(500_000) });
        assert_eq!(handle(&json!({ "op": "submit", "payload": payload }))["ok"], true);
    }
    let many = handle(&json!({ "op": "claim_many", "worker_id": "w", "limit": 100 }));
    assert_eq!(many["tasks"].as_array().map(Vec::len), Some(3));
    assert_eq!(handle(&json!({ "op": "status", "detail": true }))["queue"]["running"], 3, "no other one was claimed");
}

#[test]
fn many_tasks_are_submitted_all_or_none() {
    memory::clear();
    let task = |n: u64| json!({ "task_type": "t", "payload": { "task_id": format!("t{n}"), "n": n } });
    let submitted = handle(&json!({ "op": "submit_many", "tasks": (0..1_000).map(task).collect::<Vec<_>>() }));
    let ids = submitted["task_ids"].as_array().expect("ids");
    assert_eq!((ids.len(), &ids[999]), (1_000, &json!("t999")), "as many as are legal, in their order");
    assert_eq!(handle(&json!({ "op": "get", "task_id": "t7" }))["task"]["payload"]["n"], 7);
    // The last one is refused, and so are all.
    let other = json!({ "task_type": "t", "payload": { "task_id": "t0", "n": 5 } });
    let refused = handle(&json!({ "op": "submit_many", "tasks": [task(2_000), other] }));
    assert_eq!((&refused["ok"], &refused["error"]), (&json!(false), &json!("invalid_message")), "{refused}");
    assert_eq!(handle(&json!({ "op": "get", "task_id": "t2000" }))["task"], json!(null));
    for wrong in [json!([]), json!((0..1_001).map(task).collect::<Vec<_>>()), json!(["t"]), json!(null), json!(7)] {
        assert_eq!(handle(&json!({ "op": "submit_many", "tasks": wrong }))["error"], "invalid_message");
    }
}

#[test]
fn a_claim_may_have_a_shorter_lease_which_each_renewal_keeps() {
    memory::clear();
    let lasts = |asked: Value| {
        let submitted = handle(&json!({ "op": "submit", "task_type": "t" }));
        let id = &submitted["task_id"];
        let claimed = handle(&json!({ "op": "claim", "worker_id": "w", "lease_s": asked }));
        assert_eq!(&claimed["task"]["task_id"], id, "{claimed}");
        let renew = json!({ "op": "task.heartbeat", "task_id": id, "worker_id": "w", "fencing_token": 1 });
        let length = || {
            let task = handle(&json!({ "op": "get", "task_id": id }))["task"].clone();
            (task["lease_until"].as_f64().expect("a lease") - task["heartbeat_at"].as_f64().expect("a sign")).round()
        };
        let first = length();
        assert_eq!(handle(&renew)["ok"], true);
        (first, length())
    };
    assert_eq!(lasts(json!(null)), (300.0, 300.0));
    assert_eq!(lasts(json!(30)), (30.0, 30.0));
    assert_eq!(lasts(json!(0)), (1.0, 1.0), "no shorter than a second");
    assert_eq!(lasts(json!(900)), (300.0, 300.0), "no longer than usual");
    assert_eq!(handle(&json!({ "op": "claim", "worker_id": "w", "lease_s": "soon" }))["error"], "invalid_message");
}

#[test]
fn a_failure_ends_a_task_unless_its_worker_says_that_another_attempt_may_succeed() {
    memory::clear();
    let after = |more: Value| {
        let id = handle(&json!({ "op": "submit", "task_type": "t" }))["task_id"].clone();
        handle(&json!({ "op": "claim", "worker_id": "w" }));
        let mut end = json!({ "op": "complete", "task_id": id, "status": "failed", "error": "no" });
        end.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        assert_eq!(handle(&end)["ok"], true);
        handle(&json!({ "op": "get", "task_id": id }))["task"]["status"].clone()
    };
    assert_eq!(after(json!({})), "failed");
    assert_eq!(after(json!({ "retry": false })), "failed");
    assert_eq!(after(json!({ "retry": true })), "queued");
}

#[test]
fn a_claim_says_what_the_submitter_may_use_and_a_request_cannot() {
    memory::clear();
    handle(&json!({ "op": "submit", "task_type": "t", "reach": { "only": ["x"] }, "payload": { "reach": "unknown" } }));
    let claimed = handle(&json!({ "op": "claim", "worker_id": "w" }));
    assert_eq!(claimed["task"]["reach"], "all", "a native test's caller may use all: {claimed}");
}

#[test]
fn a_peer_cannot_configure_the_queue() {
    memory::clear();
    let before = handle(&json!({ "op": "configure" }));
    for change in [
        json!({ "keep_tasks": 1 }),
        json!({ "keep_s": 0 }),
        json!({ "tools": true }),
        json!({ "cache": false }),
        json!({ "deterministic": true }),
        json!({ "age_s": 1 }),
        json!({}),
    ] {
        let mut request = change.clone();
        request["op"] = json!("configure");
        let refused = as_peer("12D3KooWpeer", || handle(&request));
        assert_eq!((&refused["ok"], &refused["error"]), (&json!(false), &json!("unauthorized")), "{change}: {refused}");
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("`configure`")), "{refused}");
    }
    assert_eq!(handle(&json!({ "op": "configure" })), before, "nothing has changed");
    assert_eq!(as_peer("12D3KooWpeer", || handle(&json!({ "op": "submit" })))["ok"], true, "its own operations it has");
    assert_eq!(handle(&json!({ "op": "configure", "keep_tasks": 7 }))["keep_tasks"], 7);
}
