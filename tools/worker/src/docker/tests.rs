//! Tasks of containers with the real queue, and an engine in memory.

use std::{cell::RefCell, rc::Rc, time::Duration};

use mcpp_tool::container::{
    ContainerError, Ending, Event, Order, Origin, Outcome, Phase, Source, Volume, memory as engine,
};
use serde_json::{Value, json};

use super::{
    Lines, Tail,
    order::{ExecuteFields, GithubFields},
};
use crate::tests::{call, clear, rpc, serve, submit_of_type as submit, tally, task, tool_of_queue, work};

fn exited(code: i64) -> Result<Event, ContainerError> {
    Ok(Event::Ended(Ending { outcome: Outcome::Exited, exit_code: Some(code), run: Duration::from_millis(1_500) }))
}

fn said(text: &str) -> Result<Event, ContainerError> {
    Ok(Event::Output(Origin::Stdout, text.as_bytes().to_vec()))
}

fn execute(payload: Value) -> Result<Order, String> {
    let fields: ExecuteFields = serde_json::from_value(payload).map_err(|error| error.to_string())?;
    fields.order(Duration::from_secs(1_000))
}

#[test]
fn every_field_of_the_contract_has_its_meaning_and_the_safe_default() {
    assert_eq!(execute(json!({ "image": "a" })), Ok(Order::new(Source::Image("a".into()))));
    assert_eq!(Order::new(Source::Image("a".into())).network, "none");
    let all = json!({
        "image": "a", "cmd": "run  this", "entrypoint": ["sh", "-c"], "env": { "A": "b" },
        "volumes": { "/srv/in": "/in:ro", "/srv/out": "/out", "/srv/rw": "/rw:rw" }, "gpu": true,
        "memory_limit": "2g", "cpu_limit": "1.5", "timeout": 5, "network_mode": "web", "working_dir": "/w",
        "read_only": true, "no_new_privileges": true, "user": "me", "stream_output": false, "priority": 3,
    });
    let volume =
        |host: &str, container: &str, read_only| Volume { host: host.into(), container: container.into(), read_only };
    let wanted = Order {
        command: vec!["run".into(), "this".into()],
        entrypoint: vec!["sh".into(), "-c".into()],
        environment: vec![("A".into(), "b".into())],
        volumes: vec![
            volume("/srv/in", "/in", true),
            volume("/srv/out", "/out", false),
            volume("/srv/rw", "/rw", false),
        ],
        network: "web".into(),
        gpus: Some("all".into()),
        memory_bytes: Some(2 << 30),
        cpu_millis: Some(1_500),
        timeout: Duration::from_secs(5),
        working_dir: Some("/w".into()),
        user: Some("me".into()),
        read_only: true,
        ..Order::new(Source::Image("a".into()))
    };
    assert_eq!(execute(all), Ok(wanted));
    let sizes = [("1024", 1_024), ("512k", 512 << 10), ("1.5M", 3 << 19), ("2GiB", 2 << 30), ("7b", 7)];
    for (text, bytes) in sizes {
        let order = execute(json!({ "image": "a", "memory_limit": text })).expect(text);
        assert_eq!(order.memory_bytes, Some(bytes), "{text}");
    }
    for wrong in [
        json!({}),
        json!({ "image": "a", "no_new_privileges": false }),
        json!({ "image": "a", "timeout": 0 }),
        json!({ "image": "a", "timeout": -1 }),
        json!({ "image": "a", "memory_limit": "lots" }),
        json!({ "image": "a", "memory_limit": "-1g" }),
        json!({ "image": "a", "cpu_limit": 0 }),
    ] {
        assert!(execute(wrong.clone()).is_err(), "{wrong}");
    }
    let github: GithubFields = serde_json::from_value(json!({ "repo": "https://github.com/o/r" })).expect("fields");
    let Ok(Order { source: Source::Repository(from), .. }) = github.order(Duration::from_secs(1)) else {
        panic!("built")
    };
    assert_eq!((from.branch.as_str(), from.context.as_str(), from.dockerfile.as_str()), ("main", ".", "Dockerfile"));
}

