//! `mcpp mount`, `mcpp mounts` and `mcpp unmount`: tools of other hosts in a tenant's catalog.

use std::io::IsTerminal as _;

use anyhow::bail;
use clap::Args;
use reqwest::Method;

use super::{Operator, clean, print, print_json, remote::tell, table};
use crate::{
    admin::{
        Acceptance,
        mounts::{MountOrder, UnmountOrder},
    },
    mesh::PeerId,
    mounts::{record::MountName, rows::MountRow},
    names::ToolPattern,
    reload::accept::Waiting,
};

#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// The mount's name: the tool `x` of the other host is called `NAME_x` here
    name: MountName,
    /// A host that this one has joined, by its id (`mcpp peers`); with several, calls go to the less loaded one
    #[arg(long = "peer", value_name = "PEER", required = true)]
    peers: Vec<PeerId>,
    /// A tool of that host, or a prefix that ends in *; may be repeated
    #[arg(long = "tool", value_name = "TOOL", required = true)]
    tools: Vec<ToolPattern>,
    /// Accept nothing now; `mcpp accept --mount NAME` does later
    #[arg(long)]
    later: bool,
    #[command(flatten)]
    operator: Operator,
}

impl MountArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let order = MountOrder { name: self.name.clone(), peers: self.peers.clone(), tools: self.tools.clone() };
        let mut row: MountRow = self.operator.tell("/mounts", &order).await?.json().await?;
        let waiting = self.waiting().await?;
        if let (false, Some(offer)) = (self.later, waiting.first()) {
            offer.changes.iter().for_each(|change| tell(&format!("  {}", change.full())));
            if std::io::stdin().is_terminal() && !self.agrees()? {
                bail!(
                    "mounted, and nothing of it is accepted; `mcpp accept --mount {0}` accepts, `mcpp unmount {0}` unmounts",
                    self.name
                );
            }
            // Exactly what was shown: the peer may offer something else meanwhile.
            let acceptance = Acceptance { component: self.name.to_string(), digest: offer.digest.clone() };
            row = self.operator.tell("/mounts/accept", &acceptance).await?.json().await?;
        }
        if self.operator.json {
            print_json(&row)?;
            return Ok(0);
        }
        for tool in &row.tools {
            print(&format!("mounted {tool}"))?;
        }
        if let Some(problem) = &row.problem {
            tell(&clean(problem));
        } else if row.tools.is_empty() {
            tell("its peers offer no tool of these names to this host");
        }
        Ok(0)
    }

    fn agrees(&self) -> anyhow::Result<bool> {
        tell(&format!("show these tools in the catalog of tenant {}? Type yes to go on:", self.operator.tenant));
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok(answer.trim() == "yes")
    }

    async fn waiting(&self) -> anyhow::Result<Vec<Waiting>> {
        let mut waiting: Vec<Waiting> = self.operator.ask(Method::GET, "/mounts/waiting").await?;
        waiting.retain(|offer| offer.component == self.name.as_str());
        Ok(waiting)
    }
}

#[derive(Debug, Args)]
pub(super) struct MountsArgs {
    #[command(flatten)]
    operator: Operator,
}

impl MountsArgs {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let rows: Vec<MountRow> = self.operator.ask(Method::GET, "/mounts").await?;
        if self.operator.json {
            print_json(&rows)?;
            return Ok(0);
        }
        print(&shown(&rows))?;
        for row in &rows {
            if let Some(problem) = &row.problem {
                tell(&format!("mount {}: {}", row.name, clean(problem)));
            }
        }
        Ok(0)
    }
}

/// Mounts as a table, a line for each of their peers.
pub(super) fn shown(mounts: &[MountRow]) -> String {
    let rows = mounts.iter().flat_map(|mount| {
        mount.peers.iter().map(|peer| {
            let waiting = match &peer.waiting {
                Some((digest, tools)) => format!("{tools} tools, {}", digest.chars().take(12).collect::<String>()),
                None => "-".to_owned(),
            };
            let call = peer.call_us.map_or("-".to_owned(), |us| format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10));
            vec![
                mount.name.to_string(),
                format!("{} of {}", peer.serves, mount.tools.len()),
                peer.peer.to_string(),
                peer.state.as_str().to_owned(),
                call,
                waiting,
            ]
        })
    });
    table(&["MOUNT", "TOOLS", "PEER", "STATE", "CALL", "WAITS TO BE ACCEPTED"], rows)
}

#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// The mount, as `mcpp mounts` shows it
    name: MountName,
    #[command(flatten)]
    operator: Operator,
}

impl Unmount {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        self.operator.tell("/mounts/unmount", &UnmountOrder { name: self.name.clone() }).await?;
        print(&format!("unmounted {}", self.name))?;
        Ok(0)
    }
}
