//! `mcpp fetch`: the components that other hosts offer, and one of them brought here.

use std::{collections::BTreeMap, time::Instant};

use anyhow::bail;
use clap::Args;

use super::{Operator, clean, print, print_json, remote::tell, table};
use crate::{
    admin::components::{FetchDone, OffersOrder},
    components::fetch::{FetchOrder, OffersOfPeer},
    mesh::PeerId,
};

#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// The component by its name there, or the build by its digest (8 characters or more); without it, the command lists what is offered
    component: Option<String>,
    /// A host that this one has joined, by its id (`mcpp peers`); with several, up to 8, each gives a part
    #[arg(long = "peer", value_name = "PEER", required = true)]
    peers: Vec<PeerId>,
    /// The component's name here [default: its name there]
    #[arg(long = "as", value_name = "NAME", requires = "component")]
    name: Option<String>,
    #[command(flatten)]
    operator: Operator,
}

impl Fetch {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        match self.component.clone() {
            Some(component) => self.fetch(component).await,
            None => self.list().await,
        }
    }

    async fn list(self) -> anyhow::Result<u8> {
        let order = OffersOrder { peers: self.peers };
        let offers = self.operator.tell("/components/offers", &order).await?;
        let offers: BTreeMap<PeerId, OffersOfPeer> = offers.json().await?;
        if self.operator.json {
            print_json(&offers)?;
            return Ok(0);
        }
        let rows = offers.iter().flat_map(|(peer, of)| {
            let row = move |offer: &crate::components::message::ComponentOffer| {
                vec![clean(&offer.name), offer.bytes.to_string(), clean(&offer.digest), peer.to_string()]
            };
            of.offers.iter().map(row)
        });
        print(&table(&["COMPONENT", "BYTES", "DIGEST", "PEER"], rows))?;
        for (peer, of) in &offers {
            if let Some(problem) = &of.problem {
                tell(&format!("{peer}: {}", clean(problem)));
            }
        }
        Ok(0)
    }

    async fn fetch(self, component: String) -> anyhow::Result<u8> {
        let started = Instant::now();
        let order = FetchOrder { component, peers: self.peers, name: self.name };
        let done: FetchDone = self.operator.tell("/components/fetch", &order).await?.json().await?;
        if self.operator.json {
            print_json(&done)?;
            return Ok(0);
        }
        let FetchDone { fetched, report } = done;
        let name = clean(&fetched.name);
        print(&format!("fetched {name} {}", clean(&fetched.digest)))?;
        let seconds = started.elapsed().as_secs_f64();
        tell(&format!("{} bytes in {seconds:.1} s, {} chunks of them there before", fetched.bytes, fetched.resumed));
        fetched.chunks.iter().for_each(|(peer, chunks)| tell(&format!("{peer} gave {chunks} chunks")));
        fetched.problems.iter().for_each(|(peer, problem)| tell(&format!("{peer}: {}", clean(problem))));
        match report.failed.get(&fetched.name) {
            Some(problem) if problem.contains("mcpp accept") => tell(&clean(problem)),
            Some(problem) => bail!("it was fetched, but it does not load: {}", clean(problem)),
            None => {}
        }
        Ok(0)
    }
}