#[test]
fn a_task_has_the_result_of_the_contract_and_its_lines_as_logs() {
    clear();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let orders = Rc::clone(&seen);
    engine::start(move |order| {
        orders.borrow_mut().push(order.clone());
        let failing = order.command.first().is_some_and(|word| word == "fail");
        let mut script =
            vec![Ok(Event::Phase(Phase::Pulling)), Ok(Event::Phase(Phase::Running)), said("one\ntw"), said("o\n")];
        script.push(Ok(Event::Output(Origin::Stderr, b"oh\n".to_vec())));
        script.push(exited(if failing { 3 } else { 0 }));
        Ok(script)
    });
    serve(json!({ "docker": true, "tool_calls": false }));
    submit("t1", "docker.run", json!({ "image": "python:3.12", "command": ["go"] }));
    submit("t2", "docker.execute", json!({ "image": "python:3.12", "command": "fail now" }));
    submit("t3", "docker.github_repo", json!({ "repo": "https://github.com/o/r" }));
    work();
    let done = task("t1");
    assert_eq!(done["status"], "completed", "{done}");
    let result = &done["result"];
    assert_eq!(
        [&result["success"], &result["exit_code"], &result["stdout"], &result["stderr"], &result["execution_time"]],
        [&json!(true), &json!(0), &json!("one\ntwo\n"), &json!("oh\n"), &json!(1.5)]
    );
    assert_eq!((&result["error_message"], &result["truncated"]), (&json!(null), &json!(false)));
    let lines: Vec<&str> =
        result["logs"].as_array().unwrap().iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(lines, ["one", "two", "oh"]);
    assert_eq!((&result["progress"]["image"], &result["progress"]["phase"]), (&json!("python:3.12"), &json!("ended")));
    let failed = task("t2");
    assert_eq!(
        (&failed["status"], &failed["error"]),
        (&json!("failed"), &json!("the program ended with 3")),
        "{failed}"
    );
    assert_eq!((&failed["result"]["exit_code"], &failed["result"]["stdout"]), (&json!(3), &json!("one\ntwo\n")));
    assert_eq!(failed["attempt"], 1, "what ran is not run again");
    assert_eq!(task("t3")["status"], "completed");
    assert_eq!(seen.borrow().len(), 3);
    assert_eq!((&tally()["completed"], &tally()["failed"]), (&json!(2), &json!(1)));
}

#[test]
fn an_engine_that_refuses_is_tried_again_and_an_order_that_is_not_allowed_is_not() {
    for (error, status) in [
        (ContainerError::Unavailable("away".into()), "queued"),
        (ContainerError::Failed("no such image".into()), "queued"),
        (ContainerError::Off, "queued"),
        (ContainerError::Busy, "queued"),
        (ContainerError::NotAllowed("the image".into()), "failed"),
        (ContainerError::Invalid("wrong".into()), "failed"),
    ] {
        clear();
        let answer = error.clone();
        engine::start(move |_| Err(answer.clone()));
        serve(json!({ "docker": true }));
        submit("t1", "docker.execute", json!({ "image": "a" }));
        crate::claimer::claim("s").unwrap();
        crate::tests::deliver();
        let task = task("t1");
        assert_eq!(task["status"], status, "{error:?}: {task}");
        assert_eq!(task["attempt"], json!(u8::from(error != ContainerError::Busy)), "{error:?}: {task}");
    }
    clear();
    serve(json!({ "docker": true }));
    submit("t1", "docker.execute", json!({ "command": "no image" }));
    work();
    assert_eq!(task("t1")["status"], "failed");
    assert!(task("t1")["error"].as_str().unwrap().contains("missing field `image`"), "{}", task("t1"));
}

