//! Through NATs: two hosts that nobody reaches meet at a relay, and move to a direct connection where their routers let them.
#![expect(clippy::disallowed_methods, reason = "these tests wait for other programs, on threads of no runtime")]

use std::time::{Duration, Instant};

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
/// Time for a pair to become direct.
const SOON: Duration = Duration::from_secs(3);
/// Pairs that become direct as soon: at least so many of a hundred.
const SOON_OF_HUNDRED: usize = 99;

/// The outcome of one run: how long the pair took to become direct, if it did.
fn one_run(name: &str, transport: &str, first: Nat, second: Nat) -> Option<Duration> {
    let mut lab = Lab::new(name);
    let (_relay, a, b) = meet(&mut lab, transport, first, second);
    b.says("\"path\":\"relayed\"", PATIENCE);
    let begin = Instant::now();
    let direct = "a direct connection stands beside the relayed one";
    while begin.elapsed() < Duration::from_secs(15) {
        if b.has_said(direct) || a.has_said(direct) {
            return Some(begin.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    b.counts("mcpp_mesh_peers{path=\"relayed\"}", 1.0, PATIENCE);
    None
}

#[test]
fn every_pair_of_routers_ends_where_it_can() {
    let runs: Option<usize> = std::env::var(RUNS).ok().map(|runs| runs.parse().expect("a number of runs"));
    let kinds = [Nat::FullCone, Nat::Restricted, Nat::PortRestricted, Nat::Symmetric];
    let all = kinds.iter().flat_map(|first| kinds.map(|second| (*first, second)));
    let pairs: Vec<(Nat, Nat)> = match runs {
        Some(_) => all.collect(),
        None => vec![(Nat::Restricted, Nat::FullCone), (Nat::Symmetric, Nat::PortRestricted)],
    };
    let mut wrong = Vec::new();
    for transport in ["tcp/9710", "udp/9710/quic-v1"] {
        for (first, second) in &pairs {
            let mut times = Vec::new();
            for _ in 0..runs.unwrap_or(1) {
                times.extend(one_run("mx", transport, *first, *second));
            }
            times.sort();
            let soon = times.iter().filter(|time| **time <= SOON).count();
            let runs = runs.unwrap_or(1);
            report(&format!(
                "{transport} {first:?} {second:?}: {} of {runs} direct, {soon} within 3 s, slowest {:?}",
                times.len(),
                times.last()
            ));
            let wanted = first.can_punch(*second);
            let is_so = if wanted { soon * 100 >= runs * SOON_OF_HUNDRED } else { times.is_empty() };
            if !is_so {
                wrong.push(format!("{transport} {first:?} {second:?}: {soon} of {runs} soon, wanted {wanted}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
