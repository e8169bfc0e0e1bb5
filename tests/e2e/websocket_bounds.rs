//! What one tenant's WebSockets can make the host hold and do.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{PATIENCE, TestHost, folder, grant, guest, http_client, modern_message, modern_request},
    websocket::{Client, call, knows_tasks, used},
};

/// Bytes of a piece of a large answer.
const PIECE_BYTES: usize = 64 << 10;

/// Files that this process has open: each test is a process of its own.
fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("readable").count()
}

/// Memory of this process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("readable");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number");
    pages * 4_096
}

async fn hostile(limits: &str) -> TestHost {
    let files = folder(&[("hostile", &guest("hostile"))]);
    let http = "[[components.hostile.http]]\nurl = 'http://127.0.0.1:9'\naddresses = ['127.0.0.1/32']\n";
    grant(&files, &format!("[components.hostile]\nstore = {{}}\nlimits = {{ host_calls = 1000000 }}\n{http}"));
    let host =
        TestHost::start_with(files, |config| config.tenant_limits = toml::from_str(limits).expect("valid")).await;
    assert_eq!(host.problems(), "");
    host
}

fn listen(id: u64, uris: &[String]) -> String {
    let wanted = json!({ "notifications": { "resourceSubscriptions": uris } });
    let mut message = modern_message("subscriptions/listen", wanted);
    message["id"] = json!(id);
    message.to_string()
}

fn resources(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("large://{number}")).collect()
}

