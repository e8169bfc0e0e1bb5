//! A component for the tests of store, events and timers: well-behaved tools, tools that misuse a transaction, and handlers that note what they are told.
#![allow(clippy::disallowed_methods, reason = "a guest has its thread to itself")]

use std::time::Duration;

use mcpp_tool::{
    Error, Output, call,
    events::{Event, Wake, once},
    store::{Counter, Map, Queue, StoreError, Transaction, snapshot, transact, wait},
    tool,
};

const VALUES: Map<String, String> = Map::new("values");
const COUNTERS: Map<String, i64> = Map::new("counters");
/// Deliveries to the handlers, in order.
const TOLD: Queue<u8, String> = Queue::new("told");
const TOLD_NUMBER: Counter = Counter::new("told-number");

/// Writes a value.
#[tool]
fn store_set(key: String, value: String) -> Result<(), Error> {
    transact(|t| Ok(VALUES.set(t, &key, &value)?))
}

/// Reads a value as it is durably; its version too.
#[tool]
fn store_get(key: String) -> Result<(Option<String>, u64), Error> {
    Ok(VALUES.get_versioned(&snapshot()?, &key)?)
}

/// Removes a value; whether there was one.
#[tool]
fn store_remove(key: String) -> Result<bool, Error> {
    transact(|t| Ok(VALUES.remove(t, &key)?))
}

/// The keys of all values.
#[tool]
fn store_keys() -> Result<Vec<String>, Error> {
    VALUES.all().walk(&snapshot()?).map(|row| Ok(row?.0)).collect()
}

/// Adds to a counter; the number then.
#[tool]
fn store_add(counter: String, delta: i64) -> Result<i64, Error> {
    transact(|t| {
        let number = COUNTERS.get(t, &counter)?.unwrap_or(0) + delta;
        COUNTERS.set(t, &counter, &number)?;
        Ok(number)
    })
}

/// Waits for a value to change; its version then.
#[tool]
fn store_wait(key: String, since: u64, timeout_ms: u64) -> Result<u64, Error> {
    Ok(wait(&VALUES.key(&key), since, Duration::from_millis(timeout_ms))?)
}

/// Fills the store with values of this size until it is refused; how many fitted, and why not more.
#[tool]
fn store_fill(bytes: usize) -> Result<(u32, String), Error> {
    let value = "x".repeat(bytes);
    for number in 0..1_000_000 {
        let written = transact::<_, StoreError>(|t| VALUES.set(t, &format!("fill-{number}"), &value));
        if let Err(error) = written {
            return Ok((number, error.to_string()));
        }
    }
    Err(Error::failed("it was never refused"))
}

/// Writes a value of this size; how large the store was before, in the transaction before and after the write, and its quota.
#[tool]
fn store_usage(bytes: usize) -> Result<[u64; 4], Error> {
    let (before, value) = (snapshot()?.usage()?, "x".repeat(bytes));
    transact(|t| {
        let begun = t.usage()?;
        VALUES.set(t, "usage", &value)?;
        let written = t.usage()?;
        Ok([before.used_bytes, begun.used_bytes, written.used_bytes, written.quota_bytes])
    })
}

/// Takes too long in the first run of its transaction only, as if the machine had stood still; how often it ran.
#[tool]
fn store_overrun_once() -> Result<u32, Error> {
    let mut runs = 0;
    transact::<_, Error>(|t| {
        runs += 1;
        VALUES.set(t, &format!("run-{runs}"), &String::new())?;
        if runs == 1 {
            // Longer than a transaction may be open in all, so that it does not matter how much of it was this guest's own.
            spin(Duration::from_millis(1_200));
        }
        Ok(VALUES.set(t, "overran", &String::new())?)
    })?;
    Ok(runs)
}

fn spin(duration: Duration) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < duration {
        (0..1_000_000).for_each(|n| {
            std::hint::black_box(n);
        });
    }
}

/// Opens a transaction, writes, and misbehaves.
#[tool]
fn store_misuse(how: String) -> Result<Output, Error> {
    transact(|t| {
        VALUES.set(t, "misused", &how)?;
        match how.as_str() {
            "spin" => loop {
                std::hint::black_box(());
            },
            // Spins a little more than it may, and finds its transaction gone.
            "overrun" => {
                spin(Duration::from_millis(300));
                VALUES.set(t, "misused", &how)?;
            }
            "sleep" => std::thread::sleep(Duration::from_secs(3600)),
            "trap" => unreachable!("on purpose"),
            "call" => drop(call("store_get", &serde_json::json!({ "key": "misused" })).map_err(Error::from)?),
            "wait" => drop(wait(&VALUES.key("misused"), 0, Duration::from_secs(1))?),
            "begin" => transact::<_, Error>(|t| Ok(VALUES.set(t, "nested", &how)?))?,
            "abort" => return Err(Error::failed("aborted")),
            "many-bytes" => {
                for number in 0..5_u8 {
                    t.set(&[number], &vec![0; 1_000_000])?;
                }
            }
            "large-value" => t.set(b"large", &vec![0; (1 << 20) + 1])?,
            "long-key" => t.set(&[7; 1_025], b"")?,
            "no-key" => t.set(b"", b"")?,
            other => return Err(Error::failed(format!("unknown misuse {other}"))),
        }
        Ok(())
    })?;
    Ok(Output::text("it was let through"))
}

