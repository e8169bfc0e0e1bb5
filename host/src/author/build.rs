//! From a project's sources to its component, by the tools of its own language.

mod c;
mod go;
mod npm;
mod python;
mod rust;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use super::wit::imports;
use wasm_encoder::{ProducersField, ProducersSection, Section as _};

use super::{
    language::Language,
    project::{OUT, Project, ProjectError, WIT},
    step::Done,
    wit::World,
};
use crate::plain::docs;

/// The result of a build.
#[derive(Debug)]
pub struct Built {
    /// The component.
    pub component: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// The words of the tools although all is well: their warnings.
    pub said: String,
}

/// Why a build made nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProjectBuildError {
    /// The folder is no project.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// A tool is not there.
    #[error("`{program}` is not installed; {needs}")]
    Missing {
        /// The tool.
        program: String,
        /// The tool to install, or the command to type.
        needs: &'static str,
    },
    /// A tool could not be run.
    #[error("cannot run `{program}`")]
    Run {
        /// The tool.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A tool refused: mostly, the sources have an error.
    #[error("`{command}` failed")]
    Failed {
        /// The command that was run.
        command: String,
        /// The first error in the project's own files.
        first: Option<String>,
        /// All that it said.
        said: String,
    },
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The WIT, or what was made for it, is not right.
    #[error("{0:#}")]
    Wit(anyhow::Error),
    /// The tools ended well and left no component.
    #[error("the build made no component: {0}")]
    NoComponent(String),
}

/// Told of each step, in a few words.
pub type BuildProgress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The result of a language's steps.
struct BuildSteps {
    component: PathBuf,
    said: String,
}

/// Builds the component of a project.
pub async fn build(project: &Project, progress: BuildProgress<'_>) -> Result<Built, ProjectBuildError> {
    let started = Instant::now();
    let BuildSteps { component, said } = match project.language {
        Language::Rust => rust::build(project, progress).await?,
        Language::Javascript | Language::Typescript => npm::build(project, progress).await?,
        Language::Python => python::build(project, progress).await?,
        Language::C => c::build(project, progress).await?,
        Language::Go => go::build(project, progress).await?,
    };
    let missing = |error| ProjectBuildError::NoComponent(format!("{}: {error}", component.display()));
    let mut bytes = std::fs::metadata(&component).map_err(missing)?.len();
    if project.language != Language::Rust {
        bytes = document(project, &component)?;
    }
    Ok(Built { component, bytes, took: started.elapsed(), said })
}

/// Puts the doc comments of the project's WIT into its component, where they are the descriptions of its tools, and what it was written in; its size.
fn document(project: &Project, component: &Path) -> Result<u64, ProjectBuildError> {
    let failed = |source| ProjectBuildError::File { path: component.to_owned(), source };
    let plain = std::fs::read(component).map_err(failed)?;
    let documented = docs::embed(&plain, &project.folder.join(WIT));
    let mut documented = documented.map_err(|error| ProjectBuildError::Wit(error.into()))?;
    producers(project.language).append_to(&mut documented);
    std::fs::write(component, &documented).map_err(failed)?;
    Ok(u64::try_from(documented.len()).unwrap_or(u64::MAX))
}

/// Tool chains name the language of their engine, or none at all.
fn producers(language: Language) -> ProducersSection {
    let (mut written, mut built) = (ProducersField::new(), ProducersField::new());
    written.value(language.name(), "");
    built.value(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let mut producers = ProducersSection::new();
    producers.field("language", &written).field("processed-by", &built);
    producers
}

/// The world of a plain component, the folder for what is made, and where its component goes.
fn plain(project: &Project) -> Result<(World, PathBuf, PathBuf), ProjectBuildError> {
    let world = World::read(project).map_err(ProjectBuildError::Wit)?;
    let out = project.folder.join(OUT);
    std::fs::create_dir_all(&out).map_err(|source| ProjectBuildError::File { path: out.clone(), source })?;
    let component = out.join(format!("{}.wasm", world.component));
    Ok((world, out, component))
}

/// The words of several tools, in order.
fn said(done: impl IntoIterator<Item = Done>) -> String {
    done.into_iter().map(|done| done.said).collect()
}

impl ProjectBuildError {
    /// The error with all its sources, in one line.
    pub fn line(&self) -> String {
        crate::error::chain(self)
    }
}
