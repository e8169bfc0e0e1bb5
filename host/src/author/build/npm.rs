//! JavaScript and TypeScript: npm installs, and the package's own `build` script makes `build/COMPONENT.wasm`.

use super::{BuildProgress, BuildSteps, ProjectBuildError, plain, said};
use crate::author::{
    project::Project,
    step::{BuildStep, Done},
};

const NEEDS: &str = "install Node.js 20 or newer, with npm";

pub(super) async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<BuildSteps, ProjectBuildError> {
    let (world, _, component) = plain(project)?;
    let installed = install(project, progress).await?;
    progress("npm run build");
    let npm = BuildStep::new("npm", &project.folder, NEEDS).environment("NO_UPDATE_NOTIFIER", "1");
    let built = npm.arguments(["run", "--silent", "build"]).run().await?;
    if !component.is_file() {
        let missing = format!("the script `build` in package.json did not write {}", component.display());
        return Err(ProjectBuildError::NoComponent(missing));
    }
    world.tidy(&component).map_err(|source| ProjectBuildError::File { path: component.clone(), source })?;
    Ok(BuildSteps { component, said: said([installed, built]) })
}

/// Installs into the project's folder, unless that was done after its package.json was changed the last time.
async fn install(project: &Project, progress: BuildProgress<'_>) -> Result<Done, ProjectBuildError> {
    let changed = |name: &str| std::fs::metadata(project.folder.join(name)).and_then(|meta| meta.modified()).ok();
    // npm writes this file at the end of an installation.
    if changed("node_modules/.package-lock.json") >= changed("package.json") {
        return Ok(Done::default());
    }
    progress("npm install");
    let quiet = ["install", "--no-audit", "--no-fund", "--loglevel=error"];
    BuildStep::new("npm", &project.folder, NEEDS).arguments(quiet).run().await
}
