//! The house: the arrows between the rooms of the host run one way, no two of its types share a name, and no file is too long to read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The longest that a source file may be, in lines.
const FILE_LINES: usize = 450;

/// The rooms of `host/src`. A room uses rooms that stand before it, and none that stands behind it.
const ROOMS: [&str; 40] = [
    // Vocabulary.
    "error",
    "names",
    "files",
    "memory",
    "limits",
    "permits",
    "schema",
    "threads",
    "mesh",
    // Tenants, their rights, and what they keep.
    "tenant",
    "auth",
    "peers",
    "secrets",
    "grants",
    "call",
    "telemetry",
    "store",
    "events",
    "tasks",
    // From a component's bytes to a guest.
    "engine",
    "control",
    "capability",
    "plain",
    "guest",
    // The way to a tool.
    "registry",
    "config",
    "mcp",
    "reload",
    "mounts",
    "tenants",
    "components",
    // The program.
    "info",
    "inspect",
    "author",
    "admin",
    "host",
    "cli",
    "lib",
    "main",
    "build",
];

fn host() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../host").canonicalize().expect("the host")
}

/// All Rust files below a folder.
pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The room of a file below `host/src`.
fn room(file: &Path) -> String {
    let first = file.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The rooms that a file names, as `crate::room` or in the braces of `crate::{…}`.
fn named(tokens: TokenStream, rooms: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        if let TokenTree::Group(group) = token {
            named(group.stream(), rooms);
        }
        let is_path = token.to_string() == "crate"
            && tokens.get(at + 1..at + 3).is_some_and(|next| next.iter().all(|next| next.to_string() == ":"));
        match tokens.get(at + 3).filter(|_| is_path) {
            Some(TokenTree::Ident(room)) => drop(rooms.insert(room.to_string())),
            Some(TokenTree::Group(group)) => {
                let mut begins = true;
                for token in group.stream() {
                    if let (true, TokenTree::Ident(room)) = (begins, &token) {
                        rooms.insert(room.to_string());
                    }
                    begins = token.to_string() == ",";
                }
            }
            _ => {}
        }
    }
}

/// The rooms that each room names, with one file that does.
fn arrows() -> BTreeMap<(String, String), PathBuf> {
    let src = host().join("src");
    let mut arrows = BTreeMap::new();
    for path in sources(&src) {
        let file = path.strip_prefix(&src).expect("below").to_owned();
        let tokens = std::fs::read_to_string(&path).expect("text").parse().expect("Rust");
        let mut rooms = BTreeSet::new();
        named(tokens, &mut rooms);
        for to in rooms {
            arrows.insert((room(&file), to), file.clone());
        }
    }
    arrows
}

#[test]
fn arrows_between_rooms_run_one_way() {
    let place = |room: &str| ROOMS.iter().position(|known| *known == room);
    let arrows = arrows();
    assert!(arrows.len() > 100, "only these arrows are found: {:?}", arrows.keys());
    let mut wrong = Vec::new();
    for ((from, to), file) in &arrows {
        let Some(of) = place(from) else {
            wrong.push(format!("`{from}` is a room without a place in this list"));
            continue;
        };
        // A name that is no room is a macro or a function of the crate.
        if from != to && place(to).is_some_and(|place| place > of) {
            wrong.push(format!("{} uses `{to}`, which stands behind `{from}`", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The types that tokens define; `associated` are the tokens of an `impl` or a trait, whose `type` is no new type.
fn types(tokens: TokenStream, associated: bool, found: &mut Vec<String>) {
    let mut before = String::new();
    let mut in_head = false;
    for token in tokens {
        match &token {
            TokenTree::Group(group) => {
                types(group.stream(), in_head && group.delimiter() == Delimiter::Brace, found);
                in_head &= group.delimiter() != Delimiter::Brace;
            }
            TokenTree::Ident(word) => {
                let defines = matches!(before.as_str(), "struct" | "enum" | "trait" | "union");
                if defines || before == "type" && !associated {
                    found.push(word.to_string());
                }
                in_head |= word == "impl" || word == "trait";
            }
            TokenTree::Punct(mark) => in_head &= mark.as_char() != ';',
            TokenTree::Literal(_) => {}
        }
        before = token.to_string();
    }
}

#[test]
fn no_two_types_share_a_name() {
    let mut files: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    let src = host().join("src");
    for path in sources(&src) {
        let tokens = std::fs::read_to_string(&path).expect("text").parse().expect("Rust");
        let mut found = Vec::new();
        types(tokens, false, &mut found);
        for name in found {
            files.entry(name).or_default().push(path.strip_prefix(&src).expect("below").to_owned());
        }
    }
    assert!(files.len() > 400, "only {} types are found", files.len());
    let shared: Vec<_> = files.iter().filter(|(_, files)| files.len() > 1).collect();
    assert!(shared.is_empty(), "{shared:#?}");
}

#[test]
fn every_room_has_a_place() {
    let src = host().join("src");
    let rooms: BTreeSet<String> =
        sources(&src).iter().map(|path| room(path.strip_prefix(&src).expect("below"))).collect();
    let listed: BTreeSet<String> = ROOMS.iter().map(|room| (*room).to_owned()).filter(|room| room != "build").collect();
    assert_eq!(rooms, listed);
}

#[test]
fn no_file_is_too_long_to_read() {
    let root = host().join("..");
    let folders = ["host/src", "tool-sdk", "tools", "tests"].map(|folder| root.join(folder));
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| sources(folder)).collect();
    assert!(files.len() > 300, "only {} files are found", files.len());
    for file in files {
        if file.components().any(|part| part.as_os_str() == "target") {
            continue;
        }
        let lines = std::fs::read_to_string(&file).expect("text").lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines", file.display());
    }
}

/// A build names the files of its sources. What is kept here must not name those of the machine that built it.
#[test]
fn no_kept_component_names_a_path_of_the_machine_that_built_it() {
    let folder = host().join("../tests/guests/frozen");
    let kept = std::fs::read_dir(&folder).expect("the kept components").map(|entry| entry.expect("an entry").path());
    let components: Vec<PathBuf> = kept.filter(|path| path.extension().is_some_and(|ext| ext == "wasm")).collect();
    assert!(components.len() > 10, "{components:?}");
    for component in components {
        let bytes = std::fs::read(&component).expect("readable");
        for path in [&b"/.cargo/registry"[..], b"/root/", b"/home/", b"/tmp/"] {
            let named = bytes.windows(path.len()).any(|part| part == path);
            assert!(!named, "{} names a path with {}", component.display(), String::from_utf8_lossy(path));
        }
    }
}
