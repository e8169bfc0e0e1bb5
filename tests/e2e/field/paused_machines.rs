//! Machines that stand still for seconds: a laptop's lid, a debugger, a virtual machine that is moved. Programs take the work under way for too slow, and give it up
//! (stacklok/mecatl#1333, block/ftl#3239).

use serde_json::json;

use crate::store::{result, store_host};

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_open_for_too_long_is_run_once_more() {
    let host = store_host("store = {}").await;
    assert_eq!(result(&host, "store_overrun_once", json!({})).await, 2);
    let keys = result(&host, "store_keys", json!({})).await;
    assert_eq!(keys, json!(["overran", "run-2"]), "the first run has not happened");
}
