//! Builds the components in `tools/` and embeds them, so that the one binary needs no file beside it. Also embeds the sources that projects need: the SDK for Rust, and the
//! module that Go's bindings import.
//!
//! They are built by the same script that a person runs, for `wasm32-wasip2`, in a target folder of their own; where the target is missing the script sets it up or says in
//! one line what to type.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// The sources of the SDK, as files and folders of the checkout.
const SDK: [&str; 20] = [
    "Cargo.toml",
    "tool-sdk/Cargo.toml",
    "tool-sdk/guest-target.sh",
    "tool-sdk/src",
    "tool-sdk/macros",
    "wit/tool",
    "wit/client",
    "wit/container",
    "wit/primitives",
    "wit/endpoint",
    "wit/delegation",
    "wit/cancellation",
    "wit/hooks",
    "wit/batch",
    "wit/store",
    "wit/events",
    "wit/mesh",
    "wit/tasks",
    "wit/wasi",
    "wit/wasi-config",
];

/// A change of these is a new build of what is embedded; a change of the docs beside them is not.
const WATCHED: [&str; 8] = [
    "Cargo.lock",
    "tools",
    "tool-sdk/Cargo.toml",
    "tool-sdk/src",
    "tool-sdk/macros",
    "tool-sdk/build-guest.sh",
    "tool-sdk/guest-target.sh",
    "wit",
];

/// Arguments of the linker that make the program smaller: equal code is kept once, and relocations are packed. Linkers that do not know them link without.
const LINK_ARGUMENTS: [&str; 2] = ["-Wl,--icf=all", "-Wl,-z,pack-relative-relocs"];

fn main() {
    let root = folder("CARGO_MANIFEST_DIR");
    for argument in LINK_ARGUMENTS.into_iter().filter(|argument| links_with(argument)) {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    let root = root.parent().unwrap_or(&root).to_owned();
    for watched in WATCHED {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=MCPP_NO_RUSTUP");
    println!("cargo::rerun-if-changed=build.rs");
    embed("sdk.rs", "/// The sources of the SDK, with their paths in a checkout.\nconst SDK", &root, &SDK);
    match go_runtime(&root) {
        Ok(runtime) => embed(
            "go_runtime.rs",
            "/// The module that Go's bindings import: its files, with their paths in it.\nconst RUNTIME",
            &runtime,
            &["go.mod", "wit"],
        ),
        Err(reason) => fail(&format!("the Go runtime of wit-bindgen-go is not found: {reason}")),
    }
    let mut names = components(&root.join("tools"));
    let components = build(&root, &names);
    // A fresh host compiles them in this order: what is compiled soon serves soon.
    names.sort_by_key(|name| fs::metadata(components.join(format!("{name}.wasm"))).map_or(0, |file| file.len()));
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
    let code =
        format!("/// The components built into this program.\npub static COMPONENTS: &[BuiltIn] = &[\n{list}];\n");
    let file = folder("OUT_DIR").join("built_in.rs");
    if let Err(error) = fs::write(&file, code) {
        fail(&format!("cannot write {}: {error}", file.display()));
    }
}

/// Whether the linker takes an argument in a release build: it links an empty program with it.
fn links_with(argument: &str) -> bool {
    let (Ok(profile), Ok(rustc), Ok(target)) = (env::var("PROFILE"), env::var("RUSTC"), env::var("TARGET")) else {
        return false;
    };
    let (source, program) = (folder("OUT_DIR").join("empty.rs"), folder("OUT_DIR").join("empty"));
    if profile != "release" || fs::write(&source, "fn main() {}").is_err() {
        return false;
    }
    let mut compile = Command::new(rustc);
    compile.arg(&source).arg("-o").arg(&program).arg("--target").arg(target);
    compile.arg("-C").arg(format!("link-arg={argument}")).output().is_ok_and(|compiled| compiled.status.success())
}

/// Writes a list of files into `list`, as the constant that `head` begins: the path of each below `root`, and its text. `paths` are files and folders.
fn embed(list: &str, head: &str, root: &Path, paths: &[&str]) {
    let (mut files, mut waiting) = (Vec::new(), paths.iter().map(|path| root.join(path)).collect::<Vec<_>>());
    while let Some(path) = waiting.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => waiting.extend(entries.flatten().map(|entry| entry.path())),
            Err(_) if path.is_file() => files.push(path),
            Err(error) => fail(&format!("cannot read {}: {error}", path.display())),
        }
    }
    files.sort();
    let line = |file: &PathBuf| {
        let name = file.strip_prefix(root).ok()?.display().to_string();
        Some(format!("    ({name:?}, include_str!({:?})),\n", file.display().to_string()))
    };
    let lines: String = files.iter().filter_map(line).collect();
    let file = folder("OUT_DIR").join(list);
    if let Err(error) = fs::write(&file, format!("{head}: &[(&str, &str)] = &[\n{lines}];\n")) {
        fail(&format!("cannot write {}: {error}", file.display()));
    }
}

/// The Go module in the crate that writes Go's bindings; so a build of Go asks no server for it.
///
/// Cargo is asked about a package that depends on this crate alone. The whole workspace also needs the crates of the tests, and a machine that only built the host does not
/// have those.
fn go_runtime(root: &Path) -> Result<PathBuf, String> {
    let package = folder("OUT_DIR").join("go-runtime");
    let failed = |error: std::io::Error| error.to_string();
    let lock = fs::read_to_string(root.join("Cargo.lock")).map_err(failed)?;
    let (_, version) = lock.split_once("name = \"wit-bindgen-go\"\nversion = \"").ok_or("it is not in Cargo.lock")?;
    let (version, _) = version.split_once('"').ok_or("Cargo.lock is not whole")?;
    let manifest = format!(
        "[package]\nname = \"go-runtime\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n[workspace]\n[dependencies]\n\
         wit-bindgen-go = {{ version = \"={version}\", default-features = false }}\n"
    );
    fs::create_dir_all(&package).map_err(failed)?;
    for (file, text) in [("Cargo.toml", manifest.as_str()), ("Cargo.lock", &lock), ("lib.rs", "")] {
        fs::write(package.join(file), text).map_err(failed)?;
    }
    let variable = |name: &str| env::var(name).map_err(|_| format!("cargo did not set {name}"));
    // In the folder of the manifest, where cargo finds the configuration that this build has.
    let asked = Command::new(variable("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &variable("HOST")?])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .current_dir(folder("CARGO_MANIFEST_DIR"))
        .output()
        .map_err(failed)?;
    if !asked.status.success() {
        return Err(String::from_utf8_lossy(&asked.stderr).into_owned());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout).map_err(|error| error.to_string())?;
    let packages = metadata.get("packages").and_then(serde_json::Value::as_array).into_iter().flatten();
    let text = |package: &serde_json::Value, key: &str| Some(package.get(key)?.as_str()?.to_owned());
    let mut generators = packages.filter(|package| text(package, "name").as_deref() == Some("wit-bindgen-go"));
    let manifest = generators.next().and_then(|package| text(package, "manifest_path"));
    let runtime = manifest.and_then(|manifest| Some(Path::new(&manifest).parent()?.join("src/pkg")));
    runtime.filter(|runtime| runtime.join("go.mod").is_file()).ok_or_else(|| "the crate does not have it".into())
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
