//! New projects: the templates of `tool-sdk/templates`, which are in this program.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{language::Language, sdk};

/// The longest name, as a component's.
const MAX_NAME: usize = 64;

/// One file of a template: where it goes, and its text.
type TemplateFile = (&'static str, &'static str);

/// The files of one template, named once.
macro_rules! template {
    ($language:literal: $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../../../tool-sdk/templates/", $language, "/", $file)))),+]
    };
}

const RUST: &[TemplateFile] = template!("rust": "Cargo.toml", "README.md", "src/lib.rs");
const JAVASCRIPT: &[TemplateFile] =
    template!("javascript": "package.json", "README.md", "wit/world.wit", "src/tool.js", "test/tool.test.js");
const TYPESCRIPT: &[TemplateFile] = template!(
    "typescript": "package.json", "tsconfig.json", "README.md", "wit/world.wit", "src/tool.ts", "test/tool.test.js"
);
const PYTHON: &[TemplateFile] = template!(
    "python": "requirements.txt", "README.md", "wit/world.wit", "app.py", "greeting.py", "test_greeting.py"
);
const C: &[TemplateFile] = template!(
    "c": "requirements.txt", "Makefile", "README.md", "wit/world.wit", "tool.c", "greeting.c", "greeting.h", "test_greeting.c"
);
const GO: &[TemplateFile] = template!(
    "go": "requirements.txt", "go.mod", "README.md", "wit/world.wit", "export_wit_world/tool.go", "greeting/greeting.go",
    "greeting/greeting_test.go"
);
const GITIGNORE: &str = include_str!("../../../tool-sdk/templates/gitignore");
const GO_GITIGNORE: &str = include_str!("../../../tool-sdk/templates/go/gitignore");

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// The name is not one for a component in every language.
    #[error(
        "{0:?} is no name for a project: lower-case words of letters and digits joined by `-`, each beginning with a letter, such as `text-tools`; \
         at most {MAX_NAME} characters"
    )]
    Name(String),
    /// Something of that name is there already.
    #[error("{0} is there already; nothing was changed")]
    Exists(PathBuf),
    /// That folder is not the SDK.
    #[error("{0} is not the SDK: it has no Cargo.toml of mcpp-tool; name the folder tool-sdk of a checkout of mcpp")]
    NotSdk(PathBuf),
    /// The SDK could not be written into the project.
    #[error("{0:#}")]
    Sdk(anyhow::Error),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The name of a new project, which every language and WIT can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectName(String);

impl ProjectName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, NewError> {
        let legal = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        // A WIT package may not be called as a word of WIT's own is.
        let package = format!("package local:{name};");
        let wit = wit_bindgen_core::wit_parser::UnresolvedPackageGroup::parse("name.wit", &package);
        if name.len() > MAX_NAME || !name.split('-').all(legal) || wit.is_err() {
            return Err(NewError::Name(name.chars().take(80).collect()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The SDK of the checkout that this program, or the working directory, is in.
pub fn find_sdk() -> Option<PathBuf> {
    let places = [std::env::current_exe(), std::env::current_dir()].into_iter().flatten();
    let mut folders =
        places.flat_map(|place| place.ancestors().map(|folder| folder.join("tool-sdk")).collect::<Vec<_>>());
    folders.find(|folder| is_sdk(folder))
}

/// The SDK in this folder.
pub fn named_sdk(folder: &Path) -> Result<PathBuf, NewError> {
    match folder.canonicalize() {
        Ok(folder) if is_sdk(&folder) => Ok(folder),
        _ => Err(NewError::NotSdk(folder.to_owned())),
    }
}

fn is_sdk(folder: &Path) -> bool {
    fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|manifest| manifest.contains("name = \"mcpp-tool\""))
}

/// Makes the project in `folder`, which must not be there yet. Rust depends on the SDK at `sdk`, or on the one in this program, which is then written into the project.
pub fn create(name: &ProjectName, language: Language, folder: &Path, sdk: Option<&Path>) -> Result<(), NewError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NewError::Write { path, source }
    };
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(failed(parent))?;
    }
    // It is made here and nowhere before, so that nothing of anybody's is written over.
    fs::create_dir(folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => NewError::Exists(folder.to_owned()),
        _ => NewError::Write { path: folder.to_owned(), source },
    })?;
    let (files, ignored) = match language {
        Language::Rust => (RUST, GITIGNORE),
        Language::Javascript => (JAVASCRIPT, GITIGNORE),
        Language::Typescript => (TYPESCRIPT, GITIGNORE),
        Language::Python => (PYTHON, GITIGNORE),
        Language::C => (C, GITIGNORE),
        Language::Go => (GO, GO_GITIGNORE),
    };
    if language == Language::Rust && sdk.is_none() {
        sdk::write(folder).map_err(NewError::Sdk)?;
    }
    // A path stands in a string of TOML.
    let sdk = sdk.map_or_else(|| sdk::PACKAGE.to_owned(), |sdk| sdk.display().to_string());
    let sdk = sdk.replace('\\', "\\\\").replace('"', "\\\"");
    for (file, text) in files.iter().chain([&(".gitignore", ignored)]) {
        let path = folder.join(file);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(failed(parent))?;
        let text = text.replace("{{name}}", name.as_str()).replace("{{sdk}}", &sdk);
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_everywhere() {
        for name in ["a", "hello", "text-tools", "x9-y"] {
            assert!(ProjectName::new(name).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in ["", "Hello", "9a", "a-9", "-a", "a-", "a--b", "a_b", "a/b", "..", "ä", "world", "interface", &long]
        {
            assert!(matches!(ProjectName::new(name), Err(NewError::Name(_))), "{name}");
        }
    }

    #[test]
    fn every_file_of_a_template_is_in_the_program() {
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tool-sdk/templates");
        for (language, files) in [
            ("rust", RUST),
            ("javascript", JAVASCRIPT),
            ("typescript", TYPESCRIPT),
            ("python", PYTHON),
            ("c", C),
            ("go", GO),
        ] {
            let mut found = Vec::new();
            let mut folders = vec![templates.join(language)];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).expect("a folder").flatten() {
                    if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(entry.path()) }
                }
            }
            let own =
                |path: &PathBuf| path.strip_prefix(templates.join(language)).expect("below").display().to_string();
            let mut found: Vec<String> = found.iter().map(own).filter(|file| file != "gitignore").collect();
            found.sort();
            let mut listed: Vec<String> = files.iter().map(|(file, _)| (*file).to_owned()).collect();
            listed.sort();
            assert_eq!(found, listed, "{language}");
        }
    }

    #[test]
    fn nothing_is_written_over() {
        let parent = tempfile::tempdir().expect("a folder");
        let (name, folder) = (ProjectName::new("hello").expect("legal"), parent.path().join("hello"));
        fs::create_dir(&folder).expect("made");
        let again = create(&name, Language::Python, &folder, None);
        assert!(matches!(again, Err(NewError::Exists(_))));
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 0);
    }
}
