//! Peers that are connected and do nothing: the memory that each takes of the host.

use std::time::{Duration, Instant};

use mcpp::mesh::Mesh;

use crate::{caller::network, hosts::MeshedHost, print_row};

/// The time after which measured protocols and timers of new connections have come to rest.
const REST: Duration = Duration::from_secs(3);
/// Peers that connect at the same time.
const AT_ONCE: usize = 16;
/// How long the host's processor time for idle peers is counted.
const LOOK: Duration = Duration::from_secs(10);

pub(crate) async fn measure(transport: &str, peers: usize) {
    let bounds = format!("max_connections = {0}\nmax_strangers = {0}\nmax_per_range = {0}", peers + 64);
    let host = MeshedHost::start(&bounds, false).await;
    let address = host.address(transport);
    // The first connections make what all others share.
    let mut connected: Vec<Mesh> = connect(AT_ONCE, &address).await;
    tokio::time::sleep(REST).await;
    let (before, started) = (host.server.resident_bytes(), Instant::now());
    while connected.len() < peers + AT_ONCE {
        connected.extend(connect(AT_ONCE.min(peers + AT_ONCE - connected.len()), &address).await);
    }
    let took = started.elapsed();
    tokio::time::sleep(REST).await;
    let open = connected.iter().filter(|mesh| !mesh.peers().is_empty()).count();
    assert_eq!(open, peers + AT_ONCE, "connections that are open");
    let bytes = (host.server.resident_bytes() - before) / peers as f64;
    let what = format!("{peers} idle peers, {transport}");
    print_row(format!("{what}: memory of each"), bytes / 1024.0, "KiB");
    print_row(format!("{what}: connected and at rest a second"), peers as f64 / took.as_secs_f64(), "/s");
    let cpu = host.server.cpu();
    tokio::time::sleep(LOOK).await;
    let cpu = (host.server.cpu() - cpu).as_secs_f64() / LOOK.as_secs_f64();
    print_row(format!("{what}: CPU of the host"), cpu * 100.0, "%");
}

async fn connect(count: usize, address: &str) -> Vec<Mesh> {
    let each = (0..count).map(|_| async {
        let mesh = network().await;
        mesh.connect(address, Duration::from_secs(30)).await.expect("connected");
        mesh
    });
    futures::future::join_all(each).await
}