/// Opens more snapshots than it may.
#[tool]
fn store_snapshots() -> Result<(), Error> {
    let open = (0..100).map(|_| snapshot()).collect::<Result<Vec<_>, _>>()?;
    Err(Error::failed(format!("{} are open", open.len())))
}

/// How many calls this instance has served; with a snapshot that is left open on the way.
#[tool]
fn store_leave_open(open: bool) -> Result<u32, Error> {
    static CALLS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    if open {
        std::mem::forget(snapshot()?);
    }
    Ok(CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1)
}

/// Emits events; their ids.
#[tool]
fn store_emit(topic: String, key: String, payloads: Vec<String>) -> Result<Vec<String>, Error> {
    transact(|t| payloads.iter().map(|payload| Ok(t.emit(&topic, &key, payload.as_bytes())?)).collect())
}

/// Emits events whose ids nobody needs, and writes a value for each, with as few calls of the host as may be.
#[tool]
fn store_tell(topic: String, key: String, payloads: Vec<String>) -> Result<(), Error> {
    transact(|t| {
        for payload in &payloads {
            t.tell(&topic, &key, payload.clone().into_bytes())?;
            VALUES.set(t, payload, &topic)?;
        }
        Ok(())
    })
}

/// Reads values at once, as a transaction sees them.
#[tool]
fn store_get_many(keys: Vec<String>) -> Result<Vec<Option<String>>, Error> {
    transact(|t| {
        VALUES.read_ahead(t, &keys)?;
        Ok(keys.iter().map(|key| VALUES.get(t, key)).collect::<Result<_, _>>()?)
    })
}

/// Emits an event, then fails.
#[tool]
fn store_emit_and_fail(topic: String) -> Result<(), Error> {
    transact(|t| {
        t.emit(&topic, "key", b"never")?;
        Err(Error::failed("on purpose"))
    })
}

/// Sets a timer.
#[tool]
fn store_wake(key: String, at_ms: u64, payload: String) -> Result<(), Error> {
    transact(|t| Ok(t.wake_at(&key, at_ms, payload.as_bytes())?))
}

/// Cancels a timer; whether there was one.
#[tool]
fn store_cancel_wake(key: String) -> Result<bool, Error> {
    transact(|t| Ok(t.cancel_wake(&key)?))
}

/// Deliveries to the handlers, in order.
#[tool]
fn store_told() -> Result<Vec<String>, Error> {
    // A queue is read by taking; nothing is removed.
    transact(|t| Ok(TOLD.take(t, 1_000)?.into_iter().map(|(_, told)| told).collect()))
}

fn tell(t: &Transaction, text: &str) -> Result<(), Error> {
    TOLD_NUMBER.add(t, 1)?;
    TOLD.push(t, 0, &text.to_owned())?;
    Ok(())
}

fn on_event(event: Event) -> Result<(), Error> {
    let payload = String::from_utf8(event.payload)?;
    match payload.as_str() {
        "fail" => return Err(Error::failed(format!("attempt {} fails", event.attempt))),
        "fail-once" if event.attempt == 1 => unreachable!("on purpose"),
        "spin" => loop {
            std::hint::black_box(());
        },
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(600)),
        _ => {}
    }
    if payload == "through a tool" {
        // Another call in between is no way out of the chain.
        call("store_emit", &serde_json::json!({ "topic": "own", "key": "k", "payloads": [payload] }))
            .map_err(Error::from)?;
    }
    let (topic, key, cause) = (&event.topic, &event.key, &event.cause);
    once(&event.id, event.time_ms, |t| {
        // `emit N`: emits as many more to this handler, each with a key of its own.
        let children = payload.strip_prefix("emit ").and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
        for child in 0..children {
            t.emit("own", &format!("{key}{child}"), payload.as_bytes())?;
        }
        tell(t, &format!("{topic} {key} {payload} <- {cause}"))
    })?;
    Ok(())
}

fn on_wake(wake: Wake) -> Result<(), Error> {
    let payload = String::from_utf8(wake.payload)?;
    if payload == "fail" {
        return Err(Error::failed(format!("attempt {} fails", wake.attempt)));
    }
    once(&wake.id, wake.due_ms, |t| {
        // `again N`: sets itself anew, N times.
        if let Some(left) =
            payload.strip_prefix("again ").and_then(|left| left.parse::<u32>().ok()).filter(|left| *left > 0)
        {
            t.wake_at(&wake.key, wake.due_ms + 1, format!("again {}", left - 1).as_bytes())?;
        }
        tell(t, &format!("timer {} {payload}", wake.key))
    })?;
    Ok(())
}

mcpp_tool::export! {
    tools: [
        store_set, store_get, store_remove, store_keys, store_add, store_wait, store_fill, store_usage, store_misuse, store_overrun_once, store_snapshots,
        store_leave_open, store_emit, store_tell, store_get_many, store_emit_and_fail, store_wake, store_cancel_wake, store_told,
    ],
    events: { "own" => on_event, "other/topic" => on_event },
    timers: on_wake,
}
