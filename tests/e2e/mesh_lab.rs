//! A network of this machine's own: hosts behind routers with NAT, each in a network namespace, with one network between the routers.
//!
//! It needs the rights to make namespaces, and the programs `ip` and `nft`. Where they are missing a test fails and says so; it never passes without a network.
#![expect(clippy::disallowed_methods, reason = "these tests wait for other programs, on threads of no runtime")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{command_line::mcpp, precompiled};

/// How a router translates addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Not at all: its host has an address that everybody reaches.
    Open,
    /// The same outer port for every destination; everybody may send to it.
    FullCone,
    /// The same outer port for every destination; a contacted address may send to it from any port.
    Restricted,
    /// The same outer port for every destination; a contacted address and port may send to it.
    PortRestricted,
    /// Another outer port for each destination.
    Symmetric,
}

impl Nat {
    /// Whether hosts behind these two can reach each other without a relay: each must know the outer port of the other before it is used.
    pub fn can_punch(self, other: Self) -> bool {
        let open = |nat| matches!(nat, Self::Open | Self::FullCone);
        let easy = |nat| nat != Self::Symmetric;
        // A symmetric router's port is told by its first packet, which only a router that asks no more than the address takes.
        let takes_any_port = |nat| open(nat) || nat == Self::Restricted;
        (easy(self) && easy(other)) || takes_any_port(self) && easy(self) || takes_any_port(other) && easy(other)
    }

    /// The rules of a router with the outer address `outer` in front of the host `inner`.
    fn rules(self, outer: &str, inner: &str) -> String {
        let answers = "ct state established,related accept";
        let guard = |forward: &str| {
            format!(
                "table ip guard {{\n\
                 set met {{ type ipv4_addr; flags dynamic,timeout; timeout 5m; size 4096; }}\n\
                 chain input {{ type filter hook input priority 0; policy accept; iif \"wan\" {answers}; iif \"wan\" drop; }}\n\
                 chain forward {{ type filter hook forward priority 0; policy accept; iif \"wan\" {answers}; {forward} iif \"wan\" drop; }}\n\
                 chain meet {{ type filter hook postrouting priority 0; policy accept; oif \"wan\" update @met {{ ip daddr }}; }}\n\
                 }}\n"
            )
        };
        // There is one host behind each router, so that its ports can stay as they are.
        let keep = |inbound: &str| {
            format!(
                "table ip translate {{\n\
                 chain before {{ type nat hook prerouting priority dstnat; policy accept; {inbound} }}\n\
                 chain after {{ type nat hook postrouting priority srcnat; policy accept; oif \"wan\" snat to {outer}; }}\n\
                 }}\n"
            )
        };
        let to_host = format!("iif \"wan\" meta l4proto {{ tcp, udp }} dnat to {inner};");
        match self {
            Self::Open => String::new(),
            Self::FullCone => keep(&to_host),
            Self::Restricted => keep(&to_host) + &guard("iif \"wan\" ip saddr @met accept;"),
            Self::PortRestricted => keep("") + &guard(""),
            Self::Symmetric => {
                "table ip translate {\n\
                 chain after { type nat hook postrouting priority srcnat; policy accept; oif \"wan\" masquerade random; }\n\
                 }\n"
                .to_owned()
                    + &guard("")
            }
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} cannot be run ({error}); install iproute2 and nftables"))
}

fn ip(arguments: &str) {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let output = run("ip", &words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success(),
        "`ip {arguments}` failed: {said}; the test needs the rights to make network namespaces"
    );
}

/// One namespace; it goes when it is dropped.
#[derive(Debug)]
struct Space(String);

impl Space {
    fn new(name: String) -> Self {
        ip(&format!("netns add {name}"));
        let space = Self(name);
        space.ip("link set lo up");
        space
    }

    fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.0));
    }

    /// A command that runs in it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _or_gone = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// The network between the routers, with what is on it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    middle: Space,
    routers: Vec<Space>,
    next: u8,
}

impl Lab {
    /// A network with nobody on it. `name` has at most five characters.
    pub fn new(name: &str) -> Self {
        let name = format!("{name}{}", std::process::id() % 100_000);
        let middle = Space::new(format!("{name}m"));
        middle.ip("link add br0 type bridge");
        middle.ip("link set br0 up");
        Self { name, middle, routers: Vec::new(), next: 1 }
    }

    /// Connects `space` to the network between the routers. Its address there.
    fn attach(&self, space: &Space, number: u8) -> String {
        let address = format!("198.51.100.{number}");
        let port = format!("p{number}");
        self.middle.ip(&format!("link add {port} type veth peer name wan netns {}", space.0));
        self.middle.ip(&format!("link set {port} master br0 up"));
        space.ip(&format!("addr add {address}/24 dev wan"));
        space.ip("link set wan up");
        address
    }

