//! The docs are held to the code: their links lead somewhere, their settings and grants are valid, their commands and flags exist, and their Rust is compiled.
//!
//! A page is any Markdown file of the checkout; the templates of `mcpp new` are pages too, except that they stand in other projects.

mod page;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::CommandFactory as _;
use mcpp::{cli::Cli, config::Config, grants::ComponentGrant};

use self::page::Page;

/// Folders of the checkout that have no pages of ours.
const ELSEWHERE: [&str; 3] = ["target", "node_modules", ".git"];
/// The front door.
const README: &str = "README.md";
/// The longest that the front door may be, in lines.
const README_LINES: usize = 130;
/// Words with which no sentence of the docs begins: it should name the actor.
const RIDDLES: [&str; 6] = ["What", "Whatever", "Who", "Whoever", "Whom", "Nobody"];

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout")
}

/// All pages, by their paths in the checkout.
fn pages() -> BTreeMap<PathBuf, Page> {
    let (root, mut pages, mut waiting) = (checkout(), BTreeMap::new(), vec![checkout()]);
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() && !ELSEWHERE.contains(&name.as_str()) {
                waiting.push(path);
            } else if name.ends_with(".md") {
                let text = std::fs::read_to_string(&path).expect("text");
                pages.insert(path.strip_prefix(&root).expect("below").to_owned(), Page::read(&text));
            }
        }
    }
    assert!(pages.len() > 20, "only these pages are found: {:?}", pages.keys());
    pages
}

fn is_template(path: &Path) -> bool {
    path.starts_with("tool-sdk/templates")
}

/// The page or file that a link of `page` names, in the checkout, and the anchor in it; none if it leads elsewhere.
fn target(page: &Path, link: &str) -> Option<(PathBuf, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor.to_owned())));
    let mut path = PathBuf::new();
    if file.is_empty() {
        return Some((page.to_owned(), anchor));
    }
    for part in page.parent().expect("a folder").join(file).components() {
        match part {
            std::path::Component::ParentDir => {
                assert!(path.pop(), "{} links out of the checkout: {link}", page.display())
            }
            part => path.push(part),
        }
    }
    Some((path, anchor))
}

#[test]
fn every_link_leads_somewhere() {
    let (root, pages, mut wrong, mut followed) = (checkout(), pages(), Vec::new(), 0);
    for (path, page) in &pages {
        for link in &page.links {
            let Some((file, anchor)) = target(path, link) else { continue };
            let has_anchor = |anchor: &String| pages.get(&file).is_some_and(|page| page.anchors.contains(anchor));
            if !root.join(&file).exists() || !anchor.as_ref().is_none_or(has_anchor) {
                wrong.push(format!("{}: {link}", path.display()));
            }
            followed += 1;
        }
    }
    assert!(wrong.is_empty(), "these links lead nowhere: {wrong:#?}");
    assert!(followed > 50, "only {followed} links were followed");
}

#[test]
fn every_page_is_found_from_the_front_door() {
    let pages = pages();
    let (mut found, mut waiting) = (BTreeSet::new(), vec![PathBuf::from(README)]);
    while let Some(path) = waiting.pop() {
        let Some(page) = pages.get(&path) else { continue };
        if found.insert(path.clone()) {
            waiting.extend(page.links.iter().filter_map(|link| Some(target(&path, link)?.0)));
        }
    }
    let lost: Vec<&PathBuf> = pages.keys().filter(|path| !is_template(path) && !found.contains(*path)).collect();
    assert!(lost.is_empty(), "no path of links leads from {README} to these pages: {lost:?}");
}

#[test]
fn the_front_door_is_short() {
    let lines = std::fs::read_to_string(checkout().join(README)).expect("a page").lines().count();
    assert!(
        lines <= README_LINES,
        "{README} has {lines} lines, more than {README_LINES}: move something to the page of its room"
    );
}

