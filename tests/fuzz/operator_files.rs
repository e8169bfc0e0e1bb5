//! Files as operators write them, well and badly.

use toml::{Table, Value};

use super::{
    grants::{ADDRESSES, ORIGINS, PATHS, SECRETS, TOOLS, TOPICS},
    random::Random,
};

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A component's grant.
    Grant,
    /// A tenant's settings.
    Tenant,
    /// The tokens.
    Tokens,
    /// The host's configuration.
    Config,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Grant, Self::Tenant, Self::Tokens, Self::Config];

    pub fn name(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Tenant => "tenant",
            Self::Tokens => "tokens",
            Self::Config => "config",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

const PATTERNS: [&str; 9] = ["*", "text_*", "a", "b*", "", "a*b", "**", "é", "b-c"];
const HOSTS: [&str; 18] = [
    "a.com",
    "A.com",
    "*.a.com",
    "*.x.a.com",
    "b.org",
    "a.com:8443",
    "127.0.0.1:8080",
    "[::1]:8080",
    "[2001:db8::1]",
    "127.1",
    "0x7f.0.0.1",
    "*.127.0.0.1",
    "a..b",
    "a.com.",
    "user@a.com",
    "a.com:0",
    "*",
    "xn--bcher-kva.example",
];
const RULE_PATHS: [&str; 12] =
    ["", "/", "/*", "/v1", "/v1/*", "/v1*", "/v1/../*", "/%2e%2e/*", "/a//b", "/a?b", "/é", "/v1/a;b/*"];
const NETWORKS: [&str; 8] =
    ["10.0.0.0/8", "127.0.0.1/32", "::1/128", "0.0.0.0/0", "::/0", "10.1.0.0/8", "1.2.3.4", "169.254.0.0/16"];
const TIMES: [&str; 8] = [
    "2026-01-02T03:04:05Z",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "2016-12-31T23:59:60Z",
    "9999-12-31T23:59:60Z",
    "1969-12-31T23:59:59Z",
    "2026-02-30T00:00:00Z",
    "2026-01-02 03:04:05",
];

fn pick<'a>(of: &[&'a str], random: &mut Random) -> &'a str {
    of[random.below(of.len())]
}

fn text(of: &[&str], random: &mut Random) -> Value {
    Value::from(pick(of, random))
}

/// Some of them, in a list; mostly as few as are legal.
fn some(random: &mut Random, mut one: impl FnMut(&mut Random) -> Value) -> Value {
    Value::Array((0..random.below(4)).map(|_| one(random)).collect())
}

/// Something that does not belong there.
fn wrong(random: &mut Random) -> Value {
    match random.below(6) {
        0 => Value::from(-1),
        1 => Value::from(f64::NAN),
        2 => Value::from(""),
        3 => Value::from(vec![1]),
        4 => Value::from(i64::MAX),
        _ => Value::Table(Table::new()),
    }
}

fn number(random: &mut Random) -> Value {
    match random.below(5) {
        0 => Value::from(0),
        1 => Value::from(1),
        2 => Value::from(1_i64 << random.below(63)),
        3 => Value::from(i64::MAX),
        _ => Value::from(100_000),
    }
}

/// A file with some of the keys that it may have, and sometimes something else.
pub fn random(kind: Kind, random: &mut Random) -> Table {
    let mut table = match kind {
        Kind::Grant => grant(random),
        Kind::Tenant => tenant(random),
        Kind::Tokens => tokens(random),
        Kind::Config => config(random),
    };
    if kind != Kind::Config {
        table.insert("version".to_owned(), Value::from(1));
    }
    if random.below(8) == 0 {
        let key = table.keys().nth(random.below(table.len())).cloned().unwrap_or_else(|| "new".to_owned());
        table.insert(key, wrong(random));
    }
    table
}

fn grant(random: &mut Random) -> Table {
    let mut table = Table::new();
    for _ in 0..random.below(7) {
        let (key, value) = match random.below(12) {
            0 => ("expose", some(random, |random| text(&PATTERNS[..4], random))),
            1 => ("call", some(random, |random| text(&PATTERNS, random))),
            2 => ("call", some(random, |random| text(&TOOLS, random))),
            3 => ("store", limits(&["quota_bytes"], random)),
            4 => ("subscribe", some(random, |random| text(&[&TOPICS[..], &["orders/*", "queue/*"]].concat(), random))),
            5 => ("config", Value::Table(Table::from_iter([("k".to_owned(), text(&["v", "w", ""], random))]))),
            6 => ("files", some(random, folder)),
            7 => ("secrets", secrets(random)),
            8 => ("limits", limits(&["memory_bytes", "cpu_ms", "deadline_ms", "fuel"], random)),
            9 => ("reuse", limits(&["calls", "age_s", "idle_s"], random)),
            _ => ("http", some(random, rule)),
        };
        table.insert(key.to_owned(), value);
    }
    table
}

fn limits(names: &[&str], random: &mut Random) -> Value {
    Value::Table((0..random.below(3)).map(|_| (pick(names, random).to_owned(), number(random))).collect())
}

fn folder(random: &mut Random) -> Value {
    let mut folder = Table::from_iter([("path".to_owned(), text(&["/srv", "/srv/a", "/", "/a/../b", "srv"], random))]);
    if random.below(2) == 0 {
        folder.insert("at".to_owned(), text(&["/data", "/data/in", "/", "/x//y", "\"", "/é \u{7}"], random));
    }
    if random.below(2) == 0 {
        folder.insert("mode".to_owned(), text(&["read", "read-write", "write"], random));
    }
    Value::Table(folder)
}

