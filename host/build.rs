//! Builds the components in `tools/` and embeds them, so that the one binary needs no file beside it.
//!
//! They are built by the same script that a person runs, for `wasm32-wasip2`, in a target folder of their own; where the target is missing the script sets it up or says in
//! one line what to type.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

fn main() {
    let root = folder("CARGO_MANIFEST_DIR");
    let root = root.parent().unwrap_or(&root).to_owned();
    for watched in ["tools", "tool-sdk", "wit"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=MCPP_NO_RUSTUP");
    let names = components(&root.join("tools"));
    let components = build(&root, &names);
    let list: String = names
        .iter()
        .map(|name| {
            let wasm = components.join(format!("{name}.wasm"));
            let grant = root.join("tools").join(name).join("grant.toml");
            let grant =
                if grant.exists() { format!("include_str!({:?})", grant.display().to_string()) } else { "\"\"".into() };
            format!(
                "    BuiltIn {{ name: {name:?}, wasm: include_bytes!({:?}), grant: {grant} }},\n",
                wasm.display().to_string()
            )
        })
        .collect();
    let code = format!("/// The components built into this program.\nconst BUILT_IN: &[BuiltIn] = &[\n{list}];\n");
    let file = folder("OUT_DIR").join("built_in.rs");
    if let Err(error) = fs::write(&file, code) {
        fail(&format!("cannot write {}: {error}", file.display()));
    }
}

fn folder(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(folder) => folder.into(),
        None => fail(&format!("cargo did not set {variable}")),
    }
}

/// The components to embed: the folders of `tools/` whose package makes one (a `cdylib`). The others are libraries that tools share.
fn components(tools: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(tools) else { fail(&format!("cannot read {}", tools.display())) };
    let makes_component = |folder: &Path| {
        fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|manifest| manifest.contains("\"cdylib\""))
    };
    let folders = entries.flatten().map(|entry| entry.path()).filter(|folder| makes_component(folder));
    let mut names: Vec<String> = folders.filter_map(|folder| Some(folder.file_name()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

fn build(root: &Path, names: &[String]) -> PathBuf {
    let script = root.join("tool-sdk/build-guest.sh");
    let output = match Command::new("bash").arg(&script).args(names).output() {
        Ok(output) => output,
        Err(error) => fail(&format!("cannot run {}: {error}", script.display())),
    };
    if !output.status.success() {
        fail(&format!("the built-in tools did not build:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    // Copied, so that a later build of guests with another profile cannot change what this binary embeds.
    let built = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let kept = folder("OUT_DIR");
    for name in names {
        let file = format!("{name}.wasm");
        if let Err(error) = fs::copy(built.join(&file), kept.join(&file)) {
            fail(&format!("cannot copy {file}: {error}"));
        }
    }
    kept
}

fn fail(reason: &str) -> ! {
    for line in reason.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
