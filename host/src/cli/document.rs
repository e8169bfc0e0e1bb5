//! `mcpp document`: the doc comments of a WIT package, put into a component that was built from it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::print;
use crate::plain::docs;

#[derive(Debug, Args)]
pub(super) struct Document {
    /// The component
    component: PathBuf,
    /// Its WIT: a file, or a folder with its `deps`
    #[arg(long, value_name = "PATH")]
    wit: PathBuf,
    /// Where to write the documented component, if not over the old one
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Document {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let wasm =
            std::fs::read(&self.component).with_context(|| format!("cannot read {}", self.component.display()))?;
        let documented = docs::embed(&wasm, &self.wit).with_context(|| self.component.display().to_string())?;
        let out = self.out.unwrap_or(self.component);
        std::fs::write(&out, &documented).with_context(|| format!("cannot write {}", out.display()))?;
        print(&out.display().to_string())?;
        Ok(0)
    }
}
