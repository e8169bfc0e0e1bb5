//! Python: componentize-py from the project's `.venv`; and that folder for whoever needs a tool from PyPI.

use std::path::PathBuf;

use super::{BuildProgress, BuildSteps, ProjectBuildError, plain, said};
use crate::author::{
    project::Project,
    step::{BuildStep, Done},
};

const NEEDS: &str = "install Python 3.10 or newer, with venv";
/// The file with the packages that a project needs.
const REQUIREMENTS: &str = "requirements.txt";
/// The folder that its requirements are installed into.
const VENV: &str = ".venv";
/// The module that implements the world.
const MODULE: &str = "app";

pub(super) async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<BuildSteps, ProjectBuildError> {
    let (world, _, component) = plain(project)?;
    let (programs, installed) = install(project, progress).await?;
    progress("componentize-py");
    let built =
        BuildStep::new(programs.join("componentize-py"), &project.folder, "add componentize-py to requirements.txt")
            .arguments(["--wit-path", "wit", "--world", &world.name, "componentize", MODULE, "--output"])
            .arguments([&component])
            .run()
            .await?;
    world.tidy(&component).map_err(|source| ProjectBuildError::File { path: component.clone(), source })?;
    // It tells of its success, and nobody asked.
    Ok(BuildSteps {
        component,
        said: said(installed.into_iter().chain([Done { said: warnings(&built.said), ..built }])),
    })
}

fn warnings(said: &str) -> String {
    said.lines().filter(|line| *line != "Component built successfully").map(|line| format!("{line}\n")).collect()
}

/// The programs of the project's own environment, with all in it that it asks for.
pub(super) async fn install(
    project: &Project,
    progress: BuildProgress<'_>,
) -> Result<(PathBuf, Vec<Done>), ProjectBuildError> {
    let folder = &project.folder;
    let (programs, asked) = (folder.join(VENV).join("bin"), folder.join(REQUIREMENTS));
    let requirements =
        std::fs::read(&asked).map_err(|source| ProjectBuildError::File { path: asked.clone(), source })?;
    let noted = folder.join(VENV).join("installed-requirements.txt");
    if std::fs::read(&noted).is_ok_and(|installed| installed == requirements) {
        return Ok((programs, Vec::new()));
    }
    progress("pip install");
    let made = BuildStep::new("python3", folder, NEEDS).arguments(["-m", "venv", VENV]).run().await?;
    let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", REQUIREMENTS];
    let installed = BuildStep::new(programs.join("python"), folder, NEEDS).arguments(quiet).run().await?;
    std::fs::write(&noted, requirements).map_err(|source| ProjectBuildError::File { path: noted, source })?;
    Ok((programs, vec![made, installed]))
}
