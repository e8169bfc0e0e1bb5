//! The two tools that submit work for containers.

use std::collections::BTreeMap;

use mcpp_tool::tool;
use serde_json::{Map, Value, json};

use super::{
    PeerReply, answer,
    p2p::{Remote, ask, only},
};

/// A command line: one text, split at white space, or its words.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// One text.
    Line(String),
    /// The words themselves.
    Words(Vec<String>),
}

impl Words {
    fn words(self) -> Vec<String> {
        match self {
            Self::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
            Self::Words(words) => words,
        }
    }
}

/// Submits a task that runs a container image. It waits until a worker with docker claims it.
#[tool]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn p2p_taskqueue_submit_docker_hub(
    /// The image, such as `python:3.12-slim`.
    image: String,
    /// The command.
    #[arg(default)]
    command: Option<Words>,
    /// The entry point.
    #[arg(default)]
    entrypoint: Option<Words>,
    /// Environment variables.
    #[arg(default)]
    environment: Option<BTreeMap<String, String>>,
    /// The path in the container for each directory of the worker's host; `:ro` behind it lets the container only read.
    #[arg(default)]
    volumes: Option<BTreeMap<String, String>>,
    #[arg(flatten)] remote: Remote,
    /// More fields of the payload, such as `timeout` or `memory_limit`.
    #[arg(default)]
    extra: Option<Map<String, Value>>,
) -> PeerReply {
    if !is_image(&image) {
        return answer(
            json!({ "ok": false, "error": "invalid_image", "detail": format!("{image:?} is no image name") }),
        );
    }
    let own = json!({
        "image": image, "command": command.map(Words::words), "entrypoint": entrypoint.map(Words::words),
        "environment": environment, "volumes": volumes,
    });
    submit_docker("docker.execute", own, extra, remote.address())
}

/// Submits a task that builds a container image from a repository and runs it. It waits until a worker with docker claims it.
#[tool]
#[allow(clippy::too_many_arguments, reason = "the contract's parameters")]
pub fn p2p_taskqueue_submit_docker_github(
    /// The repository, as an `https:` URL.
    repo_url: String,
    /// The branch.
    #[arg(default = "main")]
    branch: String,
    /// The Dockerfile in the repository.
    #[arg(default = "Dockerfile")]
    dockerfile_path: String,
    /// The folder in the repository that is built.
    #[arg(default = ".")]
    context_path: String,
    /// The command.
    #[arg(default)]
    command: Option<Words>,
    /// The entry point.
    #[arg(default)]
    entrypoint: Option<Words>,
    /// Environment variables.
    #[arg(default)]
    environment: Option<BTreeMap<String, String>>,
    /// Arguments of the build.
    #[arg(default)]
    build_args: Option<BTreeMap<String, String>>,
    #[arg(flatten)] remote: Remote,
    /// More fields of the payload.
    #[arg(default)]
    extra: Option<Map<String, Value>>,
) -> PeerReply {
    let inside = |path: &str| !path.starts_with('/') && path.split('/').all(|part| part != "..");
    if !repo_url.starts_with("https://") || repo_url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return answer(
            json!({ "ok": false, "error": "invalid_repo_url", "detail": "the repository is an https: URL" }),
        );
    }
    if !inside(&dockerfile_path) || !inside(&context_path) || branch.is_empty() || branch.starts_with('-') {
        return answer(json!({ "ok": false, "error": "invalid_path", "detail": "paths stay in the repository" }));
    }
    let own = json!({
        "repo_url": repo_url, "branch": branch, "dockerfile_path": dockerfile_path, "context_path": context_path,
        "command": command.map(Words::words), "entrypoint": entrypoint.map(Words::words),
        "environment": environment, "build_args": build_args,
    });
    submit_docker("docker.github", own, extra, remote.address())
}

/// An image's name: nothing that a program could take for an option or a path.
fn is_image(image: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    (1..=255).contains(&image.len())
        && image.chars().all(legal)
        && image.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Submits a docker task with the fields that are named; the tool's own come before `extra`.
fn submit_docker(task_type: &str, own: Value, extra: Option<Map<String, Value>>, remote: [&str; 2]) -> PeerReply {
    let mut payload = extra.unwrap_or_default();
    let named = own.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    payload.extend(named.map(|(name, value)| (name.clone(), value.clone())));
    let request = json!({ "op": "submit", "task_type": task_type, "model_name": "docker", "payload": payload });
    only(ask(remote, request), &["task_id"])
}
