//! Tokens that a server takes for none, such as 0, the first that an SDK makes (modelcontextprotocol/python-sdk#176), or replaces by one of its own, which a strict client
//! refuses (twentyhq/twenty#24559).

use serde_json::json;

use super::{Pipe, request};
use crate::support::{TestHost, guest};

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_under_the_very_token_and_only_where_there_is_one() {
    let host = TestHost::start(&[("probe", &guest("probe"))]).await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    for meta in [
        json!({ "progressToken": 0 }),
        json!({ "progressToken": "0" }),
        json!({ "progressToken": "" }),
        json!({ "progressToken": -1 }),
        json!({ "progressToken": 9_007_199_254_740_993_u64 }),
        json!({}),
        json!({ "progressToken": null }),
    ] {
        let params = json!({ "name": "probe_sleep", "arguments": { "ms": 1 }, "_meta": meta });
        pipe.send(&request(1, "tools/call", params).to_string()).await;
        let mut tokens = Vec::new();
        loop {
            let message = pipe.receive().await;
            match message["method"].as_str() {
                Some("notifications/progress") => tokens.push(message["params"]["progressToken"].clone()),
                Some(_) => {}
                None => break assert!(message["result"]["isError"] != true, "{message}"),
            }
        }
        let token = &meta["progressToken"];
        let expected = if token.is_null() { vec![] } else { vec![token.clone(); 2] };
        assert_eq!(tokens, expected, "{meta}");
    }
}
