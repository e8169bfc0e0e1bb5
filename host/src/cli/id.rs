//! `mcpp id`: who this host is to others.

use clap::Args;
use serde_json::json;

use super::{Data, print, print_json};
use crate::mesh::Identity;

/// Print the id that peers know this host by. The key is made if there is none yet.
#[derive(Debug, Args)]
pub(super) struct IdArgs {
    #[command(flatten)]
    data: Data,
}

impl IdArgs {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let folder = self.data.homes()?.data().join("mesh");
        let peer = Identity::open(&folder)?.peer();
        if self.data.json {
            print_json(&json!({ "peer": peer }))?
        } else {
            print(peer.as_str())?
        }
        Ok(0)
    }
}
