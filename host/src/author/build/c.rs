//! C: bindings from the WIT, `zig cc` for a core module, and the way from there to a component. Nothing but the compiler is the author's to have.

use std::path::Path;

use super::{BuildProgress, BuildSteps, ProjectBuildError, plain, python, said};
use crate::author::{project::Project, step::BuildStep};

const NEEDS: &str = "install zig, or let requirements.txt name ziglang";

/// The stack in a component's memory, in bytes.
const STACK_BYTES: u32 = 256 << 10;

pub(super) async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<BuildSteps, ProjectBuildError> {
    let (world, out, component) = plain(project)?;
    let generated = out.join("bindings");
    let bindings =
        world.bindings(wit_bindgen_c::Opts::default().build(), &generated, &[]).map_err(ProjectBuildError::Wit)?;
    let (zig, installed) = if on_path("zig") {
        (BuildStep::new("zig", &project.folder, NEEDS), Vec::new())
    } else {
        let (programs, installed) = python::install(project, progress).await?;
        (BuildStep::new(programs.join("python"), &project.folder, NEEDS).arguments(["-m", "ziglang"]), installed)
    };
    progress("zig cc");
    let core = out.join("core.wasm");
    let sources = project.sources(&["c"]).into_iter().filter(|source| !is_test(source));
    // Named as they stand in the project, so that errors are.
    let sources = sources.map(|source| source.strip_prefix(&project.folder).map(Path::to_owned).unwrap_or(source));
    let compiled = zig
        .arguments(["cc", "-target", "wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-I."])
        // Its own default is 16 MiB, which every instance would take.
        .arguments([format!("-Wl,-z,stack-size={STACK_BYTES}")])
        .arguments([format!("-I{}", generated.display())])
        .arguments(sources)
        .arguments(bindings.into_iter().filter(|file| file.extension().is_some_and(|kind| kind == "c" || kind == "o")))
        .arguments(["-o".as_ref(), core.as_os_str()])
        .named("zig cc")
        .run()
        .await?;
    world.componentize(&core, &component).map_err(ProjectBuildError::Wit)?;
    Ok(BuildSteps { component, said: said(installed.into_iter().chain([compiled])) })
}

/// Tests have a `main` of their own.
fn is_test(source: &Path) -> bool {
    source.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with("test"))
}

/// Whether the shell would find a program.
pub(super) fn on_path(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(program).is_file())
}
