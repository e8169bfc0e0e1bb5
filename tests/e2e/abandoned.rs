//! Answers that were put off and that nobody waits for any more, of a component that does not take that.

use mcpp::{
    auth::tokens::TokenFile,
    names::TenantId,
    tenant::{SCOPE_METRICS, home::Homes},
};
use serde_json::{Value, json};

use crate::{
    mcp_tasks::{ask, new_token, task_of},
    support::{TestHost, folder},
    tenants::{User, token},
};

const TASKS_0_1_1: &[u8] = include_bytes!("../guests/frozen/tasks-0.1.1.wasm");

/// A tenant whose calls put off their answers, and whose store is too full to note that nobody waits for them.
struct FullTenant {
    host: TestHost,
    owner: String,
    /// The id of the owner's token.
    token_id: String,
    measuring: User,
    tasks: Vec<String>,
}

impl FullTenant {
    async fn with_calls(calls: usize) -> Self {
        let files = folder(&[]);
        let data = files.path().join("data");
        let (record, owner) = new_token(&data, "team", "ada", &[]);
        let home = Homes::new(data.clone()).of(&TenantId::new("team").expect("legal"));
        std::fs::write(home.tools().join("frozen.wasm"), TASKS_0_1_1).expect("written");
        std::fs::create_dir_all(home.grants()).expect("made");
        let grant = "version = 1\nstore = { quota_bytes = 32768 }\n[limits]\ntask_after_ms = 0\n";
        std::fs::write(home.grants().join("frozen.toml"), grant).expect("written");
        let measuring = token(&data, "team", &[SCOPE_METRICS], &[]);
        let host = TestHost::start_with(files, |config| config.sessions.park_ms = 100).await;
        let measuring = User::new(&host, &measuring);
        let mut tenant = Self { host, owner, token_id: record.id, measuring, tasks: Vec::new() };
        for number in 0..calls {
            let arguments = json!({ "id": format!("a{number}"), "state": "x" });
            let task = task_of(&tenant.call("approve", arguments).await);
            tenant.tasks.push(task);
        }
        for task in &tenant.tasks {
            tenant.until_put_off(task).await;
        }
        tenant.fill().await;
        tenant
    }

    async fn call(&self, tool: &str, arguments: Value) -> Value {
        ask(&self.host, "tools/call", json!({ "name": tool, "arguments": arguments }), Some(&self.owner)).await
    }

    /// Waits until the component says how far the work of a task is.
    async fn until_put_off(&self, task: &str) {
        self.host
            .until("the answer is put off", async |host| {
                let status = ask(host, "tasks/get", json!({ "taskId": task }), Some(&self.owner)).await;
                status["result"]["statusMessage"] == "1 of 2: x"
            })
            .await;
    }

    /// Leaves no room for a word of nine bytes in the place of one.
    async fn fill(&self) {
        let mut filled = 0;
        for step in [4_096, 512, 64, 8, 1] {
            loop {
                let padding = "p".repeat(filled + step);
                if !self.is_taken(&padding).await {
                    break;
                }
                filled += step;
                assert!(filled < 65_536, "the store has no bound");
            }
        }
    }

    /// Whether the store has room for a word. A call that ends at once is no task.
    async fn is_taken(&self, padding: &str) -> bool {
        let answer = self.call("change", json!({ "id": "padding", "state": padding })).await;
        if answer["result"]["resultType"] != "task" {
            return answer["result"]["isError"] == false;
        }
        let (task, mut ended) = (task_of(&answer), Value::Null);
        self.host
            .until("it has ended", async |host| {
                ended = ask(host, "tasks/get", json!({ "taskId": task }), Some(&self.owner)).await;
                ended["result"]["status"] != "working"
            })
            .await;
        ended["result"]["status"] == "completed" && ended["result"]["result"]["isError"] != true
    }

    /// Attempts to tell the component, each of which has failed.
    async fn attempts(&self) -> usize {
        let (_, text) = self.measuring.status("/metrics").await;
        let is_attempt = |line: &&str| {
            ["mcpp_primitives_total", "\"deferred\"", "\"trapped\""].iter().all(|part| line.contains(part))
        };
        text.lines().filter(is_attempt).filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum()
    }

    /// The attempts after a while in which there could be more.
    async fn attempts_later(&self) -> usize {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(6);
        let mut attempts = 0;
        while std::time::Instant::now() < until {
            attempts = self.attempts().await;
        }
        attempts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_does_not_take_that_nobody_waits_is_told_three_times() {
    let tenant = FullTenant::with_calls(1).await;
    assert_eq!(tenant.attempts().await, 0);
    ask(&tenant.host, "tasks/cancel", json!({ "taskId": tenant.tasks[0] }), Some(&tenant.owner)).await;
    tenant.host.until("it was told three times", async |_| tenant.attempts().await == 3).await;
    assert_eq!(tenant.attempts_later().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_are_told_once_of_the_calls_of_a_revoked_token() {
    let tenant = FullTenant::with_calls(12).await;
    let data = tenant.host.folder.path().join("data");
    TokenFile::new(Homes::new(data).tokens()).revoke(&tenant.token_id).expect("revoked");
    tenant.host.until("they are told", async |_| tenant.attempts().await > 0).await;
    let attempts = tenant.attempts_later().await;
    // One whose attempt was under way when the host looked at rights may have another.
    assert!((1..=14).contains(&attempts), "{attempts} attempts for 12 calls");
}
