//! The kind of a project, detected from its files: an author writes no manifest of ours.

use std::path::{Path, PathBuf};

use super::language::Language;

/// The folder of a plain component's WIT.
pub(super) const WIT: &str = "wit";
/// Where a build leaves what it makes, in languages whose tools have no place of their own.
pub(super) const OUT: &str = "build";

/// A folder with the sources of one component.
#[derive(Debug, Clone)]
pub struct Project {
    /// The folder, as an absolute path.
    pub folder: PathBuf,
    /// The language it is written in.
    pub language: Language,
}

/// Why a folder is no project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// It is not there.
    #[error("cannot look into {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nothing in it says what it is.
    #[error(
        "{0} is no project: it has no Cargo.toml, package.json or go.mod, nor a `wit` folder beside Python or C sources; `mcpp new` makes one"
    )]
    Unknown(PathBuf),
}

impl Project {
    /// The project in `path`.
    pub fn find(path: &Path) -> Result<Self, ProjectError> {
        let failed = |source| ProjectError::Folder { path: path.to_owned(), source };
        let folder = path.canonicalize().map_err(failed)?;
        std::fs::read_dir(&folder).map_err(failed)?;
        let language = language(&folder).ok_or_else(|| ProjectError::Unknown(path.to_owned()))?;
        Ok(Self { folder, language })
    }

    /// Its sources with one of these extensions, in its folder and in `src`, sorted.
    pub(super) fn sources(&self, extensions: &[&str]) -> Vec<PathBuf> {
        sources(&self.folder, extensions)
    }
}

fn language(folder: &Path) -> Option<Language> {
    let has = |name: &str| folder.join(name).exists();
    if has("Cargo.toml") {
        return Some(Language::Rust);
    }
    if has("go.mod") {
        return Some(Language::Go);
    }
    if has("package.json") {
        let typed = has("tsconfig.json") || !sources(folder, &["ts"]).is_empty();
        return Some(if typed { Language::Typescript } else { Language::Javascript });
    }
    if !has(WIT) {
        return None;
    }
    let with = |extension: &str| !sources(folder, &[extension]).is_empty();
    if with("py") {
        return Some(Language::Python);
    }
    with("c").then_some(Language::C)
}

fn sources(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let folders = [folder.to_owned(), folder.join("src")];
    let entries = folders.iter().flat_map(std::fs::read_dir).flatten().flatten().map(|entry| entry.path());
    let wanted =
        |path: &PathBuf| path.extension().is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted));
    let mut found: Vec<PathBuf> = entries.filter(wanted).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_say_what_a_project_is() {
        for (files, expected) in [
            (&["Cargo.toml", "package.json"][..], Some(Language::Rust)),
            (&["go.mod"], Some(Language::Go)),
            (&["package.json"], Some(Language::Javascript)),
            (&["package.json", "src/tool.ts"], Some(Language::Typescript)),
            (&["package.json", "tsconfig.json"], Some(Language::Typescript)),
            (&["wit/world.wit", "app.py"], Some(Language::Python)),
            (&["wit/world.wit", "src/tool.c"], Some(Language::C)),
            (&["app.py"], None),
            (&["wit/world.wit"], None),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            for file in files {
                let path = folder.path().join(file);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, "").expect("written");
            }
            let found = Project::find(folder.path());
            assert_eq!(found.ok().map(|project| project.language), expected, "{files:?}");
        }
        assert!(matches!(Project::find(Path::new("/no/such/folder")), Err(ProjectError::Folder { .. })));
    }
}
