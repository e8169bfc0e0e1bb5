//! Builds the components in `tools/` and embeds them, so that the one binary needs no file beside it; and embeds what builds of Go need.
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
    println!("cargo::rerun-if-changed=build.rs");
    embed_go_runtime();
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

/// Embeds what Go's bindings need at run time: the crate that writes the bindings ships it, so that a build of Go asks no server for it. Where the crate's sources are not
/// found nothing is embedded, and Go gets it itself.
fn embed_go_runtime() {
    let list = go_runtime().map(|runtime| go_files(&runtime));
    if list.is_none() {
        println!(
            "cargo::warning=the Go runtime of wit-bindgen-go is not found: builds of Go projects will download it"
        );
    }
    let list = list.unwrap_or_default();
    let code = format!(
        "/// What Go's bindings need: the files of a module, with their paths in it.\nconst RUNTIME: &[(&str, &str)] = &[\n{list}];\n"
    );
    let file = folder("OUT_DIR").join("go_runtime.rs");
    if let Err(error) = fs::write(&file, code) {
        fail(&format!("cannot write {}: {error}", file.display()));
    }
}

/// The files of the Go module, as lines of a list: the path of each in it, and its text.
fn go_files(runtime: &Path) -> String {
    let (mut files, mut folders) = (vec![runtime.join("go.mod")], vec![runtime.join("wit")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    let line = |file: &PathBuf| {
        let name = file.strip_prefix(runtime).ok()?.display().to_string();
        Some(format!("    ({name:?}, include_str!({:?})),\n", file.display().to_string()))
    };
    files.iter().filter_map(line).collect()
}

/// The Go module in the crate that writes Go's bindings.
fn go_runtime() -> Option<PathBuf> {
    let platform = env::var("HOST").ok()?;
    let metadata = Command::new(env::var_os("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(folder("CARGO_MANIFEST_DIR"))
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).ok()?;
    let packages = metadata.get("packages")?.as_array()?;
    let generator = packages.iter().find(|package| package.get("name").is_some_and(|name| name == "wit-bindgen-go"))?;
    let runtime = Path::new(generator.get("manifest_path")?.as_str()?).parent()?.join("src/pkg");
    runtime.join("go.mod").is_file().then_some(runtime)
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
