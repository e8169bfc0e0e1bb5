//! The cost of tenants, and their effect on each other: one tenant's calls alone and beside another that attacks with all it has, a hundred tenants with fifty tools each, and
//! a hundred thousand sessions that their clients abandon.
//!
//! `cargo build --release && cargo bench -p mcpp-tests --bench tenants` prints one table; `-- --json` prints one JSON object a line, and any other word chooses the attacks whose
//! names contain it. The attacked host may have 2 GiB of memory where the machine lets the bench make a control group. Load generator and host share the processors:
//! the attackers' threads only run while nothing else wants to, and their system calls are short; the observer runs at once, as if they were on other machines. The other
//! program has an ordinary priority.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a bench is a script: it stops at the first surprise"
)]

mod attacks;
#[path = "../calls/client.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod client;
mod host;
mod observe;
mod scale;
#[path = "../calls/server.rs"]
#[allow(dead_code, reason = "the other bench uses all of it")]
mod server;

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use attacks::{Attack, Target, attackers, attacks};
use host::{Besieged, component, folder, team};
use observe::{Latencies, OBSERVE, look_on, observe};

/// How often each attack is measured, unless `--rounds=N` says otherwise; medians count.
const ROUNDS: usize = 3;
/// How long an attack goes on before it is measured.
const ONSET: Duration = Duration::from_millis(500);
/// The host's time to come to rest in between.
const REST: Duration = Duration::from_secs(1);

/// Whether rows are printed as JSON.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// Prints a row; nothing was measured where there is no value.
fn print_row(what: impl Into<String>, value: Option<f64>, unit: &'static str) {
    let what = what.into();
    if AS_JSON.load(Ordering::Relaxed) {
        println!("{}", json!({ "what": what, "value": value, "unit": unit }));
    } else {
        let value = value.map_or_else(|| "null".to_owned(), |value| format!("{value:.2}"));
        println!("{what:<96} {value:>10} {unit}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    AS_JSON.store(arguments.iter().any(|argument| argument == "--json"), Ordering::Relaxed);
    let rounds = arguments.iter().find_map(|argument| argument.strip_prefix("--rounds="));
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let chosen: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let _first = rustls::crypto::ring::default_provider().install_default();
    if let [word, url, token] = arguments.as_slice()
        && word == OBSERVE
    {
        return look_on(url, token);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A thread that cannot be given a lower priority would measure something else.
        .on_thread_start(|| {
            let this = std::fs::read_link("/proc/thread-self").expect("a thread");
            let number = this.file_name().expect("a number");
            let lowered = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(number).status();
            assert!(lowered.expect("chrt").success(), "a lower priority");
        })
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let is_chosen = |name: &str| chosen.is_empty() || chosen.iter().any(|word| name.contains(*word));
        let attacks: Vec<Attack> = attacks().into_iter().filter(|attack| is_chosen(attack.name)).collect();
        if !attacks.is_empty() {
            beside_each_other(attacks, rounds).await;
        }
        if is_chosen(scale::TENANTS_NAME) {
            scale::many_tenants().await;
        }
        if is_chosen(scale::SESSIONS_NAME) {
            scale::abandoned_sessions().await;
        }
    });
}

async fn beside_each_other(attacks: Vec<Attack>, rounds: usize) {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let upstream = silent.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok(connection) = silent.accept().await {
            held.push(connection);
        }
    });
    let folder = folder();
    let mine = component(&["mine".to_owned()], "i32.const 1");
    let modest = team(folder.path(), "modest", &[("mine", &mine)], &[]);
    team(folder.path(), "idle", &[], &[]);
    let (greedy, builder) = attackers(folder.path(), upstream);
    let mut host = Besieged::start(folder).await;
    if !host.is_limited() {
        print_row("the host's memory is not limited: no control group could be made", None, "");
    }
    let target = Target { url: host.url(), address: host.address(), greedy, builder, silent: upstream };
    let [mut other, mut few, mut many, mut come, mut renamed] = std::array::from_fn(|_| Beside::default());
    for _ in 0..rounds {
        other.alone.note(observe(&host.url(), &modest.token).await);
        other.under.note(beside_another_program(&host, &modest.token, &["sh"]).await);
        for (copies, connections) in [(&mut few, 16), (&mut many, 400)] {
            copies.alone.note(observe(&host.url(), &modest.token).await);
            copies.under.note(beside_copies(&host, &modest.token, connections).await);
        }
        come.alone.note(observe(&host.url(), &modest.token).await);
        come.under.note(beside_a_crowd(&host, &modest.token, 1_100).await);
        renamed.alone.note(observe(&host.url(), &modest.token).await);
        renamed.under.note(beside_renames(&host, &modest.token).await);
    }
    other.print("another program on all processors (no attack)");
    few.print("16 connections that send 4 MB to somebody else (no attack)");
    many.print("400 connections that send 4 MB to somebody else (no attack)");
    come.print("1,100 connections that come and go at somebody else's (no attack)");
    renamed.print("files renamed without pause where nobody looks (no attack)");
    for attack in attacks {
        let (mut beside, mut busy) = (Beside::default(), Latencies::default());
        for _ in 0..rounds {
            // Beside every attack, as the machine itself changes.
            beside.alone.note(observe(&host.url(), &modest.token).await);
            busy.note(beside_another_program(&host, &modest.token, &["chrt", "--idle", "0", "sh"]).await);
            under_attack(&attack, &target, &mut host, &modest.token, &mut beside.under).await;
        }
        let under = beside.print(attack.name);
        let busy = busy.print(&format!("{}: the machine busy with somebody else", attack.name));
        print_row(format!("{}: a call, p99 / beside somebody else", attack.name), Some(under / busy), "×");
    }
    print_row("memory of the host after all that, most", Some(host.peak_bytes() / 1e6), "MB");
}