#[test]
fn a_container_of_a_cancelled_task_is_killed() {
    clear();
    engine::start(|order| {
        let name = order.environment[0].1.clone();
        let cancelled = tool_of_queue("task_cancel", json!({ "task_id": name, "force": true }));
        assert_eq!(cancelled["success"], true, "{cancelled}");
        // It runs until it is killed.
        Ok(vec![Ok(Event::Phase(Phase::Running)), said("working\n")])
    });
    serve(json!({ "docker": true }));
    submit("t1", "docker.execute", json!({ "image": "a", "env": { "NAME": "t1" } }));
    work();
    assert_eq!((&task("t1")["status"], &tally()["lost"]), (&json!("cancelled"), &json!(1)));
}

#[test]
fn containers_are_served_only_where_the_service_says_so_and_within_everybodys_rights() {
    clear();
    serve(json!({}));
    submit("t1", "docker.execute", json!({ "image": "a" }));
    work();
    assert_eq!(task("t1")["status"], "queued");
    let refused = serve(json!({ "docker": true, "tools": ["text_*"] }));
    assert!(refused["error"].as_str().unwrap().contains("`docker_execute`"), "{refused}");
    assert!(serve(json!({ "types": { "docker.execute": "x" } }))["error"].as_str().unwrap().contains("is no type"));
    engine::start(|_| Ok(vec![exited(0)]));
    serve(json!({ "docker": true, "tools": ["docker_execute"] }));
    submit("t2", "docker.github", json!({ "repo_url": "https://github.com/o/r" }));
    work();
    assert_eq!(task("t1")["status"], "completed");
    assert_eq!(task("t2")["error"], "this service may not call \"docker_github\"");
    let list = rpc(json!({ "op": "list", "status": "running" }));
    assert_eq!(list["tasks"], json!([]));
}

#[test]
fn a_tool_answers_as_the_task_does_and_says_what_is_wrong() {
    clear();
    let off = call(&super::tools::MCPP_TOOL_DOCKER_EXECUTE, json!({ "image": "a" }));
    assert_eq!((&off["success"], &off["error_message"]), (&json!(false), &json!("this host has no container engine")));
    engine::start(|_| Ok(vec![said("hi"), exited(0)]));
    let ran = call(&super::tools::MCPP_TOOL_DOCKER_EXECUTE, json!({ "image": "a" }));
    assert_eq!((&ran["success"], &ran["stdout"], &ran["exit_code"]), (&json!(true), &json!("hi"), &json!(0)));
    let built = call(&super::tools::MCPP_TOOL_DOCKER_GITHUB, json!({ "repo_url": "https://github.com/o/r" }));
    assert_eq!(built["success"], true);
    let wrong = call(&super::tools::MCPP_TOOL_DOCKER_EXECUTE, json!({ "image": "a", "timeout": 0 }));
    assert_eq!(wrong["error_message"], "`timeout` is 0; it must be positive");
}

#[test]
fn long_output_keeps_its_end_and_a_result_fits_its_record() {
    let mut tail = Tail::default();
    for n in 0..200_u32 {
        tail.add(format!("{n:>1023}\n").as_bytes());
        assert!(tail.bytes.len() <= 3 * super::MAX_KEPT_BYTES);
    }
    tail.add(b"end");
    let text = tail.text();
    assert!(text.ends_with("199\nend") && text.len() == super::MAX_KEPT_BYTES);
    let zeros = "\0".repeat(super::MAX_KEPT_BYTES);
    let ran = super::Ran {
        success: true,
        exit_code: Some(0),
        stdout: zeros.clone(),
        stderr: zeros,
        execution_time: 0.0,
        error_message: None,
        truncated: false,
    };
    let cut = ran.within(128 << 10);
    assert!(serde_json::to_string(&cut).unwrap().len() <= 128 << 10 && cut.truncated && !cut.stdout.is_empty());
    let mut lines = Lines::default();
    lines.add(Origin::Stdout, "x".repeat(2_000).as_bytes());
    lines.add(Origin::Stdout, b"y\nsecond\n");
    for n in 0..150 {
        lines.add(Origin::Stderr, format!("{n}\n").as_bytes());
    }
    let lines = lines.take();
    assert_eq!((lines.len(), lines[99].text.as_str()), (100, "149"));
}
