//! Servers answer what must not be answered: a notification with wrong params, or an error response without an id, which a client then takes for a message of its own
//! (theoriclabs/LeanDB#64, aovestdipaperino/tokensave#505, pgEdge/pgedge-postgres-mcp#142).

use serde_json::json;

use super::{Pipe, request};
use crate::support::{TestHost, modern_message};

#[tokio::test(flavor = "multi_thread")]
async fn malformed_notifications_and_responses_are_not_answered() {
    let host = TestHost::start(&[]).await;
    for initialized in [false, true] {
        let mut pipe = Pipe::open(&host);
        if initialized {
            pipe.initialize().await;
        }
        for line in [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":[1]}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":{"_meta":"s"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read"}}"#,
            r#"{"jsonrpc":"2.0","id":5,"result":null}"#,
            r#"{"jsonrpc":"2.0","id":5,"error":null}"#,
            r#"{"jsonrpc":"2.0","id":18446744073709551615,"result":{}}"#,
        ] {
            pipe.send(line).await;
            // The answer to what comes after it is the next line.
            let next =
                if initialized { request("next", "ping", json!({})) } else { modern_message("tools/list", json!({})) };
            let answer = pipe.ask(&next).await;
            assert_eq!(answer["id"], next["id"], "{line}: {answer}");
            assert!(answer.get("result").is_some(), "{line}: {answer}");
        }
        pipe.leave().await;
    }
}
