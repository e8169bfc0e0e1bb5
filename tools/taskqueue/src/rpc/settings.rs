//! The operation `configure`: it sets what the MCP++ programs take from environment variables. A peer may not: it could stop the queue, or have the operator's results forgotten.

use mcpp_tool::{environment::now_ms, store::transact};
use serde_json::json;

use super::{Failure, Reply, fields::Request};
use crate::{
    engine::QueueError,
    origin,
    queue::{set_settings, settings},
    record::{Aging, seconds},
};

/// Sets the named settings. Gives the settings then in force.
pub(super) fn configure(request: &Request<'_>) -> Reply {
    if origin::peer().is_some() {
        return Err(Failure {
            error: "unauthorized",
            detail: Some(
                "`configure` is for callers of this host; a peer's right to call `task_queue.rpc` does not include it"
                    .into(),
            ),
        });
    }
    let keep_ms = request.number(&["keep_s"])?.map(|seconds| (seconds.max(0.0) * 1_000.0) as u64);
    let keep_tasks = request.whole(&["keep_tasks"])?;
    let (peer_tasks, peer_mib) = (request.whole(&["peer_tasks"])?, request.whole(&["peer_mib"])?);
    let (age_s, now) = (request.number(&["age_s"])?, now_ms());
    let [deterministic, tools, cache] =
        [request.flag("deterministic")?, request.flag("tools")?, request.flag("cache")?];
    let settings = transact(|t| {
        let mut settings = settings(t)?;
        settings.deterministic = deterministic.unwrap_or(settings.deterministic);
        settings.tools_enabled = tools.unwrap_or(settings.tools_enabled);
        settings.cache_enabled = cache.unwrap_or(settings.cache_enabled);
        match age_s {
            Some(age_s) if age_s > 0.0 => {
                let step_ms = (age_s * 1_000.0) as u64;
                settings.aging = settings.aging.filter(|aging| aging.step_ms == step_ms);
                settings.aging.get_or_insert(Aging { since_ms: now, step_ms });
            }
            Some(_) => settings.aging = None,
            None => {}
        }
        settings.keep_ms = keep_ms.unwrap_or(settings.keep_ms);
        settings.keep_tasks = keep_tasks.unwrap_or(settings.keep_tasks);
        settings.peer_tasks = peer_tasks.unwrap_or(settings.peer_tasks);
        settings.peer_mib = peer_mib.unwrap_or(settings.peer_mib);
        set_settings(t, &settings)?;
        Ok::<_, QueueError>(settings)
    })?;
    Ok(json!({
        "deterministic": settings.deterministic,
        "tools": settings.tools_enabled,
        "cache": settings.cache_enabled,
        "age_s": settings.aging.map(|aging| seconds(aging.step_ms)),
        "keep_s": seconds(settings.keep_ms),
        "keep_tasks": settings.keep_tasks,
        "peer_tasks": settings.peer_tasks,
        "peer_mib": settings.peer_mib,
    }))
}
