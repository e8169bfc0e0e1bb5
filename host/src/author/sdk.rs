//! The SDK for Rust: its sources are in this program, and a project has them in [`FOLDER`].
//!
//! A program that was copied or installed has no checkout beside it. So `mcpp new` writes the SDK into the project, and every build brings it to the version of the program.
//! In a checkout the packages take their versions from the workspace. A project has no such workspace, so the manifests that are written name the versions themselves.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use toml_edit::{DocumentMut, Item, Table};

use super::wit::write_changed;

include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// Where the SDK is in a project, which git does not see.
pub const FOLDER: &str = ".mcpp/sdk";
/// The package itself, as a project's manifest names it.
pub const PACKAGE: &str = ".mcpp/sdk/tool-sdk";

/// Writes the SDK into a project, if its manifest depends on it there.
pub fn refresh(project: &Path) -> anyhow::Result<()> {
    let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap_or_default();
    if manifest.contains(PACKAGE) { write(project) } else { Ok(()) }
}

/// Writes the SDK into a project: the files that differ, and no others. Files of another version are removed.
pub fn write(project: &Path) -> anyhow::Result<()> {
    let folder = project.join(FOLDER);
    let mut kept = BTreeSet::new();
    for (name, text) in files()? {
        kept.insert(write_changed(folder.join(name), text.as_bytes())?);
    }
    for file in files_below(&folder) {
        if !kept.contains(&file) {
            fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    Ok(())
}

/// The files of the SDK, as a project has them.
fn files() -> anyhow::Result<Vec<(&'static str, String)>> {
    let (manifests, sources): (Vec<_>, Vec<_>) = SDK.iter().partition(|(name, _)| name.ends_with("Cargo.toml"));
    let workspace = manifests.iter().find(|(name, _)| *name == "Cargo.toml").context("the SDK has no workspace")?;
    let workspace: DocumentMut = workspace.1.parse()?;
    let workspace = workspace.get("workspace").and_then(Item::as_table).context("the SDK has no workspace")?;
    let mut files: Vec<(&str, String)> = sources.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    for (name, text) in manifests {
        if let Some(folder) = name.strip_suffix("/Cargo.toml") {
            files.push((name, standalone(text, folder, workspace).with_context(|| format!("the SDK's {name}"))?));
        }
    }
    Ok(files)
}

/// A manifest of the workspace's, with the workspace's values in the places that refer to them. `folder` is where it is in the checkout.
fn standalone(manifest: &str, folder: &str, workspace: &Table) -> anyhow::Result<String> {
    let mut manifest: DocumentMut = manifest.parse()?;
    for section in ["lints", "dev-dependencies"] {
        manifest.remove(section);
    }
    for section in ["package", "dependencies"] {
        let values = workspace.get(section).and_then(Item::as_table).context("the workspace lacks a section")?;
        let Some(keys) = manifest.get_mut(section).and_then(Item::as_table_mut) else { continue };
        for (key, item) in keys.iter_mut().filter(|(_, item)| item.get("workspace").is_some()) {
            // A value of the workspace's with additions would need more than its place.
            anyhow::ensure!(
                item.as_table_like().is_some_and(|value| value.len() == 1),
                "`{key}` adds to the workspace's"
            );
            let value = values.get(&key).with_context(|| format!("the workspace has no `{key}`"))?;
            *item = value.clone();
            if let Some(path) = item.as_table_like_mut().and_then(|value| value.get_mut("path")) {
                let text = path.as_str().and_then(|path| path.strip_prefix(folder)?.strip_prefix('/'));
                *path = toml_edit::value(text.with_context(|| format!("`{key}` is not below {folder}"))?.to_owned());
            }
        }
    }
    Ok(manifest.to_string())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let (mut files, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_stand_without_a_workspace() {
        for (name, text) in files().expect("valid").iter().filter(|(name, _)| name.ends_with(".toml")) {
            assert!(!text.contains("workspace") && text.contains("version = "), "{name}:\n{text}");
        }
        let workspace: DocumentMut =
            "[workspace.package]\n[workspace.dependencies]\na = '1'\nb = { path = 'x/b' }\n".parse().expect("valid");
        let workspace = workspace["workspace"].as_table().expect("a table");
        let write = |text: &str, folder: &str| standalone(text, folder, workspace).map_err(|error| error.to_string());
        let b = "[dependencies]\na.workspace = true\nb.workspace = true\n";
        let written = write(b, "x").expect("valid");
        assert!(written.contains("a = '1'") && written.contains("path = \"b\""), "{written}");
        assert_eq!(write(b, "y"), Err("`b` is not below y".to_owned()));
        let more = "[dependencies]\na = { workspace = true, features = ['f'] }\n";
        assert_eq!(write(more, "x"), Err("`a` adds to the workspace's".to_owned()));
        assert_eq!(write("[dependencies]\nc.workspace = true\n", "x"), Err("the workspace has no `c`".to_owned()));
    }

    #[test]
    fn a_project_has_the_sdk_of_this_program_and_nothing_older() {
        let project = tempfile::tempdir().expect("a folder");
        let path = |name: &str| project.path().join(FOLDER).join(name);
        refresh(project.path()).expect("not wanted");
        assert!(!project.path().join(".mcpp").exists(), "a project that does not depend on it gets none");
        std::fs::write(
            project.path().join("Cargo.toml"),
            format!("[dependencies]\nmcpp-tool = {{ path = '{PACKAGE}' }}\n"),
        )
        .expect("written");
        refresh(project.path()).expect("written");
        let (source, written) = (path("tool-sdk/src/lib.rs"), |path: &Path| {
            std::fs::metadata(path).expect("there").modified().expect("known")
        });
        let before = written(&source);
        std::fs::write(path("tool-sdk/src/old.rs"), "gone").expect("written");
        std::fs::write(path("wit/tool/tool.wit"), "older").expect("written");
        refresh(project.path()).expect("written");
        assert!(!path("tool-sdk/src/old.rs").exists());
        assert!(std::fs::read_to_string(path("wit/tool/tool.wit")).expect("there").contains("package mcpp:tool"));
        assert_eq!(written(&source), before, "a file that is right is left alone, so cargo does not build it again");
    }
}
