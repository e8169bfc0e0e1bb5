//! Servers put idle sessions away: a request that comes at that very moment is cut off or gets a 500, and the client gives the session up (cyberlife-coder/VelesDB#2319).

use serde_json::json;

use super::request;
use crate::support::{TestHost, answer, folder};

async fn workers(host: &TestHost) -> String {
    host.metric("mcpp_session_workers").await.join("")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_while_their_session_is_parked_succeed() {
    // Parking is due every moment, so that many of these requests meet it.
    let host = TestHost::start_with(folder(&[]), |config| config.sessions.park_ms = 1).await;
    let sessions: Vec<String> = futures::future::join_all((0..8).map(|_| host.initialize())).await;
    host.until("they are parked", async |host| workers(host).await == "mcpp_session_workers 0").await;
    for round in 0..40 {
        let requests = sessions.iter().map(|session| host.legacy(session, &request(round, "ping", json!({}))).send());
        for response in futures::future::join_all(requests).await {
            let response = response.expect("an answer");
            assert_eq!(response.status(), 200);
            assert_eq!(answer(response).await["result"], json!({}));
        }
        tokio::time::sleep(std::time::Duration::from_millis(round % 13)).await;
    }
    host.until("they are parked again", async |host| workers(host).await == "mcpp_session_workers 0").await;
}