    /// A place for a host behind a router of its own.
    pub fn place(&mut self, nat: Nat) -> Place {
        let number = self.next;
        self.next += 1;
        let host = Space::new(format!("{}h{number}", self.name));
        if nat == Nat::Open {
            let outer = self.attach(&host, number);
            // Multicast needs a way out.
            host.ip("route add 224.0.0.0/4 dev wan");
            return Place { space: host, outer };
        }
        let router = Space::new(format!("{}r{number}", self.name));
        let outer = self.attach(&router, number);
        let inner = format!("10.{number}.0.2");
        router.ip(&format!("link add lan type veth peer name eth0 netns {}", host.0));
        router.ip(&format!("addr add 10.{number}.0.1/24 dev lan"));
        router.ip("link set lan up");
        host.ip(&format!("addr add {inner}/24 dev eth0"));
        host.ip("link set eth0 up");
        host.ip(&format!("route add default via 10.{number}.0.1"));
        let forward = router.command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]).output().expect("sysctl");
        assert!(forward.status.success(), "{forward:?}");
        let mut nft = router.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is there");
        let rules = nat.rules(&outer, &inner);
        std::io::Write::write_all(&mut nft.stdin.take().expect("piped"), rules.as_bytes()).expect("written");
        assert!(nft.wait().expect("nft ends").success(), "nft does not take\n{rules}");
        self.routers.push(router);
        Place { space: host, outer }
    }
}

/// Where a host can be.
#[derive(Debug)]
pub struct Place {
    space: Space,
    /// The address that others see.
    outer: String,
}

/// A program that serves in a place; killed when dropped.
#[derive(Debug)]
pub struct Resident {
    process: Child,
    /// The records of its log.
    log: Arc<Mutex<Vec<Value>>>,
    /// Its id.
    pub peer: String,
    place: Place,
    /// Its configuration and its data; removed with it.
    folder: TempDir,
}

impl Resident {
    /// Starts a host with these lines in the section `[mesh]`, and waits until it serves.
    pub fn start(place: Place, mesh: &str) -> Self {
        Self::start_with(place, &format!("[tools]\nbuiltin = false\n[mesh]\nlisten = [\"0.0.0.0:9710\"]\n{mesh}\n"))
    }

    /// Starts a host with this configuration and a fresh data directory, and waits until it serves.
    pub fn start_with(place: Place, text: &str) -> Self {
        Self::start_by(place, text, &[])
    }

    /// The same with this environment.
    pub fn start_by(place: Place, text: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("mcpp.toml");
        std::fs::write(&config, text).expect("written");
        let data = folder.path().join("data");
        precompiled::give(&data);
        let program = mcpp();
        let id = Command::new(&program).arg("id").arg("--data").arg(&data).output().expect("run");
        let peer = String::from_utf8_lossy(&id.stdout).trim().to_owned();
        let mut process = place
            .space
            .command(&program)
            .args(["serve", "--listen", "127.0.0.1:8000", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(&data)
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let log: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (lines, written) = (BufReader::new(process.stderr.take().expect("piped")).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let record = serde_json::from_str(&line).unwrap_or(Value::String(line));
                written.lock().unwrap_or_else(PoisonError::into_inner).push(record);
            }
        });
        let resident = Self { process, log, peer, place, folder };
        // Built-in components are compiled first where no test has done so.
        resident.says("serving", Duration::from_secs(90));
        resident
    }

    /// Kills it, as a power cut does.
    pub fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }

    /// Takes its place off the network.
    pub fn cut_off(&self) {
        self.place.space.ip("link set wan down");
    }

    /// Puts its place back on the network.
    pub fn heal(&self) {
        self.place.space.ip("link set wan up");
    }

    /// Its address on the network between the routers, over `transport`: `tcp/9710` or `udp/9710/quic-v1`.
    pub fn at(&self, transport: &str) -> String {
        format!("/ip4/{}/{transport}/p2p/{}", self.place.outer, self.peer)
    }

    /// Runs one of the program's commands beside it, with its data directory.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.place.space.command(mcpp());
        command.args(arguments).env("MCPP_DATA", self.folder.path().join("data")).env_remove("MCPP_URL");
        command.env_remove("RUST_LOG").stdin(Stdio::null()).output().expect("run")
    }

    /// All that it has logged, as text.
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|record| record.to_string() + "\n").collect()
    }

    /// Whether a record of its log has these words.
    pub fn has_said(&self, message: &str) -> bool {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().any(|record| record.to_string().contains(message))
    }

    /// Waits for a message in its log; how long it took.
    pub fn says(&self, message: &str, within: Duration) -> Duration {
        let begin = Instant::now();
        while !self.has_said(message) {
            assert!(begin.elapsed() < within, "it never says {message:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        begin.elapsed()
    }

    /// A metric's value, over its own loopback.
    pub fn metric(&self, line: &str) -> Option<f64> {
        let ask = "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /metrics HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3";
        let output = self.place.space.command("bash").args(["-c", ask]).output().expect("bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    /// Waits until a metric has a value.
    pub fn counts(&self, line: &str, wanted: f64, within: Duration) {
        let begin = Instant::now();
        while self.metric(line) != Some(wanted) {
            assert!(begin.elapsed() < within, "{line} is {:?}:\n{}", self.metric(line), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        let _or_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}
