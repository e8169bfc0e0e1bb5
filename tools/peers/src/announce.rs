//! This host's own files for other programs: the announce file of the task queue, and its record among the peer files. Written in each round, if the operator's settings name them.

use std::{fs, io::Write as _, path::Path};

use mcpp_tool::{config, environment::rfc3339, log, mesh::ThisHost};
use serde_json::json;

use crate::{
    address::{port_of, with_peer},
    sources,
};

/// The setting with the path of the announce file; `0` for none.
const ANNOUNCE_FILE: &str = "IPFS_ACCELERATE_PY_TASK_P2P_ANNOUNCE_FILE";
/// The setting with this host's name among the peer files.
const RUNNER: &str = "RUNNER_NAME";
/// The setting with this host's address; the mesh's first one without it.
const ADDRESS: &str = "multiaddr";

/// Writes this host's files. What cannot be written is told in the log, and is no error: others may have better ways to this host.
pub fn write(host: &ThisHost, now_ms: u64) {
    let Some(address) = own_address(host) else { return };
    let announced = json!({ "peer_id": host.id, "multiaddr": address });
    if let Some(path) = config::get(ANNOUNCE_FILE).filter(|path| !path.is_empty() && path != "0") {
        put(Path::new(&path), &announced.to_string());
    }
    let Some(runner) = config::get(RUNNER).filter(|name| is_name(name)) else { return };
    let folder = sources::directory();
    if fs::metadata(&folder).is_ok_and(|known| known.is_dir()) {
        let record = json!({
            "last_seen": rfc3339(now_ms), "listen_port": port_of(&address), "metadata": { "program": "mcpp" },
            "multiaddr": address, "peer_id": host.id, "public_ip": null, "runner_name": runner,
        });
        let text = serde_json::to_string_pretty(&record).unwrap_or_default();
        put(&Path::new(&folder).join(format!("peer_{runner}.json")), &text);
    }
}

fn own_address(host: &ThisHost) -> Option<String> {
    let address = config::get(ADDRESS).or_else(|| host.addresses.first().cloned())?;
    Some(with_peer(&address, &host.id))
}

/// Whether a name can stand in the name of a file.
fn is_name(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=100).contains(&name.len()) && name.chars().all(is_legal)
}

/// Writes a file in one piece: readers see the old one or the new one.
fn put(path: &Path, text: &str) {
    let part = path.with_extension("part");
    let written = fs::File::create(&part).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written.and_then(|()| fs::rename(&part, path)) {
        log::warning(format!(
            "{} cannot be written: {error}; the grant's `files` must let the component write there",
            path.display()
        ));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(path: &Path) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    #[test]
    fn this_hosts_files_are_what_other_programs_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let host = ThisHost { id: "12D3me".into(), addresses: vec!["/ip4/192.0.2.1/tcp/9710".into()] };
        config::memory::clear();
        write(&host, 0);
        config::memory::set("IPFS_ACCELERATE_P2P_CACHE_DIR", &folder.path().display().to_string());
        config::memory::set(ANNOUNCE_FILE, "0");
        fs::create_dir(path("peer_x")).expect("made");
        config::memory::set(RUNNER, "x/../outside");
        write(&host, 0);
        fs::remove_dir(path("peer_x")).expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0, "nothing is written that no setting names");
        config::memory::set(ANNOUNCE_FILE, &path("announce.json").display().to_string());
        config::memory::set(RUNNER, "one");
        write(&host, 1_795_253_400_125);
        assert_eq!(
            read(&path("announce.json")),
            Some(json!({ "peer_id": "12D3me", "multiaddr": "/ip4/192.0.2.1/tcp/9710/p2p/12D3me" }))
        );
        let record = read(&path("peer_one.json")).expect("a record");
        assert_eq!((&record["last_seen"], &record["listen_port"]), (&json!("2026-11-21T09:30:00.125Z"), &json!(9710)));
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 2, "and no half of a file");
        config::memory::set(ADDRESS, "/dns4/a.example/tcp/1/p2p/12D3me");
        write(&host, 0);
        assert_eq!(read(&path("announce.json")).expect("there")["multiaddr"], "/dns4/a.example/tcp/1/p2p/12D3me");
    }
}