/// One tenant's latencies alone, and beside something else.
#[derive(Default)]
struct Beside {
    alone: Latencies,
    under: Latencies,
}

impl Beside {
    /// Prints all of it; the p99 beside the load.
    fn print(&mut self, load: &str) -> f64 {
        let usual = self.alone.print(&format!("{load}: before it"));
        let beside = self.under.print(load);
        print_row(format!("{load}: a call, p99 / before it"), Some(beside / usual), "×");
        beside
    }
}

async fn under_attack(attack: &Attack, target: &Target, host: &mut Besieged, token: &str, latencies: &mut Latencies) {
    host.forget_peak();
    let one = |number| tokio::spawn((attack.run)(target.clone(), number));
    let running: Vec<_> = (0..attack.clients).map(one).collect();
    tokio::time::sleep(ONSET).await;
    latencies.note(observe(&host.url(), token).await);
    for command in [["tenant", "suspend", "idle"].as_slice(), &["tenant", "resume", "idle"], &["info"]] {
        latencies.operator_ms.push(host.operator(command).map(|took| took.as_secs_f64() * 1e3));
    }
    assert!(host.is_alive(), "`{}` has ended the host", attack.name);
    latencies.peak_mb = latencies.peak_mb.max(host.peak_bytes() / 1e6);
    latencies.threads = latencies.threads.max(host.threads());
    running.iter().for_each(tokio::task::JoinHandle::abort);
    target.clean();
    tokio::time::sleep(REST).await;
}

/// Not ours either: what the kernel takes for megabytes that others send each other on this machine. Attacks with megabytes do no less.
async fn beside_copies(host: &Besieged, token: &str, connections: usize) -> observe::Seen {
    let sink = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = sink.local_addr().expect("an address");
    let mut running = vec![tokio::spawn(async move {
        while let Ok((mut stream, _)) = sink.accept().await {
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    })];
    running.extend((0..connections).map(|_| {
        tokio::spawn(async move {
            let message = vec![b'x'; 4 << 20];
            while let Ok(mut stream) = attacks::connect_to(address).await {
                let _it_may_end = stream.write_all(&message).await;
            }
        })
    }));
    tokio::time::sleep(ONSET).await;
    let seen = observe(&host.url(), token).await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    seen
}

/// Not ours either: connections that somebody else takes, answers with a few words and closes, about as often as the host has to change one stranger for another.
async fn beside_a_crowd(host: &Besieged, token: &str, connections: usize) -> observe::Seen {
    /// How long each may stay.
    const STAY: Duration = Duration::from_millis(400);
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = other.local_addr().expect("an address");
    let mut running = vec![tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            tokio::spawn(async move {
                let _it_may_have_left = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                tokio::time::sleep(STAY).await;
            });
        }
    })];
    running.extend((0..connections).map(|_| {
        tokio::spawn(async move {
            let message = vec![b'x'; 4_100];
            loop {
                if let Ok(mut stream) = attacks::connect_to(address).await {
                    while stream.write_all(&message).await.is_ok() {}
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    }));
    tokio::time::sleep(ONSET).await;
    let seen = observe(&host.url(), token).await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    seen
}

/// Not ours either: what the kernel takes for files that get other names.
async fn beside_renames(host: &Besieged, token: &str) -> observe::Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let running: Vec<_> =
        (0..4).map(|number| tokio::spawn(attacks::rename(folder.path().to_owned(), number))).collect();
    tokio::time::sleep(ONSET).await;
    let seen = observe(&host.url(), token).await;
    running.iter().for_each(tokio::task::JoinHandle::abort);
    seen
}

/// Not ours: another program keeps all processors busy. That is the machine's own effect on latency. Of the lowest priority, it is what the attackers' threads are by
/// themselves, whomever they attack.
async fn beside_another_program(host: &Besieged, token: &str, shell: &[&str]) -> observe::Seen {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = ["-c", "while :; do :; done"];
    let spin = || Command::new(shell[0]).args(&shell[1..]).args(loops).spawn().expect("a shell");
    let others: Vec<_> = (0..processors).map(|_| spin()).collect();
    tokio::time::sleep(ONSET).await;
    let seen = observe(&host.url(), token).await;
    for mut other in others {
        other.kill().expect("killed");
        other.wait().expect("ended");
    }
    seen
}
