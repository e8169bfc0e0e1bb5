//! `mcpp inspect`: the parts of a component, its powers, its least grant and its tools, before any host loads it.

mod page;
mod schema;

use std::path::PathBuf;

use clap::Args;

use super::{clean, print, print_json};
use crate::inspect::inspect;

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The component
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the whole WIT of its world, and nothing else
    #[arg(long, conflicts_with = "json")]
    wit: bool,
}

impl Inspect {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let explanation = inspect(&self.file).await?;
        match &explanation.world {
            _ if self.json => print_json(&explanation)?,
            _ if !self.wit => print(&page::page(&explanation))?,
            Ok(world) if !world.cut => print(&clean(&world.wit))?,
            Ok(world) => anyhow::bail!("the WIT has more than {} bytes", world.wit.len()),
            Err(reason) => anyhow::bail!("its world cannot be told in WIT: {}", clean(reason)),
        }
        Ok(u8::from(!explanation.loads()))
    }
}
