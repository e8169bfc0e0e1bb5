//! JSON at random, and JSON with something changed.

use serde_json::{Map, Value, json};

use super::random::Random;

/// Names and texts that mean something somewhere, or are hard to handle.
const TEXTS: [&str; 26] = [
    "",
    "a",
    "b",
    "ok",
    "err",
    "some",
    "x",
    "none",
    "ß",
    "e\u{301}",
    "😀",
    "\u{10ffff}",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "NaN",
    "Infinity",
    "-Infinity",
    "aGk=",
    "aGk",
    "AA==",
    "AB==",
    "a/b~c",
    "__proto__",
    "\"\\",
    "\u{2028}",
];

/// Any value, nested at most `depth` deep.
pub fn any(random: &mut Random, depth: usize) -> Value {
    match (random.below(10), depth.checked_sub(1)) {
        (0 | 1, Some(depth)) => (0..random.below(4)).map(|_| any(random, depth)).collect(),
        (2 | 3, Some(depth)) => {
            Value::Object((0..random.below(4)).map(|_| (text(random), any(random, depth))).collect())
        }
        (4, _) => Value::Null,
        (5, _) => json!(random.below(2) == 1),
        (6 | 7, _) => number(random),
        _ => json!(text(random)),
    }
}

/// A text; sometimes a long one.
pub fn text(random: &mut Random) -> String {
    let text = TEXTS[random.below(TEXTS.len())];
    if random.below(20) == 0 { text.repeat(random.below(2_000)) } else { text.to_owned() }
}

/// A number near an edge, mostly.
pub fn number(random: &mut Random) -> Value {
    let near = i64::try_from(random.below(3)).expect("small") - 1;
    match random.below(12) {
        0 => json!(near),
        1 => json!((1_i64 << random.below(63)) + near),
        2 => json!(-(1_i64 << random.below(63)) + near),
        3 => json!(u64::MAX - random.next() % 2),
        4 => json!(i64::MIN),
        5 => json!(near as f64),
        6 => json!(9_007_199_254_740_992.0 + near as f64 * 2.0),
        7 => json!(10_f64.powi(i32::try_from(random.below(40)).expect("small"))),
        8 => json!([f64::MAX, f64::MIN_POSITIVE, -0.0, 0.1, 3.402_823_5e38, 3.402_823_6e38, -1.5][random.below(7)]),
        9 => json!(random.next()),
        10 => json!(f64::from_bits(random.next())),
        _ => json!(random.below(300)),
    }
}

/// The value with one thing in it changed.
pub fn mutated(value: &Value, random: &mut Random) -> Value {
    let mut value = value.clone();
    let mut at = &mut value;
    // Down to some part of it.
    while random.below(4) > 0 {
        let members = match at {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        if members == 0 {
            break;
        }
        let n = random.below(members);
        at = match at {
            Value::Array(items) => &mut items[n],
            Value::Object(members) => members.values_mut().nth(n).expect("one of them"),
            leaf => leaf,
        };
    }
    change(at, random);
    value
}

fn change(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(items) if random.below(3) > 0 => {
            let at = random.below(items.len() + 1);
            match (random.below(3), items.len() > at) {
                (0, true) => drop(items.remove(at)),
                (1, true) => items.insert(at, items[at].clone()),
                _ => items.insert(at, any(random, 2)),
            }
        }
        Value::Object(members) if random.below(3) > 0 => {
            let name = members.keys().nth(random.below(members.len().max(1))).cloned().unwrap_or_default();
            match random.below(3) {
                0 => drop(members.shift_remove(&name)),
                1 => {
                    let moved = members.shift_remove(&name).unwrap_or(Value::Null);
                    members.insert(text(random), moved);
                }
                _ => drop(members.insert(text(random), any(random, 2))),
            }
        }
        Value::String(was) if random.below(3) > 0 => match random.below(3) {
            0 => was.push_str(&text(random)),
            1 => drop(was.pop()),
            _ => *was = text(random),
        },
        other => {
            *other = match random.below(4) {
                0 => json!([other.take()]),
                1 => Value::Object(Map::from_iter([(text(random), other.take())])),
                2 => number(random),
                _ => any(random, 2),
            }
        }
    }
}

/// Bytes with some of them changed, cut or doubled; those before `from` stay.
pub fn mutated_bytes(seed: &[u8], from: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.below(4) + 1 {
        let at = from + random.below(bytes.len().saturating_sub(from));
        let piece = random.below(40).min(bytes.len().saturating_sub(at));
        match random.below(5) {
            0 | 1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next().to_le_bytes()[0]),
            2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            3 => drop(bytes.drain(at..at + piece)),
            _ => {
                let piece = bytes[at..at + piece].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}
