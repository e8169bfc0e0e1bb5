//! Save and it serves, whatever becomes of the folder: made anew, renamed, a link that is swapped, links to builds elsewhere.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::{
    support::{TestHost, folder},
    swap::{serves, version},
};

async fn watched(host: &TestHost) {
    host.until("the folder is watched", async |host| !host.problems().contains("is not watched")).await;
}

fn save(folder: &Path, version_: u32) {
    fs::write(folder.join("v.wasm"), version(version_)).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_removed_and_made_anew_is_watched_again() {
    let host = TestHost::start(&[("v", &version(1))]).await;
    let tools = host.tools_folder();
    fs::remove_dir_all(&tools).expect("removed");
    host.until("it is gone, and said to be", async |host| {
        host.tools().await.is_empty() && host.problems().contains("is not watched")
    })
    .await;
    fs::create_dir(&tools).expect("made");
    save(&tools, 2);
    serves(&host, 2).await;
    watched(&host).await;
    // Later saves are noticed too.
    save(&tools, 3);
    serves(&host, 3).await;
    // At once, so that nobody saw it gone.
    fs::remove_dir_all(&tools).expect("removed");
    fs::create_dir(&tools).expect("made");
    save(&tools, 4);
    serves(&host, 4).await;
    watched(&host).await;
    save(&tools, 5);
    serves(&host, 5).await;
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_renamed_leaves_its_place_to_the_next() {
    let host = TestHost::start(&[("v", &version(1))]).await;
    let (tools, old, new) = (host.tools_folder(), host.folder.path().join("old"), host.folder.path().join("new"));
    fs::create_dir(&new).expect("made");
    save(&new, 2);
    fs::rename(&tools, &old).expect("moved");
    fs::rename(&new, &tools).expect("moved");
    serves(&host, 2).await;
    // The old one is nobody's any more.
    save(&old, 9);
    save(&tools, 3);
    serves(&host, 3).await;
    // A reload mends the watch, too.
    fs::rename(&tools, &new).expect("moved");
    fs::rename(&old, &tools).expect("moved");
    let report = host.host.reload().await.expect("reloaded");
    assert!(report.loaded.contains("v") || report.unchanged.contains("v"), "{report:?}");
    serves(&host, 9).await;
    save(&tools, 10);
    serves(&host, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_a_link_may_be_swapped() {
    let files = folder(&[]);
    let root = files.path().to_owned();
    fs::remove_dir(root.join("tools")).expect("removed");
    for n in [1, 2] {
        fs::create_dir(root.join(format!("release-{n}"))).expect("made");
        save(&root.join(format!("release-{n}")), n);
    }
    symlink("release-1", root.join("tools")).expect("linked");
    let host = TestHost::start_with(files, |_| {}).await;
    serves(&host, 1).await;
    symlink("release-2", root.join("next")).expect("linked");
    fs::rename(root.join("next"), root.join("tools")).expect("swapped");
    serves(&host, 2).await;
    save(&root.join("release-2"), 3);
    serves(&host, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_within_a_folder_are_followed_as_a_cluster_swaps_them() {
    let host = TestHost::start(&[]).await;
    let tools = host.tools_folder();
    let publish = |n: u32| {
        let data = tools.join(format!("..data-{n}"));
        fs::create_dir(&data).expect("made");
        save(&data, n);
        symlink(format!("..data-{n}"), tools.join("..data_tmp")).expect("linked");
        fs::rename(tools.join("..data_tmp"), tools.join("..data")).expect("swapped");
    };
    publish(1);
    symlink("..data/v.wasm", tools.join("v.wasm")).expect("linked");
    serves(&host, 1).await;
    for n in [2, 3] {
        publish(n);
        serves(&host, n).await;
    }
    assert_eq!(host.problems(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_a_build_serves_what_is_built() {
    let host = TestHost::start(&[]).await;
    let (target, tools) = (host.folder.path().join("target"), host.tools_folder());
    fs::create_dir(&target).expect("made");
    save(&target, 1);
    symlink(target.join("v.wasm"), tools.join("v.wasm")).expect("linked");
    serves(&host, 1).await;
    for n in [2, 3] {
        save(&target, n);
        serves(&host, n).await;
    }
    // A build that removes what it makes first.
    fs::remove_file(target.join("v.wasm")).expect("removed");
    host.until("it is gone", async |host| host.tools().await.is_empty()).await;
    save(&target, 4);
    serves(&host, 4).await;
}
