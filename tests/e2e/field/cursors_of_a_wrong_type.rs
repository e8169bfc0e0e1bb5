//! Servers that take a cursor of a wrong type for none: a client that counts pages gets the first page for ever (MongLong0214/logic-pro-mcp#218,
//! sparfenyuk/mcp-proxy#233). An SDK wrote it beside the params, where nobody looks (modelcontextprotocol/python-sdk#735).

use serde_json::json;

use super::{Pipe, request};
use crate::support::{TestHost, add, answer, modern_message};

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_a_wrong_type_is_refused_at_every_door() {
    let host = TestHost::start(&[("add", &add())]).await;
    let session = host.initialize().await;
    let mut modern = Pipe::open(&host);
    let mut legacy = Pipe::open(&host);
    legacy.initialize().await;
    for (cursor, legal) in
        [(json!(5), false), (json!({}), false), (json!([]), false), (json!(true), false), (json!(null), true)]
    {
        let params = json!({ "cursor": cursor });
        let list = request(1, "tools/list", params.clone());
        let answers = [
            answer(host.modern("tools/list", params.clone()).send().await.expect("an answer")).await,
            answer(host.legacy(&session, &list).send().await.expect("an answer")).await,
            modern.ask(&modern_message("tools/list", params)).await,
            legacy.ask(&list).await,
        ];
        for answer in answers {
            assert_eq!(answer["id"], 1, "{answer}");
            if legal {
                assert_eq!(answer["result"]["tools"][0]["name"], "add", "{answer}");
            } else {
                assert_eq!(answer["error"]["code"], -32602, "{cursor}: {answer}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_beside_the_params_is_refused() {
    let host = TestHost::start(&[("add", &add())]).await;
    let session = host.initialize().await;
    let mut pipe = Pipe::open(&host);
    pipe.initialize().await;
    let mut list = request(1, "tools/list", json!({}));
    list["cursor"] = json!("9");
    for answer in [answer(host.legacy(&session, &list).send().await.expect("an answer")).await, pipe.ask(&list).await] {
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-32602)), "{answer}");
    }
    list["cursor"] = json!(null);
    assert_eq!(pipe.ask(&list).await["result"]["tools"][0]["name"], "add");
}
