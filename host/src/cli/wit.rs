//! `mcpp wit`: the contract with components, from the program itself.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::print;

/// The packages: folder, file, text. Of the standard ones those that are drafts, and what ours use: the others every tool chain has.
const PACKAGES: [(&str, &str, &str); 17] = [
    ("mcpp-tool", "tool.wit", include_str!("../../../wit/tool/tool.wit")),
    ("mcpp-primitives", "primitives.wit", include_str!("../../../wit/primitives/primitives.wit")),
    ("mcpp-endpoint", "endpoint.wit", include_str!("../../../wit/endpoint/endpoint.wit")),
    ("mcpp-client", "client.wit", include_str!("../../../wit/client/client.wit")),
    ("mcpp-delegation", "delegation.wit", include_str!("../../../wit/delegation/delegation.wit")),
    ("mcpp-store", "store.wit", include_str!("../../../wit/store/store.wit")),
    ("mcpp-events", "events.wit", include_str!("../../../wit/events/events.wit")),
    ("mcpp-mesh", "mesh.wit", include_str!("../../../wit/mesh/mesh.wit")),
    ("mcpp-container", "container.wit", include_str!("../../../wit/container/container.wit")),
    ("mcpp-batch", "batch.wit", include_str!("../../../wit/batch/batch.wit")),
    ("mcpp-hooks", "hooks.wit", include_str!("../../../wit/hooks/hooks.wit")),
    ("mcpp-tasks", "tasks.wit", include_str!("../../../wit/tasks/tasks.wit")),
    ("mcpp-cancellation", "cancellation.wit", include_str!("../../../wit/cancellation/cancellation.wit")),
    ("wasi-io", "io.wit", include_str!("../../../wit/wasi/io/io.wit")),
    ("wasi-keyvalue", "keyvalue.wit", include_str!("../../../wit/wasi-keyvalue/keyvalue.wit")),
    ("wasi-config", "config.wit", include_str!("../../../wit/wasi-config/config.wit")),
    ("wasi-logging", "logging.wit", include_str!("../../../wit/wasi-logging/logging.wit")),
];

#[derive(Debug, Args)]
pub(super) struct Wit {
    /// Write each package to a folder of its own below this one (as the `deps` of a WIT folder), instead of printing them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Wit {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let Some(out) = self.out else {
            return PACKAGES.iter().try_for_each(|(_, _, text)| print(text)).map(|()| 0);
        };
        for (package, file, text) in PACKAGES {
            let folder = out.join(package);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            print(&path.display().to_string())?;
        }
        Ok(0)
    }
}
