use std::{task::Poll, time::Duration};

use futures::poll;
use tokio::sync::oneshot;

use super::*;
use crate::{
    call::inputs::{ClientLine, InputQuestion},
    control::admission::Share,
    engine::EngineConfig,
    limits::TenantLimits,
};

#[test]
fn a_request_is_the_same_whatever_the_order_of_its_members_and_no_other() {
    let of = |tool: &str, arguments: Value| {
        RequestBinding::new(&Principal::local_user(), "tools/call", tool, &arguments).of_request()
    };
    let one = of("t", json!({ "a": 1, "b": ["x", { "c": null, "d": 2 }] }));
    assert_eq!(one, of("t", json!({ "b": ["x", { "d": 2, "c": null }], "a": 1 })));
    for (tool, other) in [
        ("u", json!({ "a": 1, "b": ["x", { "c": null, "d": 2 }] })),
        ("t", json!({ "a": 2, "b": ["x", { "c": null, "d": 2 }] })),
        ("t", json!({ "a": 1, "b": [{ "c": null, "d": 2 }, "x"] })),
        ("t", json!({ "a": "1", "b": ["x", { "c": null, "d": 2 }] })),
    ] {
        assert_ne!(one, of(tool, other.clone()), "{tool} {other}");
    }
    let prompt = RequestBinding::new(&Principal::local_user(), "prompts/get", "t", &json!({ "a": 1 }));
    assert_ne!(of("t", json!({ "a": 1 })), prompt.of_request());
    let stranger = Principal { subject: "stranger".into(), ..Principal::local_user() };
    let reborn = Principal { incarnation: Some("1".to_owned()).into(), ..Principal::local_user() };
    for other in [stranger, reborn] {
        let of_other = RequestBinding::new(&other, "tools/call", "t", &json!({ "a": 1 }));
        assert_ne!(of("t", json!({ "a": 1 })), of_other.of_request());
    }
}

#[tokio::test]
async fn a_client_that_is_gone_while_its_replies_are_read_stops_its_call() {
    let engine = Engine::new(&EngineConfig::default()).expect("an engine");
    let (parked, cancel, share) =
        (ParkedCalls::default(), CancellationToken::new(), Share::alone(TenantLimits::default()));
    let (principal, right) = (Principal::local_user(), EntryRight::Owner);
    let binding = RequestBinding::new(&principal, "tools/call", "t", &json!({}));
    let asked = GuestQuestions::new(ClientLine::default(), None, Some(binding.clone()));
    let running = RunningCall::unheard(Box::pin(std::future::pending()), cancel.clone(), asked);
    let memory = || share.memory.reserve(MemoryUse::Messages, 1).expect("there is some");
    let (replies, _waits) = oneshot::channel();
    let questions = vec![("roots".to_owned(), InputQuestion::Roots)];
    let round = Round { questions, replies, memory: memory(), until: Instant::now() + Duration::from_secs(600) };
    let caller = TaskCaller { principal: &principal, right };
    let asks = |required: InputRequiredResult| required.request_state.expect("a state");
    let mut state = asks(parked.park(caller, running, round, memory()).expect("parked"));
    loop {
        let mut retry = Box::pin(parked.resume::<CallOutcome>(&engine, &state, &binding, InputResponses::default()));
        let answer = poll!(&mut retry);
        drop(retry);
        state = match answer {
            Poll::Pending => break,
            // They were read before anybody looked.
            Poll::Ready(Ok(Resumed::AsksAgain(required))) => asks(required),
            Poll::Ready(_) => panic!("it has no reply"),
        };
        assert!(!cancel.is_cancelled(), "its client waited");
    }
    assert!(cancel.is_cancelled());
}
