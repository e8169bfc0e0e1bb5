//! A component for the tests of the standard draft interfaces: `wasi:keyvalue`, `wasi:config` and `wasi:logging`.

use mcpp_tool::{
    Error,
    store::{Map, transact},
    tool,
};

mod bindings {
    #![allow(missing_docs, unsafe_code, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason)]
    #![allow(missing_debug_implementations, reason = "generated code")]
    wit_bindgen::generate!({
        inline: "
            package test:standard;

            world standard {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:config/store@0.2.0-rc.1;
                import wasi:logging/logging@0.1.0-draft;
            }
        ",
        path: ["../../../wit/wasi-keyvalue", "../../../wit/wasi-config", "../../../wit/wasi-logging"],
        generate_all,
    });
}

use bindings::wasi::{
    config::store as config,
    keyvalue::{
        atomics, batch,
        store::{self, Bucket, Error as KeyValueError},
    },
    logging::logging,
};

const OWN: Map<String, String> = Map::new("own");

fn refused(error: KeyValueError) -> Error {
    Error::failed(match error {
        KeyValueError::NoSuchStore => "no-such-store".to_owned(),
        KeyValueError::AccessDenied => "access-denied".to_owned(),
        KeyValueError::Other(text) => format!("other: {text}"),
    })
}

fn bucket(name: &str) -> Result<Bucket, Error> {
    store::open(name).map_err(refused)
}

/// Reads a value.
#[tool]
fn kv_get(name: String, key: String) -> Result<Option<String>, Error> {
    let value = bucket(&name)?.get(&key).map_err(refused)?;
    Ok(value.map(|value| String::from_utf8_lossy(&value).into_owned()))
}

/// Writes a value.
#[tool]
fn kv_set(name: String, key: String, value: String) -> Result<(), Error> {
    bucket(&name)?.set(&key, value.as_bytes()).map_err(refused)
}

/// Writes a value of this size.
#[tool]
fn kv_set_large(name: String, key: String, bytes: usize) -> Result<(), Error> {
    bucket(&name)?.set(&key, &vec![b'x'; bytes]).map_err(refused)
}

/// Removes a value.
#[tool]
fn kv_delete(name: String, key: String) -> Result<(), Error> {
    bucket(&name)?.delete(&key).map_err(refused)
}

/// Whether there is a value.
#[tool]
fn kv_exists(name: String, key: String) -> Result<bool, Error> {
    bucket(&name)?.exists(&key).map_err(refused)
}

/// Adds to a number.
#[tool]
fn kv_increment(name: String, key: String, delta: u64) -> Result<u64, Error> {
    atomics::increment(&bucket(&name)?, &key, delta).map_err(refused)
}

/// One page of keys, and where the next begins.
#[tool]
fn kv_page(name: String, cursor: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
    let page = bucket(&name)?.list_keys(cursor).map_err(refused)?;
    Ok((page.keys, page.cursor))
}

/// All keys, sorted, and how many pages they were.
#[tool]
fn kv_keys(name: String) -> Result<(Vec<String>, u32), Error> {
    let bucket = bucket(&name)?;
    let (mut keys, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = bucket.list_keys(cursor).map_err(refused)?;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            keys.sort();
            return Ok((keys, pages));
        }
    }
}

/// Writes `key-0` and so on, many at once.
#[tool]
fn kv_fill(name: String, count: u32, bytes: usize) -> Result<(), Error> {
    let entries: Vec<_> = (0..count).map(|number| (format!("key-{number}"), vec![b'x'; bytes])).collect();
    batch::set_many(&bucket(&name)?, &entries).map_err(refused)
}

/// Reads many at once: for each key whether there is a value, and its size.
#[tool]
fn kv_get_many(name: String, keys: Vec<String>) -> Result<Vec<Option<(String, usize)>>, Error> {
    let found = batch::get_many(&bucket(&name)?, &keys).map_err(refused)?;
    Ok(found.into_iter().map(|entry| entry.map(|(key, value)| (key, value.len()))).collect())
}

/// Reads one key this often, at once.
#[tool]
fn kv_amplify(name: String, key: String, times: usize) -> Result<usize, Error> {
    Ok(batch::get_many(&bucket(&name)?, &vec![key; times]).map_err(refused)?.len())
}

/// Removes many at once.
#[tool]
fn kv_delete_many(name: String, keys: Vec<String>) -> Result<(), Error> {
    batch::delete_many(&bucket(&name)?, &keys).map_err(refused)
}

/// Writes by the keyvalue interface while a transaction of the store is open.
#[tool]
fn kv_within_transaction(key: String) -> Result<(), Error> {
    transact(|t| {
        OWN.set(t, &key, &"in a transaction".to_owned())?;
        bucket("")?.set(&key, b"beside it").map_err(refused)
    })
}

/// Writes and reads the store itself: nothing there is in a bucket.
#[tool]
fn own_set(key: String, value: String) -> Result<(), Error> {
    transact(|t| Ok(OWN.set(t, &key, &value)?))
}

/// Reads this often from the store itself.
#[tool]
fn own_read(key: String, times: u32) -> Result<Option<String>, Error> {
    let mut value = None;
    for _ in 0..times {
        value = OWN.get(&mcpp_tool::store::snapshot()?, &key)?;
    }
    Ok(value)
}

/// Emits events and sets timers, this many.
#[tool]
fn own_emit(times: u32) -> Result<(), Error> {
    transact(|t| {
        for number in 0..times {
            t.emit("own", &number.to_string(), b"event")?;
        }
        Ok(())
    })
}

type Settings = (Option<String>, Vec<(String, String)>);

/// A setting, and all of them.
#[tool]
fn settings(key: String) -> Result<Settings, Error> {
    let wrong = |error| Error::failed(format!("{error:?}"));
    Ok((config::get(&key).map_err(wrong)?, config::get_all().map_err(wrong)?))
}

/// Writes one record of each level.
#[tool]
fn speak(context: String, message: String) {
    use logging::Level;
    for level in [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical] {
        logging::log(level, &context, &message);
    }
}

/// Writes records without end.
#[tool]
fn shout(bytes: usize) {
    let message = "x".repeat(bytes);
    loop {
        logging::log(logging::Level::Info, "", &message);
    }
}

mcpp_tool::export!(
    kv_get,
    kv_set,
    kv_set_large,
    kv_delete,
    kv_exists,
    kv_increment,
    kv_page,
    kv_keys,
    kv_fill,
    kv_get_many,
    kv_amplify,
    kv_delete_many,
    kv_within_transaction,
    own_set,
    own_read,
    own_emit,
    settings,
    speak,
    shout
);
