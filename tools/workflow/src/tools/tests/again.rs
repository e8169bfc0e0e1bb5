//! What is asked for a second time: the same submission, another one under its id, and retries.

use super::*;

fn echo() -> Value {
    json!([{ "step_id": "a", "action": "echo" }])
}

fn send(submission: Submission) -> Result<Map<String, Value>, Failure> {
    workflow_submit(submission).into_result()
}

#[test]
fn a_submission_that_differs_in_anything_that_the_run_keeps_is_refused() {
    clear();
    submit("first", json!([{ "step_id": "w", "action": "wait", "inputs": { "signal": "go" } }])).expect("submitted");
    let one = || Submission {
        metadata: json!({ "k": 1 }).as_object().expect("an object").clone(),
        dependencies: vec!["first".into()],
        tags: vec!["t".into(), "u".into()],
        ..submission("w", echo())
    };
    let submitted = send(one()).expect("submitted");
    assert_eq!(submitted["message"], "Workflow w waits for first");
    send(one()).expect("the same");
    let others = [
        Submission { name: "other".into(), ..one() },
        Submission { priority: 2.0, ..one() },
        Submission { tags: vec!["t".into()], ..one() },
        Submission { tags: vec!["u".into(), "t".into()], ..one() },
        Submission { dependencies: Vec::new(), ..one() },
        Submission { metadata: Map::new(), ..one() },
        Submission { input: json!({ "n": 2 }), ..one() },
        Submission { steps: vec![json!({ "step_id": "b", "action": "echo" })], ..one() },
    ];
    for (number, other) in others.into_iter().enumerate() {
        let refused = send(other).expect_err("another");
        assert_eq!(refused.error, "Workflow w was submitted before with other work", "{number}");
    }
    // The run waits for nothing any more, and was submitted as it was all the same.
    workflow_signal(Some("first".into()), Some("go".into()), None, Value::Null).into_result().expect("given");
    run_all();
    let again = send(one()).expect("the same");
    assert_eq!(again["message"], "Workflow w was submitted before: it is completed");
    // A run of an earlier build has no dependencies in the store, and perhaps a tag twice.
    run(|t| {
        let id = "w".to_owned();
        crate::store::DEPENDENCIES.remove(t, &id)?;
        let mut old = engine::find(t, &id)?;
        old.tags = vec!["t".into(), "u".into(), "t".into()];
        crate::store::RUNS.put(t, &id, &old)?;
        Ok(())
    })
    .expect("written");
    send(one()).expect("the same");
    assert!(send(Submission { priority: 2.0, ..one() }).is_err());
}

#[test]
fn a_tag_that_is_given_twice_counts_once() {
    clear();
    send(Submission { tags: vec!["a".into(), "b".into(), "a".into()], ..submission("w", echo()) }).expect("submitted");
    run_all();
    for status in [None, Some(Status::Completed)] {
        let listed = list(status, &["a"], 50, 0, None).expect("a list");
        assert_eq!((&listed["total_count"], &listed["returned_count"]), (&json!(1), &json!(1)), "{status:?}");
        assert_eq!(listed["workflows"][0]["tags"], json!(["a", "b"]));
    }
}

#[test]
fn a_retry_that_was_made_before_is_named_and_the_next_one_has_the_next_number() {
    clear();
    submit("w", json!([{ "step_id": "a", "action": "fail_3" }])).expect("submitted");
    run_all();
    let retry = |id: &str| workflow_retry(id.into()).into_result();
    assert_eq!(retry("w").expect("retried")["workflow_id"], "w-retry-1");
    let running = retry("w").expect("it runs");
    assert_eq!(
        (&running["workflow_id"], &running["message"]),
        (&json!("w-retry-1"), &json!("Workflow w is tried again already, by w-retry-1"))
    );
    run_all();
    let second = retry("w").expect("retried");
    assert_eq!(
        (&second["workflow_id"], &second["message"]),
        (&json!("w-retry-2"), &json!("Workflow w-retry-2 submitted with 1 steps"))
    );
    run_all();
    assert_eq!(effects().len(), 3, "each retry did its work");
    // Its number is that of another run already.
    assert_eq!(retry("w-retry-1").expect("retried")["workflow_id"], "w-retry-3");
    run_all();
    let refused = retry("w-retry-1").expect_err("completed");
    assert!(refused.error.contains("by w-retry-3, which has completed"), "{}", refused.error);
}
