//! Through NATs: two hosts that nobody reaches meet at a relay, and move to a direct connection where their routers let them.
#![expect(clippy::disallowed_methods, reason = "these tests wait for other programs, on threads of no runtime")]

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::mesh_lab::{Lab, Nat, Resident};

const PATIENCE: Duration = Duration::from_secs(30);

/// A relay in the open, and two hosts behind routers that meet at it.
fn meet(lab: &mut Lab, transport: &str, first: Nat, second: Nat) -> (Resident, Resident, Resident) {
    let relay = Resident::start(lab.place(Nat::Open), "relay_server = true");
    let at = relay.at(transport);
    let a = Resident::start(lab.place(first), &format!("relays = [\"{at}\"]"));
    a.says("this host is reached through a relay", PATIENCE);
    let there = format!("{at}/p2p-circuit/p2p/{}", a.peer);
    let b = Resident::start(lab.place(second), &format!("peers = [\"{there}\"]"));
    (relay, a, b)
}

#[test]
fn two_hosts_behind_ordinary_routers_become_direct() {
    for (number, transport) in ["tcp/9710", "udp/9710/quic-v1"].into_iter().enumerate() {
        let mut lab = Lab::new(&format!("pd{number}"));
        let (relay, a, b) = meet(&mut lab, transport, Nat::PortRestricted, Nat::PortRestricted);
        assert!(Nat::PortRestricted.can_punch(Nat::PortRestricted));
        b.says("a direct connection stands beside the relayed one", PATIENCE);
        // Afterwards nothing goes over the relay.
        let closed = "the relayed connection is closed";
        let begin = Instant::now();
        while !a.has_said(closed) && !b.has_said(closed) {
            assert!(begin.elapsed() < PATIENCE, "neither closes it\n{}\n{}", a.log(), b.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        relay.counts("mcpp_mesh_circuits", 0.0, PATIENCE);
        let direct = b.metric("mcpp_mesh_peers{path=\"direct\"}");
        assert!(direct.is_some_and(|peers| peers >= 1.0), "{transport}: {direct:?}\n{}", b.log());
        assert_eq!(a.metric("mcpp_mesh_peers{path=\"relayed\"}"), Some(0.0), "{transport}\n{}", a.log());
        assert!(a.log().contains("punched") || b.log().contains("punched"), "{transport}: no attempt is logged");
    }
}

#[test]
fn two_hosts_whose_routers_do_not_let_them_stay_at_the_relay() {
    let mut lab = Lab::new("sy");
    let (relay, a, b) = meet(&mut lab, "tcp/9710", Nat::Symmetric, Nat::Symmetric);
    assert!(!Nat::Symmetric.can_punch(Nat::Symmetric));
    let failed = "no direct connection could be punched through";
    let begin = Instant::now();
    while !a.log().contains(failed) && !b.log().contains(failed) {
        assert!(begin.elapsed() < Duration::from_secs(90), "no outcome is logged\n{}\n{}", a.log(), b.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    b.counts("mcpp_mesh_peers{path=\"relayed\"}", 1.0, PATIENCE);
    relay.counts("mcpp_mesh_circuits", 1.0, PATIENCE);
}

/// How often the matrix runs each pair; `.ci/nat` sets it. Otherwise two pairs run once.
const RUNS: &str = "MCPP_NAT_RUNS";
/// Which rows of the matrix run: those that begin with it, as `udp/9710/quic-v1 | FullCone`. Otherwise all.
const ROWS: &str = "MCPP_NAT_ROWS";
/// Time for a pair to become direct.
const SOON: Duration = Duration::from_secs(3);
/// Pairs that become direct as soon: at least so many of a hundred.
const SOON_OF_HUNDRED: usize = 99;

/// Networks of one matrix that are there at the same time.
const AT_ONCE: usize = 4;
/// How long a pair is watched that cannot become direct, and one that should have become it.
const NEVER: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_secs(15);

/// A transport, and the routers of the host that is called over the relay and of the one that calls.
type Pair = (&'static str, Nat, Nat);

/// The outcome of one run: how long the pair took to become direct, if it did.
fn one_run(name: &str, (transport, first, second): Pair) -> Option<Duration> {
    let mut lab = Lab::new(name);
    let (_relay, a, b) = meet(&mut lab, transport, first, second);
    b.says("\"path\":\"relayed\"", PATIENCE);
    let begin = Instant::now();
    let direct = "a direct connection stands beside the relayed one";
    let most = if first.can_punch(second) { LATE } else { NEVER };
    while begin.elapsed() < most {
        if b.has_said(direct) || a.has_said(direct) {
            return Some(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if first.can_punch(second) {
        report(&format!("{transport}, {first:?} called by {second:?}: not direct\n{}\n{}", a.log(), b.log()));
    }
    b.counts("mcpp_mesh_peers{path=\"relayed\"}", 1.0, PATIENCE);
    None
}

/// All runs of all pairs, some at a time: what each pair's came to; an error where the hosts did not even meet at the relay.
fn matrix(pairs: &[Pair], runs: usize) -> Vec<Vec<Result<Option<Duration>, String>>> {
    // Pair by pair, so that a person sees whole rows.
    let waiting: Mutex<VecDeque<(usize, usize)>> =
        Mutex::new((0..pairs.len()).flat_map(|at| (0..runs).map(move |run| (at, run))).collect());
    let outcomes = Mutex::new(vec![Vec::new(); pairs.len()]);
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            let (waiting, outcomes) = (&waiting, &outcomes);
            scope.spawn(move || {
                loop {
                    let next = waiting.lock().expect("not poisoned").pop_front();
                    let Some((at, run)) = next else { return };
                    let ran = std::panic::catch_unwind(|| one_run(&format!("m{worker}{}", run % 10), pairs[at]));
                    let ran = ran.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
                    let mut outcomes = outcomes.lock().expect("not poisoned");
                    outcomes[at].push(ran);
                    if outcomes[at].len() == runs {
                        report(&row(pairs[at], &outcomes[at]));
                    }
                }
            });
        }
    });
    outcomes.into_inner().expect("not poisoned")
}

fn soon(outcomes: &[Result<Option<Duration>, String>]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, Ok(Some(time)) if *time <= SOON)).count()
}

fn row((transport, first, second): Pair, outcomes: &[Result<Option<Duration>, String>]) -> String {
    let mut times: Vec<Duration> = outcomes.iter().flatten().flatten().copied().collect();
    times.sort();
    let (runs, direct, soon) = (outcomes.len(), times.len(), soon(outcomes));
    let broken = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let slowest = times.last().map_or("-".to_owned(), |time| format!("{} ms", time.as_millis()));
    format!("| {transport} | {first:?} | {second:?} | {runs} | {direct} | {soon} | {slowest} | {broken} |")
}

#[test]
fn every_pair_of_routers_ends_where_it_can() {
    let runs: Option<usize> = std::env::var(RUNS).ok().map(|runs| runs.parse().expect("a number of runs"));
    let kinds = [Nat::FullCone, Nat::Restricted, Nat::PortRestricted, Nat::Symmetric];
    let all = kinds.iter().flat_map(|first| kinds.map(|second| (*first, second)));
    let routers: Vec<(Nat, Nat)> = match runs {
        Some(_) => all.collect(),
        None => vec![(Nat::Symmetric, Nat::FullCone), (Nat::Symmetric, Nat::PortRestricted)],
    };
    let with = |transport| routers.iter().map(move |(first, second)| (transport, *first, *second));
    let mut pairs: Vec<Pair> = with("tcp/9710").chain(with("udp/9710/quic-v1")).collect();
    if let Ok(rows) = std::env::var(ROWS) {
        pairs.retain(|(transport, first, second)| {
            rows.split(',').any(|row| format!("{transport} | {first:?} | {second:?}").starts_with(row))
        });
    }
    let runs = runs.unwrap_or(1);
    report("| transport | called | calls | runs | direct | within 3 s | slowest | did not meet |");
    let mut wrong = Vec::new();
    for (pair, outcomes) in pairs.iter().zip(matrix(&pairs, runs)) {
        let (_, first, second) = *pair;
        let is_so = match first.can_punch(second) {
            true => soon(&outcomes) * 100 >= runs * SOON_OF_HUNDRED,
            false => outcomes.iter().all(|outcome| matches!(outcome, Ok(None))),
        };
        if !is_so {
            wrong.push(row(*pair, &outcomes));
            let errors = outcomes.into_iter().filter_map(Result::err);
            wrong.extend(errors.take(1));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// For how many seconds a punched path is watched; `.ci/nat` sets it to five minutes.
const STAYS: &str = "MCPP_NAT_STAYS";

#[test]
fn a_punched_path_stays_and_the_relay_carries_nothing_any_more() {
    let seconds = std::env::var(STAYS).ok().map_or(7, |seconds| seconds.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds);
    let stays = |(name, transport): (&str, &str)| {
        let mut lab = Lab::new(name);
        let (relay, a, b) = meet(&mut lab, transport, Nat::PortRestricted, Nat::Restricted);
        b.counts("mcpp_mesh_peers{path=\"direct\"}", 2.0, PATIENCE);
        relay.counts("mcpp_mesh_circuits", 0.0, PATIENCE);
        while Instant::now() < until {
            for host in [&a, &b] {
                // The relay and the other host.
                let paths =
                    ["direct", "relayed"].map(|path| host.metric(&format!("mcpp_mesh_peers{{path=\"{path}\"}}")));
                assert_eq!(paths, [Some(2.0), Some(0.0)], "{transport}\n{}", host.log());
            }
            assert_eq!(relay.metric("mcpp_mesh_circuits"), Some(0.0), "{transport}");
            std::thread::sleep(Duration::from_millis(500));
        }
    };
    std::thread::scope(|scope| {
        for case in [("st", "tcp/9710"), ("su", "udp/9710/quic-v1")] {
            scope.spawn(move || stays(case));
        }
    });
}

/// Where the transcript of the first call across two NATs is written, if anywhere; `.ci/nat` sets it.
const TRANSCRIPT: &str = "MCPP_NAT_TRANSCRIPT";
/// Time from the invitation to the first answer, a fresh host's start included.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Runs a command of a host, and writes down what a person at its terminal reads.
fn typed(begin: Instant, host: (&str, &Resident), arguments: &[&str], lines: &mut Vec<String>) -> String {
    let output = host.1.run(arguments);
    let shown: Vec<String> = arguments.iter().map(|word| cut(word)).collect();
    lines.push(format!("{:5.2} s  {}$ mcpp {}", begin.elapsed().as_secs_f64(), host.0, shown.join(" ")));
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    lines.extend(out.lines().chain(err.lines()).map(cut));
    assert!(output.status.success(), "{}\n{}", lines.join("\n"), host.1.log());
    out
}

/// A ticket is long, and a secret.
fn cut(line: &str) -> String {
    if line.starts_with("mcpp-ticket_") { format!("{}…", &line[..30]) } else { line.to_owned() }
}

#[test]
fn an_invitation_is_answered_across_two_routers_from_fresh_data_directories() {
    let mut lab = Lab::new("tr");
    let relay = Resident::start(lab.place(Nat::Open), "relay_server = true");
    let meshed = format!("[mesh]\nlisten = [\"0.0.0.0:9710\"]\nrelays = [\"{}\"]\n", relay.at("tcp/9710"));
    let (home, office) = (lab.place(Nat::PortRestricted), lab.place(Nat::Symmetric));
    let a = Resident::start_with(home, &meshed);
    a.says("this host is reached through a relay", PATIENCE);
    let begin = Instant::now();
    let mut lines = Vec::new();
    let ticket = typed(begin, ("home", &a), &["invite", "--tool", "text_*"], &mut lines);
    // The other machine has nothing: no data, no configuration. Its host starts within the time.
    let b = Resident::start_with(office, "");
    lines.push(format!("{:5.2} s  office$ mcpp serve &", begin.elapsed().as_secs_f64()));
    typed(begin, ("office", &b), &["join", &ticket], &mut lines);
    let call = ["call", "--peer", &a.peer, "text_statistics", "text=hello"];
    let answer = typed(begin, ("office", &b), &call, &mut lines);
    let took = begin.elapsed();
    lines.push(format!("{:5.2} s  the first answer", took.as_secs_f64()));
    assert!(answer.contains("\"characters\":5"), "{answer}");
    typed(begin, ("office", &b), &["peers"], &mut lines);
    let transcript = lines.join("\n");
    report(&transcript);
    if let Ok(path) = std::env::var(TRANSCRIPT) {
        std::fs::write(path, transcript + "\n").expect("written");
    }
    assert!(took < FIRST_ANSWER, "{took:?}");
}

/// Says a line to the person who runs the matrix.
fn report(line: &str) {
    let _nobody_reads = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}

#[test]
fn hosts_on_one_link_find_each_other_by_multicast() {
    let mut lab = Lab::new("md");
    let [first, second] = [(); 2].map(|()| lab.place(Nat::Open));
    let a = Resident::start(first, "mdns = true");
    let b = Resident::start(second, "mdns = true");
    b.counts("mcpp_mesh_peers{path=\"direct\"}", 1.0, PATIENCE);
    a.counts("mcpp_mesh_peers{path=\"direct\"}", 1.0, PATIENCE);
    assert!(a.log().contains("\"way\":\"mdns\"") || b.log().contains("\"way\":\"mdns\""), "{}", b.log());
}
