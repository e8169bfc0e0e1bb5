//! Projects as `mcpp new` makes them, and their builds.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A language with a template: its name, and where its greeting stands in which file.
#[derive(Clone, Copy)]
pub(crate) struct Language {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
}

pub(crate) const LANGUAGES: [Language; 6] = [
    Language { name: "rust", source: "src/lib.rs" },
    Language { name: "javascript", source: "src/tool.js" },
    Language { name: "typescript", source: "src/tool.ts" },
    Language { name: "python", source: "greeting.py" },
    Language { name: "c", source: "greeting.c" },
    Language { name: "go", source: "greeting/greeting.go" },
];

/// The beginning of every template tool's answer.
const GREETING: &str = "Hello, ";
/// The folders that builds leave, besides the ones that they install.
const BUILT: [&str; 4] = ["target", "build", "zig-cache", "go-cache"];

pub(crate) struct Project {
    pub(crate) folder: PathBuf,
    pub(crate) language: Language,
    source: String,
    _parent: TempDir,
}

/// The result of a build, as `mcpp build --json` tells.
pub(crate) struct Built {
    pub(crate) component: PathBuf,
    pub(crate) seconds: f64,
}

impl Project {
    /// A new project, with nothing installed and nothing built.
    pub(crate) fn new(language: &Language) -> Self {
        let parent = tempfile::tempdir().expect("a folder");
        let made = mcpp().args(["new", "hello", "--lang", language.name, "--in"]).arg(parent.path()).output();
        let made = made.expect("run");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let folder = parent.path().join("hello");
        if language.name == "rust" {
            // The versions that the checkout has are on this machine already.
            std::fs::copy(checkout().join("Cargo.lock"), folder.join("Cargo.lock")).expect("copied");
        }
        let source = std::fs::read_to_string(folder.join(language.source)).expect("a source");
        assert!(source.contains(GREETING), "{source}");
        Self { folder, language: *language, source, _parent: parent }
    }

    /// The name of its tool.
    pub(crate) fn tool(&self) -> &'static str {
        if self.language.name == "rust" { "greet" } else { "hello_greet" }
    }

    /// Saves its source with another greeting.
    pub(crate) fn save(&self, greeting: &str) {
        std::fs::write(self.folder.join(self.language.source), self.source.replace(GREETING, greeting)).expect("saved");
    }

    /// `mcpp` with an environment in which all that builds keep for the next build is in the project's folder, and nothing is downloaded that has to be built.
    pub(crate) fn command(&self) -> Command {
        let mut command = mcpp();
        command.env("CARGO_TARGET_DIR", self.folder.join("target")).env("CARGO_NET_OFFLINE", "true");
        command.env("ZIG_GLOBAL_CACHE_DIR", self.folder.join("zig-cache"));
        command.env("GOCACHE", self.folder.join("go-cache")).env("GOPROXY", "off").env("GOFLAGS", "-modcacherw");
        command
    }

    /// Builds it; why not, in the words that the program ended with.
    pub(crate) fn build(&self) -> Result<Built, String> {
        let done: Output = self.command().arg("build").arg(&self.folder).arg("--json").output().expect("run");
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(said.lines().last().unwrap_or("no reason given").to_owned());
        }
        let told: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        let component = PathBuf::from(told["component"].as_str().expect("a path"));
        Ok(Built { component, seconds: told["seconds"].as_f64().expect("a number") })
    }

    /// Takes away all that was built, and nothing that was installed.
    pub(crate) fn clean(&self) {
        for folder in BUILT.map(|name| self.folder.join(name)).iter().filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(folder).expect("removed");
        }
    }
}

/// The release build of the program, which stands beside this bench.
fn mcpp() -> Command {
    let here = std::env::current_exe().expect("a program");
    let program = here.parent().and_then(Path::parent).expect("a target folder").join("mcpp");
    assert!(program.exists(), "{} is not built: run `cargo build --release` first", program.display());
    let mut command = Command::new(program);
    command.env_remove("MCPP_URL").env_remove("MCPP_DATA").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}
