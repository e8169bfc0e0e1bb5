//! Rust: cargo, for `wasm32-wasip2`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{BuildProgress, BuildSteps, ProjectBuildError};
use crate::author::{project::Project, sdk, step::BuildStep};

const TARGET: &str = "wasm32-wasip2";
const NEEDS: &str = "install Rust 1.95 or newer";
const NEEDS_TARGET: &str = "type `rustup target add wasm32-wasip2`; without rustup, type `bash .mcpp/sdk/tool-sdk/guest-target.sh .mcpp/guest-toolchain` in the project's folder";
/// The variable that names a folder with the toolchain of `guest-target.sh`, for all projects.
const TOOLCHAIN: &str = "MCPP_GUEST_TOOLCHAIN";
/// Where that toolchain is in a project, and in a checkout.
const OWN_TOOLCHAIN: &str = ".mcpp/guest-toolchain";
const CHECKOUT_TOOLCHAIN: &str = "target/guest-toolchain";

pub(super) async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<BuildSteps, ProjectBuildError> {
    let build = ["build", "--quiet", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"];
    sdk::refresh(&project.folder).map_err(ProjectBuildError::Wit)?;
    let cargo = match guest_toolchain(project).await? {
        None => BuildStep::new("cargo", &project.folder, NEEDS),
        // It is a shell's file, as it extends what is set already.
        Some(environment) => BuildStep::new("bash", &project.folder, NEEDS)
            .arguments(["-c", ". \"$0\" && exec cargo \"$@\""])
            .arguments([environment]),
    };
    progress("cargo build");
    let done = cargo.arguments(build).named("cargo build").with_data().run().await?;
    let component = artifact(&done.data).ok_or_else(|| {
        ProjectBuildError::NoComponent(
            "the package has no library with `crate-type = [\"cdylib\"]` in Cargo.toml".into(),
        )
    })?;
    Ok(BuildSteps { component, said: done.said })
}

/// The environment for cargo, if this Rust has no such target and `guest-target.sh` made one: for all projects, for this one, or for the checkout with the SDK.
async fn guest_toolchain(project: &Project) -> Result<Option<PathBuf>, ProjectBuildError> {
    let print = ["--print", "target-libdir", "--target", TARGET];
    let library = BuildStep::new("rustc", &project.folder, NEEDS).arguments(print).with_data().run().await?;
    let has_std = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("libstd-");
    if std::fs::read_dir(library.data.trim()).is_ok_and(|entries| entries.flatten().any(has_std)) {
        return Ok(None);
    }
    let named = std::env::var_os(TOOLCHAIN).map(PathBuf::from);
    let known = [named, Some(project.folder.join(OWN_TOOLCHAIN))].into_iter().flatten();
    if let Some(environment) = known.filter_map(environment).next() {
        return Ok(Some(environment));
    }
    // Without the filter cargo would ask for crates of every other platform too.
    let describe = ["metadata", "--format-version", "1", "--filter-platform", "wasm32-wasip2"];
    let metadata = BuildStep::new("cargo", &project.folder, NEEDS).arguments(describe).with_data().run().await?;
    let checkout = manifest_of_sdk(&metadata.data).and_then(|sdk| Some(sdk.parent()?.parent()?.to_owned()));
    match checkout.and_then(|checkout| environment(checkout.join(CHECKOUT_TOOLCHAIN))) {
        Some(environment) => Ok(Some(environment)),
        None => Err(ProjectBuildError::Missing { program: format!("the Rust target {TARGET}"), needs: NEEDS_TARGET }),
    }
}

/// The file that sets a toolchain's environment, if there is one in this folder.
fn environment(toolchain: PathBuf) -> Option<PathBuf> {
    let file = toolchain.join("guest-env.sh");
    std::fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(file)
}

/// The manifest of the SDK that the package depends on.
fn manifest_of_sdk(metadata: &str) -> Option<PathBuf> {
    let metadata: Value = serde_json::from_str(metadata).ok()?;
    let packages = metadata.get("packages")?.as_array()?;
    let sdk = packages.iter().find(|package| package.get("name").is_some_and(|name| name == "mcpp-tool"))?;
    Some(Path::new(sdk.get("manifest_path")?.as_str()?).to_owned())
}

/// The component among cargo's messages: the last one, as the package's own comes after its dependencies.
fn artifact(messages: &str) -> Option<PathBuf> {
    let mut files = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?;
        let mut files = files.iter().filter_map(Value::as_str);
        files.find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    });
    files.next_back()
}
