//! Random programs of several clients against the embedded store and the delivery of its events, with power losses, held to a model.
//!
//! Invariants, by the name in their messages: *serializable* (all reads of committed transactions agree with one order of them), *durable* (nothing acknowledged is lost),
//! *atomic* (nothing is there by half), *delivered* (each event of a committed transaction at least once, and once without
//! a power loss; none of another), *ordered* (first deliveries by key in
//! the order of the commits), *timers* (none lost, none out of nothing), *woken* (who waits sees the last version).

mod recorder;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mcpp::{
    events::{
        self, Deliver,
        outbox::{self, EventOrigin, Message},
        subscriptions::Subscriptions,
    },
    names::{TenantId, Topic},
    store::{
        Bounds, Scan, Section, Space, Store, StoreError, Transaction,
        embedded::{EmbeddedConfig, EmbeddedStore},
    },
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use self::recorder::{Recorder, check_deliveries};
use super::{
    disk::{Fate, FaultyDisk},
    suite::{Shared, all, key, space},
};

const KEYS: u8 = 4;

#[derive(Debug, Clone)]
enum Op {
    Get(u8),
    Scan,
    Set(u8),
    Delete(u8),
    /// Takes the first entry and deletes it, as a claimer does.
    Claim,
    Emit(u8),
    WakeAt(u8),
    CancelWake(u8),
    /// Lets others run.
    Pause,
}

#[derive(Debug, Clone)]
struct Program {
    ops: Vec<Op>,
    commit: bool,
}

#[derive(Debug, Clone)]
struct Round {
    clients: Vec<Vec<Program>>,
    /// The power goes after so many writes and syncs, if it does.
    power: Option<u64>,
    fates: Vec<u8>,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..KEYS;
    prop_oneof![
        4 => at.clone().prop_map(Op::Get),
        1 => Just(Op::Scan),
        5 => at.clone().prop_map(Op::Set),
        2 => at.clone().prop_map(Op::Delete),
        2 => Just(Op::Claim),
        2 => at.clone().prop_map(Op::Emit),
        2 => at.clone().prop_map(Op::WakeAt),
        1 => at.prop_map(Op::CancelWake),
        1 => Just(Op::Pause),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let program = (prop::collection::vec(op(), 1..7), prop::bool::weighted(0.85))
        .prop_map(|(ops, commit)| Program { ops, commit });
    let clients = prop::collection::vec(prop::collection::vec(program, 1..6), 1..5);
    let power = prop::option::weighted(0.7, 0_u64..150);
    (clients, power, prop::collection::vec(0_u8..3, 1..20)).prop_map(|(clients, power, fates)| Round {
        clients,
        power,
        fates,
    })
}

/// The reads and writes of one transaction.
#[derive(Debug, Clone)]
struct Record {
    sequence: u64,
    /// Everything it read and wrote, in order.
    steps: Vec<Step>,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
enum Step {
    Read(u8, Option<String>),
    ReadAll(Vec<(String, String)>),
    Write(u8, Option<String>),
    Emit(u8, String),
    Timer(u8, Option<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Acknowledged,
    /// It failed with an error of the store: it may be there or not.
    Unknown,
    Aborted,
}

type State = BTreeMap<String, String>;

fn name(at: u8) -> String {
    format!("k{at}")
}

/// The subscriptions in these tenants' spaces.
async fn subscriptions(store: &dyn Store, tenants: &[TenantId]) -> Subscriptions {
    let subscriptions = Subscriptions::default();
    for tenant in tenants {
        subscriptions.open(tenant);
        subscriptions.read(store, tenant).await.expect("the data can be read");
    }
    subscriptions
}

/// Runs one program; the record of its reads and writes. `label` makes its values unlike all others.
async fn run(store: &Shared, subscriptions: &Subscriptions, program: &Program, label: &str) -> Option<Record> {
    let space = space("a");
    let mut t = store.begin(&space, Bounds::host()).await.ok()?;
    let sequence = t.order(b"model").await.ok()?;
    let mut record = Record { sequence, steps: Vec::new(), outcome: Outcome::Unknown };
    for (number, op) in program.ops.iter().enumerate() {
        let value = format!("{label}.{number}");
        if step(&mut *t, subscriptions, &space, number, op, value, &mut record.steps).await.is_err() {
            return Some(Record { outcome: Outcome::Aborted, ..record });
        }
    }
    // Each transaction leaves values unlike those of any other, also if it only emitted.
    if record.steps.iter().any(is_write) {
        let mark = Op::Set(KEYS);
        if step(&mut *t, subscriptions, &space, 0, &mark, label.to_owned(), &mut record.steps).await.is_err() {
            return Some(Record { outcome: Outcome::Aborted, ..record });
        }
    }
    record.outcome = if !program.commit {
        Outcome::Aborted
    } else if t.commit().await.is_ok() {
        Outcome::Acknowledged
    } else {
        Outcome::Unknown
    };
    Some(record)
}

async fn step(
    t: &mut dyn Transaction,
    subscriptions: &Subscriptions,
    space: &Space,
    number: usize,
    op: &Op,
    value: String,
    steps: &mut Vec<Step>,
) -> Result<(), StoreError> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let origin = EventOrigin { space, cause: "model", traceparent: String::new(), chain: 0 };
    let index = u32::try_from(number).expect("few");
    let message = |at: u8| Message { key: name(at), payload: value.clone().into() };
    match op {
        Op::Get(at) => {
            let found = t.get(&key(&name(*at))).await?;
            steps.push(Step::Read(*at, found.map(|entry| text(&entry.value))));
        }
        Op::Scan => {
            let page = t.scan(&all(), Scan::first(100)).await?;
            let entries = page.entries.iter().map(|entry| (text(&entry.key.slice(1..)), text(&entry.value)));
            steps.push(Step::ReadAll(entries.collect()));
        }
        Op::Set(at) => {
            t.set(key(&name(*at)), value.clone().into()).await?;
            steps.push(Step::Write(*at, Some(value)));
        }
        Op::Delete(at) => {
            // A missing key is only read.
            let deleted = t.delete(&key(&name(*at))).await?;
            steps.push(if deleted { Step::Write(*at, None) } else { Step::Read(*at, None) });
        }
        Op::Claim => {
            let taken = t.take(&all(), 1).await?;
            if let Some(first) = taken.entries.first() {
                let at = text(&first.key)[2..].parse().expect("a number");
                steps.push(Step::Read(at, Some(text(&first.value))));
                t.delete(&first.key).await?;
                steps.push(Step::Write(at, None));
            }
        }
        Op::Emit(at) => {
            let topic = Topic::parse("t", &space.component).expect("legal");
            outbox::emit(t, &origin, subscriptions, index, &topic, message(*at)).await?;
            steps.push(Step::Emit(*at, value));
        }
        Op::WakeAt(at) => {
            outbox::wake_at(t, &origin, index, 0, message(*at)).await?;
            steps.push(Step::Timer(*at, Some(value)));
        }
        Op::CancelWake(at) => {
            if outbox::cancel_wake(t, &name(*at)).await? {
                steps.push(Step::Timer(*at, None));
            }
        }
        Op::Pause => tokio::task::yield_now().await,
    }
    Ok(())
}

/// The state that the store must have in the end.
#[derive(Debug, Default)]
struct Model {
    state: State,
    /// Committed events by key, in order.
    events: BTreeMap<String, Vec<String>>,
    /// The last committed timer by key that was not cancelled since.
    timers: BTreeMap<String, String>,
    /// All timers that were ever committed.
    ever: BTreeSet<String>,
}

impl Model {
    /// Applies a committed transaction; whether its reads agree.
    fn apply(&mut self, record: &Record) -> bool {
        record.steps.iter().all(|step| {
            match step {
                Step::Read(at, found) => return self.state.get(&name(*at)) == found.as_ref(),
                Step::ReadAll(found) => return self.state.clone().into_iter().collect::<Vec<_>>() == *found,
                Step::Write(at, Some(value)) => drop(self.state.insert(name(*at), value.clone())),
                Step::Write(at, None) => drop(self.state.remove(&name(*at))),
                Step::Emit(at, value) => self.events.entry(name(*at)).or_default().push(value.clone()),
                Step::Timer(at, Some(value)) => {
                    self.ever.insert(value.clone());
                    self.timers.insert(name(*at), value.clone());
                }
                Step::Timer(at, None) => drop(self.timers.remove(&name(*at))),
            }
            true
        })
    }
}

fn is_write(step: &Step) -> bool {
    !matches!(step, Step::Read(..) | Step::ReadAll(_))
}

/// The data and the notes of the events, as the disk has them after the round.
async fn found(store: &Shared) -> State {
    let snapshot = store.snapshot(&space("a")).await.expect("a snapshot");
    let page = snapshot.scan(&all(), Scan::first(1_000)).await.expect("a page");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    page.entries.iter().map(|entry| (text(&entry.key[1..]), text(&entry.value))).collect()
}

/// The committed transactions of a round are the first few of those that were staged, in their order, and all acknowledged ones are among them.
fn settle(model: &mut Model, mut records: Vec<Record>, found: &State) -> Result<(), TestCaseError> {
    records.retain(|record| record.outcome != Outcome::Aborted);
    // One that only read has the number of the next one that writes, and comes before it.
    records.sort_by_key(|record| (record.sequence, record.steps.iter().any(is_write)));
    let last_acknowledged = records.iter().rposition(|record| record.outcome == Outcome::Acknowledged);
    let at_least = last_acknowledged.map_or(0, |last| last + 1);
    for length in at_least..=records.len() {
        let mut next = Model {
            state: model.state.clone(),
            events: model.events.clone(),
            timers: model.timers.clone(),
            ever: model.ever.clone(),
        };
        let agree = records[..length].iter().all(|record| next.apply(record));
        prop_assert!(agree || length > at_least, "serializable: reads do not agree with {:#?}", &records[..length]);
        if agree && next.state == *found {
            *model = next;
            return Ok(());
        }
    }
    Err(TestCaseError::fail(format!("durable, atomic: found {found:?}, from {:?} and {records:#?}", model.state)))
}

async fn play(rounds: Vec<Round>) -> Result<(), TestCaseError> {
    let mut disk = FaultyDisk::default();
    let (mut model, recorder) = (Model::default(), Arc::new(Recorder::default()));
    for (number, round) in rounds.iter().enumerate() {
        let store = open(&disk);
        let shared: Shared = Arc::new(store.clone());
        let tenants = [TenantId::local()];
        let subscriptions = Arc::new(subscriptions(&*shared, &tenants).await);
        let topic = Topic::parse("t", &space("a").component).expect("legal");
        subscriptions.set(&*shared, &space("a"), BTreeSet::from([topic.into()])).await.expect("subscribed");
        let stop = CancellationToken::new();
        let delivering = events::start(
            Arc::clone(&shared),
            Arc::clone(&recorder) as Arc<dyn Deliver>,
            Arc::clone(&subscriptions),
            &tenants,
            (stop.clone(), stop.clone()),
        );
        let delivering = delivering.await;
        if let Some(power) = round.power {
            disk.lose_power_after(power);
        }
        let clients = round.clients.iter().enumerate().map(|(client, programs)| {
            let (shared, subscriptions) = (Arc::clone(&shared), Arc::clone(&subscriptions));
            async move {
                let mut records = Vec::new();
                for (program, code) in programs.iter().enumerate() {
                    records.extend(run(&shared, &subscriptions, code, &format!("{number}.{client}.{program}")).await);
                }
                records
            }
        });
        let watching = tokio::spawn(watch(Arc::clone(&shared)));
        let records: Vec<Record> = futures::future::join_all(clients).await.into_iter().flatten().collect();
        if round.power.is_none() {
            settle_deliveries(&shared).await?;
            let seen = tokio::time::timeout(Duration::from_secs(10), watching).await;
            prop_assert!(seen.is_ok(), "woken: somebody who waits does not see the last version");
        } else {
            watching.abort();
        }
        stop.cancel();
        delivering.await.expect("no panic");
        store.close().await;
        let mut fates = round.fates.iter().cycle();
        let fate = || [Fate::Lost, Fate::Torn, Fate::Arrived][usize::from(*fates.next().expect("endless"))];
        disk = disk.after_power_loss(fate);
        let reopened = open(&disk);
        let state = found(&(Arc::new(reopened.clone()) as Shared)).await;
        reopened.close().await;
        settle(&mut model, records, &state)?;
    }
    deliver_the_rest(&disk, &recorder).await;
    if rounds.iter().all(|round| round.power.is_none()) {
        let delivered = recorder.delivered.lock().expect("no panic");
        let distinct: BTreeSet<_> = delivered.iter().map(|(_, _, payload)| payload).collect();
        prop_assert_eq!(distinct.len(), delivered.len(), "delivered: repeated without a reason: {:?}", *delivered);
    }
    check_deliveries(&model, &recorder)
}

fn open(disk: &FaultyDisk) -> EmbeddedStore {
    // Small, so that its halves are filled again and again.
    let config = EmbeddedConfig { wal_bytes: 16 << 10, ..EmbeddedConfig::default() };
    EmbeddedStore::new(std::env::temp_dir(), config, Arc::new(disk.clone())).expect("a directory")
}

/// Waits on one entry until its version is the last one and stays it.
async fn watch(store: Shared) {
    let (space, key) = (space("a"), key(&name(0)));
    let mut version = 0;
    loop {
        match tokio::time::timeout(Duration::from_millis(50), store.wait(&space, &key, version)).await {
            Ok(Ok(next)) => {
                assert_ne!(next, version, "woken for nothing");
                version = next;
            }
            Ok(Err(_)) => return,
            Err(_) => {
                let snapshot = store.snapshot(&space).await.expect("a snapshot");
                let durable = snapshot.get(&key).await.expect("get").map_or(0, |entry| entry.version);
                if durable == version {
                    return;
                }
            }
        }
    }
}

/// In a round without power loss everything is delivered while it runs.
async fn settle_deliveries(store: &Shared) -> Result<(), TestCaseError> {
    let patience = tokio::time::Instant::now() + Duration::from_secs(20);
    while waiting(store).await > 0 {
        prop_assert!(tokio::time::Instant::now() < patience, "delivered: something waits for ever");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Deliveries and timers that are stored.
async fn waiting(store: &Shared) -> usize {
    let snapshot = store.snapshot(&space("a")).await.expect("a snapshot");
    let mut waiting = 0;
    for section in [Section::Deliveries, Section::Timers, Section::Due] {
        waiting += snapshot.scan(&section.prefix(b""), Scan::first(1_000)).await.expect("a page").entries.len();
    }
    waiting
}

async fn deliver_the_rest(disk: &FaultyDisk, recorder: &Arc<Recorder>) {
    let store = open(disk);
    let shared: Shared = Arc::new(store.clone());
    let tenants = [TenantId::local()];
    let subscriptions = Arc::new(subscriptions(&*shared, &tenants).await);
    let stop = CancellationToken::new();
    let deliver = Arc::clone(recorder) as Arc<dyn Deliver>;
    let delivering =
        events::start(Arc::clone(&shared), deliver, subscriptions, &tenants, (stop.clone(), stop.clone())).await;
    let patience = tokio::time::Instant::now() + Duration::from_secs(20);
    while waiting(&shared).await > 0 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(waiting(&shared).await, 0, "delivered: something waits for ever");
    stop.cancel();
    delivering.await.expect("no panic");
    store.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_keeps_the_promises(rounds in prop::collection::vec(round(), 1..4)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(play(rounds))?;
    }
}