#[test]
fn settings_and_grants_are_valid() {
    let (mut settings, mut grants) = (0, 0);
    for (path, page) in pages() {
        let place = path.display();
        for (_, text) in page.blocks.iter().filter(|(language, _)| language == "toml") {
            if text.starts_with("version = ") {
                ComponentGrant::parse(&path, text).unwrap_or_else(|error| panic!("{place}: {error:?}\n{text}"));
                grants += 1;
            } else {
                let config = Config::parse(text).unwrap_or_else(|error| panic!("{place}: {error}\n{text}"));
                config.check().unwrap_or_else(|error| panic!("{place}: {error}\n{text}"));
                settings += 1;
            }
        }
        for line in page.commands() {
            let Some(rest) = line.strip_prefix("mcpp grant ") else { continue };
            for addition in rest.split('\'').skip(1).step_by(2) {
                let text = format!("version = 1\n{addition}\n");
                ComponentGrant::parse(&path, &text).unwrap_or_else(|error| panic!("{place}: {line}: {error:?}"));
                grants += 1;
            }
        }
    }
    assert!(settings >= 1 && grants >= 2, "{settings} settings and {grants} grants were read");
}

#[test]
fn json_is_json() {
    let mut read = 0;
    for (path, page) in pages() {
        for (_, text) in page.blocks.iter().filter(|(language, _)| language == "json") {
            serde_json::from_str::<serde_json::Value>(text)
                .unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
            read += 1;
        }
    }
    assert!(read >= 2, "{read} examples were read");
}

/// The flags of a command, as they are typed.
fn flags(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(clap::Arg::get_long).chain(["help", "version"]);
    own.map(|flag| format!("--{flag}")).collect()
}

/// Looks at one command: what is wrong with it, if something is.
fn check_command(program: &clap::Command, line: &str) -> Result<(), String> {
    let mut command = program;
    for word in line.split_whitespace().skip(1).take_while(|word| *word != "#") {
        if word.starts_with("--") && word.len() > 2 {
            let flag = word.split('=').next().unwrap_or_default().trim_end_matches([',', ')', ']', '`', ':', ';', '.']);
            if !flags(command).contains(flag) {
                return Err(format!("`{}` has no {flag}", command.get_name()));
            }
        } else if let Some(found) = command.find_subcommand(word) {
            command = found;
        } else if command.has_subcommands() && command.get_positionals().next().is_none() {
            return Err(format!("`{}` has no command {word}", command.get_name()));
        }
    }
    Ok(())
}

#[test]
fn every_command_and_flag_exists() {
    let mut program = Cli::command();
    program.build();
    for (line, says) in [
        ("mcpp serve --listen 127.0.0.1:0 # --nothing", None),
        ("mcpp tenant add NAME --trusted", None),
        ("mcpp server", Some("has no command server")),
        ("mcpp tenant add NAME --listen", Some("has no --listen")),
    ] {
        let error = check_command(&program, line).err();
        assert_eq!(error.is_some(), says.is_some(), "{line}: {error:?}");
        assert!(error.is_none_or(|error| says.is_some_and(|says| error.contains(says))), "{line}");
    }
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, page) in pages() {
        for line in page.commands() {
            if let Err(error) = check_command(&program, &line) {
                wrong.push(format!("{}: {line}: {error}", path.display()));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 80, "only {checked} commands were checked");
}

#[test]
fn every_command_is_documented() {
    let mut program = Cli::command();
    program.build();
    let lines: Vec<String> = pages().values().flat_map(Page::commands).collect();
    let named = |name: &str| lines.iter().any(|line| line.split_whitespace().nth(1) == Some(name));
    let commands = program.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help");
    let missing: Vec<&str> = commands.filter(|name| !named(name)).collect();
    assert!(missing.is_empty(), "no page shows these commands: {missing:?}");
}

#[test]
fn rust_is_compiled_by_the_doctests() {
    let sdk = std::fs::read_to_string(checkout().join("tool-sdk/src/lib.rs")).expect("the SDK");
    for (path, page) in pages() {
        let has_rust = page.blocks.iter().any(|(language, _)| language.starts_with("rust"));
        let included = path
            .strip_prefix("tool-sdk")
            .map_or_else(|_| format!("../../{}", path.display()), |path| format!("../{}", path.display()));
        let doctest = format!("#[doc = include_str!(\"{included}\")]");
        assert!(!has_rust || sdk.contains(&doctest), "tool-sdk/src/lib.rs lacks {doctest}");
    }
}

#[test]
fn every_sentence_names_its_actor() {
    let mut wrong = Vec::new();
    for (path, page) in pages() {
        for text in &page.texts {
            for sentence in text.split(". ") {
                let first = sentence.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
                if RIDDLES.contains(&first) {
                    wrong.push(format!("{}: {sentence}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these sentences do not name their actor: {wrong:#?}");
}
