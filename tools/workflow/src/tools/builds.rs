//! `workflow_builds`: how many runs hold which builds.

use mcpp_tool::tool;
use serde_json::{Value, json};

use super::{Reply, read, settle};
use crate::engine;

/// Counts for each build of a component the unfinished runs that name it: those keep an older build callable. The host's pinned builds are among them.
#[tool(read_only)]
pub fn workflow_builds() -> Reply {
    let named = read(|t| Ok(engine::named_builds(t)?)).map(|named| {
        let builds: Vec<Value> = named
            .into_iter()
            .map(|((component, digest), runs)| json!({ "component": component, "digest": digest, "runs": runs }))
            .collect();
        json!({ "builds": builds })
    });
    settle(named, "")
}