fn rule(random: &mut Random) -> Value {
    let scheme = ["https", "http", "HTTPS", "ftp"][random.below(4).min(random.below(4))];
    let url = format!("{scheme}://{}{}", pick(&HOSTS, random), pick(&RULE_PATHS, random));
    let mut rule = Table::from_iter([("url".to_owned(), Value::from(url))]);
    if random.below(2) == 0 {
        let methods = ["GET", "POST", "DELETE", "get", "CONNECT"];
        rule.insert("methods".to_owned(), some(random, |random| text(&methods, random)));
    }
    if random.below(3) == 0 {
        rule.insert("addresses".to_owned(), some(random, |random| text(&NETWORKS, random)));
    }
    Value::Table(rule)
}

fn secrets(random: &mut Random) -> Value {
    let names = [&SECRETS[..], &["lower", ""]].concat();
    let origins = [&ORIGINS[..], &["https://a.com/", "a.com"]].concat();
    let of = |random: &mut Random| (pick(&names, random).to_owned(), some(random, |random| text(&origins, random)));
    Value::Table((0..random.below(3)).map(|_| of(random)).collect())
}

fn tenant(random: &mut Random) -> Table {
    let mut table = Table::new();
    for _ in 0..random.below(5) {
        let (key, value) = match random.below(5) {
            0 => ("pinned", Value::from(random.below(2) == 0)),
            1 => ("suspended", Value::from(random.below(2) == 0)),
            2 => ("incarnation", text(&["", "abc", "0123456789abcdef", "\u{0}", "é"], random)),
            3 => ("created", text(&TIMES, random)),
            _ => ("limits", limits(&["running", "waiting", "queued", "guest_bytes", "none"], random)),
        };
        table.insert(key.to_owned(), value);
    }
    table
}

fn tokens(random: &mut Random) -> Table {
    let mut one = |random: &mut Random| {
        let mut token = Table::new();
        let mut set = |key: &str, value: Value| drop(token.insert(key.to_owned(), value));
        set("id", text(&["a", "b", "", "a\n"], random));
        set("tenant", text(&["local", "team", "team", "Team", "_built-in", ""], random));
        set("subject", text(&["ada", "system:a", "", "é"], random));
        set("scopes", some(random, |random| text(&["metrics", "", "x"], random)));
        set("created", text(&TIMES, random));
        set("hash", text(&["00", "", "zz"], random));
        if random.below(2) == 0 {
            set("tools", some(random, |random| text(&PATTERNS[..4], random)));
        }
        if random.below(2) == 0 {
            set("expires", text(&TIMES, random));
        }
        if random.below(2) == 0 {
            set("incarnation", text(&["", "abc"], random));
        }
        Value::Table(token)
    };
    Table::from_iter([("tokens".to_owned(), some(random, &mut one))])
}

fn config(random: &mut Random) -> Table {
    // Every key with its default, as the example shows them in comments.
    let example = include_str!("../../host/mcpp.example.toml");
    let setting = |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    let all: String = example.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect();
    let all: Table = toml::from_str(&all).expect("the example is TOML");
    let mut table = Table::new();
    for _ in 0..random.below(5) {
        let (name, section) = all.iter().nth(random.below(all.len())).expect("one of them");
        let Value::Table(section) = section else { continue };
        let (key, default) = section.iter().nth(random.below(section.len())).expect("one of them");
        let value = match (random.below(4), default) {
            (0, _) => wrong(random),
            (1 | 2, Value::Integer(_)) => number(random),
            (1, Value::String(_)) => {
                text(&["/mcp", "/", "0.0.0.0:0", "[::1]:1", "https://a.com", "debug", "json", "\u{0}"], random)
            }
            (1, Value::Array(_)) => some(random, |random| text(&[&ORIGINS[..], &PATHS, &ADDRESSES].concat(), random)),
            _ => default.clone(),
        };
        let into = table.entry(name.clone()).or_insert_with(|| Value::Table(Table::new()));
        into.as_table_mut().expect("a section").insert(key.clone(), value);
    }
    table
}

/// A file as large as one may be, or as deep.
pub fn large(kind: Kind, random: &mut Random) -> String {
    let version = if kind == Kind::Config { "" } else { "version = 1\n" };
    let times = 1 << random.below(18);
    let names = |times: usize| (0..times.min(80_000)).map(|n| format!("\"t{n}\", ")).collect::<String>();
    let body = match random.below(9) {
        0 => format!("call = [{}]\n", names(times)),
        1 => format!("expose = [{}]\n", names(times)),
        2 => format!("subscribe = [{}]\n", names(times).replace('t', "a/")),
        3 => "[[http]]\nurl = \"https://a.com\"\n".repeat(times.min(30_000)),
        4 => format!("x = {}{}\n", "[".repeat(times), "]".repeat(times)),
        5 => format!("{}a = 1\n", "a.".repeat(times)),
        6 => format!("[{}a]\n", "a.".repeat(times)),
        7 => format!("x = {}{}\n", "{a=".repeat(times), "}".repeat(times)),
        _ => (0..times.min(40_000)).map(|n| format!("[tools.t{n}.limits]\n")).collect(),
    };
    format!("{version}{body}")
}
