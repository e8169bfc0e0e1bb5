//! The service's information about itself.

use std::collections::BTreeSet;

use mcpp_tool::store::snapshot;
use serde_json::{Value, json};

use super::Reply;
use crate::{
    engine::{all_workers, clock, peers},
    queue::{counted, counted_by_type},
    record::{Status, seconds},
    statistics,
};

pub(super) fn status(detail: bool) -> Reply {
    let t = &snapshot()?;
    let workers = all_workers(t)?;
    let types: BTreeSet<&String> = workers.iter().flat_map(|worker| &worker.capabilities).collect();
    let mut status = json!({
        "capabilities": {
            "task_types": types,
            "models": [],
            "endpoints_by_model": {},
            "endpoint_types_by_model": {},
            "hwtest": {},
            "resource_keys": [],
        },
        "nat": { "autonat": { "supported": false, "status": "unavailable", "code": null } },
        "session": "",
    });
    if !detail {
        return Ok(status);
    }
    let (told, known_peers) = peers(t)?;
    let known: Vec<Value> = told
        .into_iter()
        .map(|(peer, seen)| {
            json!({
                "peer_id": peer, "last_seen": seconds(seen), "worker_id": null,
                "supported_task_types": null, "transport_peer_id": null, "peer_hint": null,
            })
        })
        .collect();
    let names: Vec<&String> = workers.iter().map(|worker| &worker.id).collect();
    let docker =
        workers.iter().filter(|worker| worker.capabilities.iter().any(|kind| kind.starts_with("docker."))).count();
    let (queued_by_type, all_queued) = counted_by_type(t, Status::Queued)?;
    let (running_by_type, all_running) = counted_by_type(t, Status::Running)?;
    let sections = json!({
        "queue": {
            "queued": counted(t, Status::Queued)?,
            "running": counted(t, Status::Running)?,
            "queued_by_type": queued_by_type,
            "running_by_type": running_by_type,
            // Ours beyond the protocol: there are more types than these.
            "has_more_types": !(all_queued && all_running),
            "store": statistics::store(t),
        },
        "scheduler": {
            "clock": clock(t)?,
            "counts": { "peers": known_peers, "workers": names.len(), "docker_workers": docker, "docker_workers_configured": docker },
            "known_peers": known,
            "known_workers": names,
        },
        "local_worker": { "enabled": false, "docker_enabled": false, "supported_task_types": [] },
        // Measured by the mesh, once there is one.
        "transport": { "mcp_p2p": { "stats": null } },
    });
    if let (Some(status), Some(fields)) = (status.as_object_mut(), sections.as_object()) {
        status.extend(fields.clone());
        status.insert("detail".into(), sections);
    }
    Ok(status)
}
