//! The attacks, each at its full size: one row, and one function that goes on with it for ever.

mod calls;
mod components;
mod connections;
mod messages;

use std::{net::SocketAddr, path::Path};

use futures::future::BoxFuture;

pub(crate) use components::rename;
pub(crate) use connections::connect_to;

use crate::host::{Team, component, guest, team};

/// One way of a tenant, or of somebody without a token, to harm the others.
#[derive(Clone, Copy)]
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// How many attack at the same time.
    pub(crate) clients: usize,
    /// Attacks until it is dropped, as the client with this number.
    pub(crate) run: fn(Target, usize) -> BoxFuture<'static, ()>,
}

/// The victim and the attacker.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    /// A tenant with tools for every attack.
    pub(crate) greedy: Team,
    /// Another one, into whose folder attackers save components.
    pub(crate) builder: Team,
    /// An upstream that takes connections and never answers.
    pub(crate) silent: SocketAddr,
}

impl Target {
    /// Takes away the files that an attack left.
    pub(crate) fn clean(&self) {
        for entry in std::fs::read_dir(&self.builder.tools).expect("a folder").flatten() {
            let _it_may_be_gone = std::fs::remove_file(entry.path());
        }
    }
}

/// All attacks.
pub(crate) fn attacks() -> Vec<Attack> {
    [calls::ATTACKS, connections::ATTACKS, messages::ATTACKS, components::ATTACKS]
        .into_iter()
        .flatten()
        .copied()
        .collect()
}

/// The tenants that attack, made in `folder`.
pub(crate) fn attackers(folder: &Path, silent: SocketAddr) -> (Team, Team) {
    let tool = |name: &str, body: &str| component(&[name.to_owned()], body);
    let (memory, huge, hostile) =
        (wat::parse_str(calls::MEMORY).expect("text"), wat::parse_str(calls::HUGE).expect("text"), guest("hostile"));
    let components = [
        ("short", tool("short", "i32.const 1")),
        ("forever", tool("forever", "(loop $l (br $l)) i32.const 1")),
        ("busy", tool("busy", calls::BUSY)),
        ("recurse", tool("recurse", "(call $f)")),
        ("memory", memory),
        ("huge", huge),
        ("hostile", hostile),
    ];
    let components: Vec<(&str, &[u8])> = components.iter().map(|(name, wasm)| (*name, wasm.as_slice())).collect();
    let grant = format!(
        "store = {{}}\n[[http]]\nurl = 'http://127.0.0.1:{}'\nmethods = ['GET']\naddresses = ['127.0.0.1/32']\n",
        silent.port()
    );
    let greedy = team(folder, "greedy", &components, &[("hostile", &grant)]);
    (greedy, team(folder, "builder", &[], &[]))
}
