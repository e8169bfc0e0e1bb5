//! The cost of a tool in one language: to build, to keep and to call.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    client::{Client, Era},
    print_row,
    project::{Language, Project},
    server::Server,
};

/// Starts of a host, for the first call on each.
const STARTS: usize = 5;
/// Calls that are timed, after a tenth as many that are not.
const CALLS: usize = 1_000;
/// Builds after the first, of another text each.
const BUILDS: usize = 3;

pub(crate) async fn measure(language: &Language) {
    let name = language.name;
    let project = Project::new(language);
    let installing = Instant::now();
    if let Err(reason) = project.build() {
        return print_row(name, Err(&reason), "");
    }
    print_row(
        &format!("{name}: first build, installation counted"),
        Ok(&mut [installing.elapsed().as_secs_f64()]),
        "s",
    );
    project.clean();
    let first = project.build().expect("it was built before");
    print_row(&format!("{name}: first build, all installed"), Ok(&mut [first.seconds]), "s");
    let mut again = Vec::new();
    for round in 0..BUILDS {
        project.save(&format!("Hello {round}, "));
        again.push(project.build().expect("it was built before").seconds);
    }
    print_row(&format!("{name}: build after a change"), Ok(&mut again), "s");
    project.save("Hello, ");
    let built = project.build().expect("it was built before");
    let wasm = std::fs::read(&built.component).expect("a component");
    print_row(&format!("{name}: component"), Ok(&mut [wasm.len() as f64 / 1024.0]), "KiB");
    calls(name, &project, &wasm).await;
}

async fn calls(name: &str, project: &Project, wasm: &[u8]) {
    let arguments = json!({ "name": "World" });
    let mut server = Server::mcpp(&[("hello", wasm)]).await;
    let mut first = Vec::new();
    for _ in 0..STARTS {
        // The host has compiled it in the start before; the client has an open connection from a look at something else.
        server = Server::mcpp_in(server.stop()).await;
        let client = Client::connect(server.url(), Era::Modern).await;
        while client.call("text_statistics", &json!({ "text": "x" })).await.get("error").is_some() {}
        while !listed(&client, project.tool()).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let started = Instant::now();
        let answer = client.call(project.tool(), &arguments).await;
        first.push(started.elapsed().as_secs_f64() * 1e3);
        assert!(answer.to_string().contains("Hello, World!"), "{name}: {answer}");
    }
    print_row(&format!("{name}: first call after a start"), Ok(&mut first), "ms");
    let client = Client::connect(server.url(), Era::Modern).await;
    let mut fresh = steady(&client, project.tool()).await;
    print_row(&format!("{name}: call, one after the other"), Ok(&mut fresh), "ms");
    let cost = client.cost(project.tool(), &arguments).await;
    let memory = cost["memory_bytes"].as_f64().expect("a number") / 1024.0;
    print_row(&format!("{name}: memory of an instance"), Ok(&mut [memory]), "KiB");
    let folder = server.stop();
    let grants = folder.path().join("data/grants");
    std::fs::create_dir_all(&grants).expect("made");
    std::fs::write(grants.join("hello.toml"), "version = 1\nreuse = {}\n").expect("written");
    let server = Server::mcpp_in(folder).await;
    let client = Client::connect(server.url(), Era::Modern).await;
    while !listed(&client, project.tool()).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut reused = steady(&client, project.tool()).await;
    print_row(&format!("{name}: call, instance used again"), Ok(&mut reused), "ms");
}

/// The times of calls that follow one another, in milliseconds.
async fn steady(client: &Client, tool: &str) -> Vec<f64> {
    let mut times = Vec::new();
    for round in 0..CALLS + CALLS / 10 {
        let started = Instant::now();
        client.call(tool, &json!({ "name": "World" })).await;
        if round >= CALLS / 10 {
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
    }
    times
}

/// Whether a tool is there, without calling it.
async fn listed(client: &Client, tool: &str) -> bool {
    client.list().await.to_string().contains(&format!("\"name\":\"{tool}\""))
}
