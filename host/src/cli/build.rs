//! `mcpp build`: a project's component, by its language's own tools.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{clean, print, print_json, remote::tell};
use crate::author::{
    build::{self, Built, ProjectBuildError},
    project::Project,
};

/// The sources have an error.
const FAILED: u8 = 1;
/// A tool that the build needs is not installed.
const MISSING: u8 = 3;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 built, 1 the build failed, 2 typed wrong, 3 a tool that the build needs is not installed."
)]
pub(super) struct Build {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print JSON: the component's path, its bytes, the seconds it took and the language
    #[arg(long)]
    json: bool,
}

impl Build {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let project = Project::find(&self.path)?;
        let built = tokio::select! {
            built = with_progress(&project) => built,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped; nothing was built"),
        };
        let built = match built {
            Ok(built) => built,
            Err(error) => {
                show_failure(&error);
                return Ok(if matches!(error, ProjectBuildError::Missing { .. }) { MISSING } else { FAILED });
            }
        };
        show(&built.said);
        if self.json {
            let (seconds, language) = (built.took.as_secs_f64(), project.language);
            print_json(
                &json!({ "component": built.component, "bytes": built.bytes, "seconds": seconds, "language": language }),
            )?;
        } else {
            print(&built.component.display().to_string())?;
        }
        Ok(0)
    }
}

/// Builds, and shows progress: a moving line on a terminal, a line for each step elsewhere.
pub(super) async fn with_progress(project: &Project) -> Result<Built, ProjectBuildError> {
    let started = Instant::now();
    if !std::io::stderr().is_terminal() {
        let step = |step: &str| {
            tell(&format!("building ({}, {:.1} s): {step}", project.language, started.elapsed().as_secs_f64()))
        };
        return build::build(project, &step).await;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} building: {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    let built = build::build(project, &|step| bar.set_message(step.to_owned())).await;
    bar.finish_and_clear();
    built
}

/// Shows a failure: the first error's place, then the tools' own words, then the step that failed.
pub(super) fn show_failure(error: &ProjectBuildError) {
    if let ProjectBuildError::Failed { first, said, .. } = error {
        if let Some(first) = first {
            tell(&clean(first));
        }
        show(said);
    }
    tell(&format!("error: {}", error.line()));
}

/// Shows the words of a build's tools as they are.
pub(super) fn show(said: &str) {
    let mut stderr = std::io::stderr().lock();
    let _nobody_may_read_it = stderr.write_all(said.as_bytes());
    if !said.is_empty() && !said.ends_with('\n') {
        let _nobody_may_read_it = stderr.write_all(b"\n");
    }
}
