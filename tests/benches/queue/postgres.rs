//! A queue in PostgreSQL, as many programs write it: one table, and `SELECT … FOR UPDATE SKIP LOCKED`. The server is one of the bench's own, with the settings that Debian gives it:
//! every commit is on disk before it is acknowledged.

#[path = "../../e2e/backend/postgres/server.rs"]
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio_postgres::Client;

use self::server::{Server, connect};
use crate::{BATCH_CLIENTS, CLAIMED_AT_ONCE, CLIENTS, SUBMITTED_AT_ONCE, Speed, ours::payload, speed};

/// Tasks of one statement that fills the queue.
const FILLED_AT_ONCE: usize = 10_000;

const SCHEMA: &str = "
    CREATE TABLE task (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, priority int NOT NULL, payload jsonb NOT NULL,
        worker text, token int NOT NULL DEFAULT 0, attempt int NOT NULL DEFAULT 0, lease_until timestamptz);
    CREATE INDEX waiting ON task (priority DESC, id) WHERE worker IS NULL;
    CREATE TABLE ended (id bigint PRIMARY KEY, result jsonb NOT NULL, ended_at timestamptz NOT NULL DEFAULT now());
";
const SUBMIT: &str = "INSERT INTO task (priority, payload)
    SELECT (payload ->> 'priority')::int, payload FROM unnest($1::text[]) AS given (line), LATERAL (SELECT line::jsonb AS payload) AS read
    RETURNING id";
const CLAIM: &str =
    "UPDATE task SET worker = $1, token = token + 1, attempt = attempt + 1, lease_until = now() + interval '300 s'
    WHERE id IN (SELECT id FROM task WHERE worker IS NULL ORDER BY priority DESC, id LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING id, token, payload::text";
const COMPLETE: &str = "WITH own AS (
        DELETE FROM task USING unnest($1::bigint[], $2::int[]) AS given (id, token)
        WHERE task.id = given.id AND task.token = given.token RETURNING task.id)
    INSERT INTO ended (id, result) SELECT id, '{\"done\": true}' FROM own";

/// A task that a worker has: its id and its token.
type Held = (i64, i32);

pub(crate) struct Postgres {
    server: Server,
}

async fn submit(client: &Client, numbers: std::ops::Range<usize>) {
    let payloads: Vec<String> = numbers.map(|number| payload(number).to_string()).collect();
    let submitted = client.query(SUBMIT, &[&payloads]).await.expect("submitted");
    assert_eq!(submitted.len(), payloads.len());
}

async fn claim(client: &Client, worker: &str, most: usize) -> Vec<Held> {
    let most = i64::try_from(most).expect("few");
    let rows = client.query(CLAIM, &[&worker, &most]).await.expect("claimed");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn complete(client: &Client, held: &[Held]) {
    let (ids, tokens): (Vec<i64>, Vec<i32>) = held.iter().copied().unzip();
    let completed = client.execute(COMPLETE, &[&ids, &tokens]).await.expect("completed");
    assert_eq!(completed, held.len() as u64);
}

impl Postgres {
    pub(crate) async fn start() -> Self {
        Self { server: Server::start().await }
    }

    async fn client(&self) -> Client {
        connect(self.server.folder.path()).await.expect("a connection")
    }

    pub(crate) async fn fill(&self, backlog: usize) {
        let client = self.client().await;
        let queued: i64 = client.query_one("SELECT count(*) FROM task", &[]).await.expect("counted").get(0);
        let mut done = usize::try_from(queued).expect("a number");
        while done < backlog {
            let slice = done..backlog.min(done + FILLED_AT_ONCE);
            done = slice.end;
            submit(&client, slice).await;
        }
        // Several commands in one message are one transaction, in which `VACUUM` is refused.
        for command in ["VACUUM ANALYZE task", "CHECKPOINT"] {
            client.batch_execute(command).await.expect("tidied");
        }
    }

    /// Submits, claims and completes so many tasks, one by one.
    pub(crate) async fn measure(&self, operations: usize) -> [Speed; 3] {
        self.round(operations.div_ceil(10)).await;
        self.round(operations).await
    }

    async fn round(&self, operations: usize) -> [Speed; 3] {
        let submitted = self
            .each(CLIENTS, operations, 1, async |client, _, numbers| {
                submit(client, numbers).await;
                Vec::new()
            })
            .await;
        let claimed = self.each(CLIENTS, operations, 1, async |client, worker, _| claim(client, worker, 1).await).await;
        let held = Arc::new(claimed.1);
        assert_eq!(held.len(), operations);
        let completed = self
            .each(CLIENTS, operations, 1, async move |client, _, numbers| {
                complete(client, &held[numbers]).await;
                Vec::new()
            })
            .await;
        [submitted.0, claimed.0, completed.0]
    }

    /// Submits so many tasks in batches; then completes and claims them, the next ones with the end of the last.
    pub(crate) async fn measure_batched(&self, operations: usize) -> [Speed; 2] {
        let submitted = self
            .each(BATCH_CLIENTS, operations, SUBMITTED_AT_ONCE, async |client, _, numbers| {
                submit(client, numbers).await;
                Vec::new()
            })
            .await;
        let worked = self
            .each(BATCH_CLIENTS, operations, CLAIMED_AT_ONCE, async |client, worker, numbers| {
                let held = claim(client, worker, numbers.len()).await;
                complete(client, &held).await;
                held
            })
            .await;
        assert_eq!(worked.1.len(), operations);
        [submitted.0, worked.0]
    }

    /// Does `act` for so many numbers at a time, by so many clients; how fast they were, and what they got.
    async fn each<A>(&self, clients: usize, operations: usize, at_once: usize, act: A) -> (Speed, Vec<Held>)
    where
        A: AsyncFn(&Client, &str, std::ops::Range<usize>) -> Vec<Held>,
    {
        let next = AtomicUsize::new(0);
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(self.client().await);
        }
        let started = Instant::now();
        let one = async |number: usize, client: &Client| {
            let (mut times, mut held) = (Vec::new(), Vec::new());
            loop {
                let first = next.fetch_add(at_once, Ordering::Relaxed);
                if first >= operations {
                    return (times, held);
                }
                let asked = Instant::now();
                held.extend(act(client, &format!("worker-{number}"), first..operations.min(first + at_once)).await);
                times.push(asked.elapsed());
            }
        };
        let running = connections.iter().enumerate().map(|(number, client)| one(number, client));
        let (times, held): (Vec<_>, Vec<_>) = futures::future::join_all(running).await.into_iter().unzip();
        let took = started.elapsed();
        (speed(times.concat(), operations, took), held.concat())
    }
}