/// A task whose result is of so many small objects.
async fn objects(client: &mut Client, count: usize) -> String {
    let made = client.ask(&knows_tasks(call("hostile_objects", json!({ "count": count })))).await;
    let task = made["result"]["taskId"].as_str().expect("a task").to_owned();
    loop {
        let mut get = knows_tasks(modern_message("tasks/get", json!({ "taskId": task })));
        get["id"] = json!("look");
        if client.ask(&get).await["result"]["status"] == "completed" {
            return task;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_come_whole_whoever_writes_them() {
    let host = hostile("").await;
    let mut client = Client::to(&host).await;
    let answer = client.ask(&call("hostile_answer", json!({ "bytes": 600_000 }))).await;
    assert_eq!(answer["result"]["content"][0]["text"], "\u{1}".repeat(100_000));
    let read = client.ask(&modern_message("resources/read", json!({ "uri": "large://100000" }))).await;
    assert_eq!(read["result"]["contents"][0]["text"], "\u{1}".repeat(100_000));
    let task = objects(&mut client, 10_000).await;
    let got = client.ask(&knows_tasks(modern_message("tasks/get", json!({ "taskId": task })))).await;
    assert_eq!(got["result"]["result"]["structuredContent"]["result"].as_array().map(Vec::len), Some(10_000), "{got}");
    drop(client);
    host.until("all is given back", async |host| used(host) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_results_that_nobody_reads_take_their_text_and_not_their_values() {
    let host = hostile("").await;
    let mut client = Client::to(&host).await;
    // 400 KB of text; some 40 MB as values.
    let task = objects(&mut client, 50_000).await;
    let before = resident_bytes();
    for id in 0..60 {
        let mut get = knows_tasks(modern_message("tasks/get", json!({ "taskId": task })));
        get["id"] = json!(id);
        client.send(get.to_string()).await;
    }
    // Read one by one: each answer is whole, and the others wait meanwhile.
    let mut most = 0;
    for _ in 0..60 {
        let answer = client.next().await.expect("an answer");
        assert_eq!(answer["result"]["status"], "completed", "{}", answer.to_string().len());
        most = most.max(resident_bytes().saturating_sub(before));
    }
    assert!(most < 600 << 20, "{} MiB", most >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_one_of_its_tenants_streams() {
    let host = hostile("streams = 3").await;
    let mut client = Client::to(&host).await;
    for id in 1..=3_u64 {
        client.send(listen(id, &resources(1))).await;
    }
    let mut told: Vec<Value> = Vec::new();
    for _ in 0..3 {
        told.push(client.next().await.expect("a message"));
    }
    let refused: Vec<&Value> = told.iter().filter(|message| message.get("error").is_some()).collect();
    assert_eq!(refused.len(), 1, "the WebSocket is one of three: {told:?}");
    assert!(
        refused[0]["error"]["message"].as_str().is_some_and(|text| text.contains("streams of this tenant")),
        "{refused:?}"
    );
    // A subscription that ends makes room.
    client
        .send(
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 1 } }).to_string(),
        )
        .await;
    host.until("there is room again", async |_| {
        client.send(listen(9, &resources(1))).await;
        loop {
            let message = client.next().await.expect("a message");
            if message["id"] == 9 || message["method"] == "notifications/subscriptions/acknowledged" {
                break message.get("error").is_none();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_while_it_is_told_leaves_nothing() {
    let host = hostile("").await;
    let changing = {
        let url = host.host.url();
        tokio::spawn(async move {
            let message = call("hostile_updates", json!({ "resources": 40, "times": 300 }));
            modern_request(&http_client(), &url, "tools/call", message["params"].clone()).send().await.map(drop)
        })
    };
    let before = open_files();
    for _ in 0..6 {
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = Client::to(&host).await;
            for id in 0..8 {
                client.send(listen(id, &resources(40))).await;
            }
            let _acknowledged = client.next().await;
            clients.push(client);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        for client in clients {
            // As if its process had ended: what it has not read is thrown away.
            client.0.get_ref().set_zero_linger().expect("an open socket");
            drop(client);
        }
    }
    changing.abort();
    host.until("all is given back", async |host| used(host) == 0 && open_files() <= before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_at_a_rate_and_none_is_lost() {
    // Eight notifications a second.
    let host = hostile("streams = 2").await;
    let mut client = Client::to(&host).await;
    client.send(listen(1, &resources(12))).await;
    let acknowledged = client.next().await.expect("an acknowledgement");
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged", "{acknowledged}");
    let mut updates = call("hostile_updates", json!({ "resources": 12, "times": 60 }));
    updates["id"] = json!(2);
    client.send(updates.to_string()).await;
    let (mut told, mut changed) = (0, std::collections::BTreeSet::new());
    let mut is_answered = false;
    while changed.len() < 12 || !is_answered {
        let message = client.next().await.expect("a message");
        if message["method"] == "notifications/resources/updated" {
            told += usize::from(!is_answered);
            changed.insert(message["params"]["uri"].as_str().expect("a URI").to_owned());
        } else {
            is_answered = true;
        }
    }
    assert!(told < 60, "{told} while the tool said it 720 times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_goes_out_in_frames() {
    let host = hostile("").await;
    let mut client = Client::to(&host).await;
    client.send(call("hostile_answer", json!({ "bytes": 1_200_000 })).to_string()).await;
    // The socket's own bytes: the heads of the frames tell how long they are.
    let socket = client.0.get_mut();
    let mut frames = Vec::new();
    loop {
        use tokio::io::AsyncReadExt as _;
        let head = tokio::time::timeout(PATIENCE, socket.read_u16()).await.expect("in time").expect("a head");
        let bytes = match head & 0x7f {
            126 => u64::from(socket.read_u16().await.expect("a length")),
            127 => socket.read_u64().await.expect("a length"),
            short => u64::from(short),
        };
        let mut frame = vec![0; usize::try_from(bytes).expect("small")];
        socket.read_exact(&mut frame).await.expect("a frame");
        frames.push(frame.len());
        if head & 0x8000 != 0 {
            break;
        }
    }
    assert!(frames.len() > 10 && frames.iter().all(|bytes| *bytes <= PIECE_BYTES), "{frames:?}");
    // And the connection goes on.
    client.0.send(Message::text(modern_message("tools/list", json!({})).to_string())).await.expect("sent");
    assert!(client.0.next().await.is_some());
}
