//! A cancellation that comes when its request has ended, names one that never was, or is malformed: servers crash, or answer twice (modelcontextprotocol/python-sdk#2416,
//! modelcontextprotocol/python-sdk#1152, MarkusPfundstein/mcp-gsuite#21).

use serde_json::json;

use super::{Pipe, call, request};
use crate::support::{TestHost, guest, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_of_what_does_not_run_means_nothing() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    for round in 0..20 {
        let add = call(round, "probe_add", json!({ "a": 1, "b": 2 }));
        pipe.send(&add.to_string()).await;
        for id in [json!(round - 1), json!(round.to_string()), json!(99), json!(0.5), json!(null), json!({})] {
            let cancelled =
                json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": id } });
            pipe.send(&cancelled.to_string()).await;
        }
        pipe.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#).await;
        let answer = pipe.receive().await;
        assert_eq!((&answer["id"], text_of(&answer)), (&json!(round), r#"{"result":3}"#.to_owned()));
        // The answer has gone out, and so may be cancelled too late only.
        let late = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": round } });
        pipe.send(&late.to_string()).await;
        let next = pipe.ask(&request("next", "ping", json!({}))).await;
        assert_eq!((&next["id"], &next["result"]), (&json!("next"), &json!({})), "{next}");
    }
    pipe.leave().await;
}
