//! Edits of grants. Each keeps a valid file valid, and keeps its comments.

use std::{
    io,
    path::{Path, PathBuf},
};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TomlError, Value};

use super::{FORMAT_VERSION, files::FolderGrant, ledger::Note};

/// Why the host cannot edit a grant.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: TomlError,
    },
    /// A piece is no part of a grant.
    #[error("{piece:?} is not a part of a grant, such as 'store = {{}}'")]
    Piece {
        /// The piece.
        piece: String,
        /// Where and why it is not TOML.
        #[source]
        source: TomlError,
    },
    /// The grant does not have a key that is to be taken out.
    #[error("the grant has no {0:?}")]
    NoKey(String),
}

/// The grant in a file, to edit; one with what is `shipped` if there is no file.
pub fn read(file: &Path, shipped: &str) -> Result<DocumentMut, EditError> {
    match std::fs::read_to_string(file) {
        Ok(text) => text.parse().map_err(|source| EditError::Parse { path: file.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut document = empty();
            let shipped =
                shipped.parse::<DocumentMut>().map_err(|source| EditError::Parse { path: file.to_owned(), source })?;
            document.extend(shipped.iter().map(|(key, item)| (key.to_owned(), item.clone())));
            Ok(document)
        }
        Err(source) => Err(EditError::Io { path: file.to_owned(), source }),
    }
}

fn empty() -> DocumentMut {
    let mut document = DocumentMut::new();
    document.insert("version", toml_edit::value(i64::from(FORMAT_VERSION)));
    document
}

/// Takes keys out of a grant; all but its version if `keys` is empty.
pub fn cut(document: &mut DocumentMut, keys: &[String]) -> Result<(), EditError> {
    if keys.is_empty() {
        document.retain(|key, _| key == "version");
    }
    for key in keys {
        if key == "version" || document.remove(key).is_none() {
            return Err(EditError::NoKey(key.clone()));
        }
    }
    Ok(())
}

/// Adds what `more` says: lists grow, tables grow, a directory that was read may be written, anything else is replaced.
fn merge(into: &mut Table, more: &Table) {
    for (key, item) in more {
        match (into.get_mut(key), item) {
            (Some(_), Item::Value(Value::Array(more))) if more.is_empty() => {}
            (Some(Item::ArrayOfTables(known)), Item::ArrayOfTables(more)) if key == "files" => {
                more.iter().for_each(|folder| add_folder(known, folder));
            }
            (Some(Item::Value(Value::Array(known))), Item::Value(Value::Array(more))) => extend(known, more),
            (Some(Item::ArrayOfTables(known)), Item::ArrayOfTables(more)) => {
                let new = |table: &&Table| !known.iter().any(|known| same(known, table));
                let new: Vec<Table> = more.iter().filter(new).cloned().collect();
                known.extend(new);
            }
            (Some(known), item) if known.is_table_like() && item.is_table_like() => {
                let mut table = as_table(known);
                merge(&mut table, &as_table(item));
                *known = Item::Table(table);
            }
            _ => drop(into.insert(key, item.clone())),
        }
    }
}

/// Adds a directory, or widens what may be done with one that is there.
fn add_folder(known: &mut ArrayOfTables, folder: &Table) {
    let parse = |table: &Table| toml::from_str::<FolderGrant>(&table.to_string()).ok();
    let new = parse(folder);
    let place = |grant: &FolderGrant| (grant.path.clone(), grant.at.clone());
    let is_same = |table: &Table| new.is_some() && parse(table).as_ref().map(place) == new.as_ref().map(place);
    let Some(place) = known.iter().position(is_same) else { return known.push(folder.clone()) };
    if let (Some(known), Some(new)) = (known.get_mut(place), &new)
        && parse(known).is_some_and(|known| new.mode > known.mode)
    {
        known.insert("mode", toml_edit::value(new.mode.to_string()));
    }
}

fn same(a: &Table, b: &Table) -> bool {
    let bare = |table: &Table| {
        table.iter().map(|(key, item)| (key.to_owned(), item.to_string().trim().to_owned())).collect::<Vec<_>>()
    };
    bare(a) == bare(b)
}

fn as_table(item: &Item) -> Table {
    item.clone().into_table().unwrap_or_default()
}

fn extend(known: &mut Array, more: &Array) {
    for value in more {
        if !known.iter().any(|known| known.to_string().trim() == value.to_string().trim()) {
            known.push_formatted(value.clone().decorated(if known.is_empty() { "" } else { " " }, ""));
        }
    }
}

/// Adds pieces of grants to a grant. A list of rules that are written in a line each becomes one of tables.
pub fn extend_grant(
    mut document: DocumentMut,
    pieces: impl IntoIterator<Item = String>,
) -> Result<DocumentMut, EditError> {
    for piece in pieces {
        let more: DocumentMut = match piece.parse() {
            Ok(more) => more,
            Err(source) => return Err(EditError::Piece { piece, source }),
        };
        let mut table = Table::new();
        for (key, item) in more.as_table() {
            table.insert(key, tables(item));
        }
        for (key, item) in document.as_table_mut().iter_mut() {
            if table.get(&key).is_some_and(Item::is_array_of_tables) {
                *item = tables(item);
            }
        }
        merge(document.as_table_mut(), &table);
    }
    Ok(document)
}

/// A list of inline tables as tables; anything else as it is.
fn tables(item: &Item) -> Item {
    let Item::Value(Value::Array(array)) = item else { return item.clone() };
    if array.is_empty() || !array.iter().all(Value::is_inline_table) {
        return item.clone();
    }
    let tables = array.iter().filter_map(|value| value.as_inline_table().cloned()).map(|table| table.into_table());
    Item::ArrayOfTables(ArrayOfTables::from_iter(tables))
}

/// The least grant under which all that was noted would be allowed.
pub fn least_grant(notes: &[Note]) -> Result<String, EditError> {
    Ok(extend_grant(empty(), notes.iter().filter_map(|note| note.grant.clone()))?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::{ComponentGrant, files::FolderMode, question::Question};
    use crate::names::{ComponentName, ToolName};

    fn merged(text: &str, pieces: &[&str]) -> String {
        let pieces = pieces.iter().map(|piece| (*piece).to_owned());
        extend_grant(text.parse().expect("TOML"), pieces).expect("TOML").to_string()
    }

    #[test]
    fn a_grant_grows_and_keeps_its_comments() {
        let before = "version = 1\n# why\ncall = [\"a\"] # here\n[limits]\nmemory_bytes = 1048576\n";
        let after = merged(
            before,
            &[
                "call = [\"b\", \"a\"]",
                "[limits]\ncpu_ms = 5",
                "store = {}",
                "[[http]]\nurl = \"https://a.com/x\"\nmethods = [\"GET\"]",
                "http = [{ url = \"https://b.com/*\" }]",
                "http = []",
                "[[http]]\nurl = \"https://a.com/x\"\nmethods = [\"GET\"]",
            ],
        );
        assert!(after.contains("# why\ncall = [\"a\", \"b\"] # here"), "{after}");
        let grant = ComponentGrant::parse(std::path::Path::new("x"), &after).expect("valid");
        assert!(grant.store.is_some() && grant.limits.cpu_ms.is_some() && grant.limits.memory_bytes.is_some());
        assert!(grant.http.check("GET", "https", "b.com", None, "/y").is_ok());
        assert_eq!(after.matches("[[http]]").count(), 2, "{after}");
    }

    #[test]
    fn a_topic_comes_to_those_with_which_a_component_is_shipped() {
        let after = merged("subscribe = [\"queue/ended\"]\n", &["subscribe = [\"orders/paid\"]"]);
        assert_eq!(after, "subscribe = [\"queue/ended\", \"orders/paid\"]\n");
    }

    #[test]
    fn what_was_noted_is_what_the_least_grant_allows() {
        let note = |grant: &str, denied: Option<&str>| Note {
            grant: Some(grant.into()),
            denied: denied.map(str::to_owned),
            tool: "t".into(),
            count: 1,
            last: 0,
        };
        let policy = least_grant(&[
            note("store = {}", None),
            note("call = [\"text_hash\"]", Some("no")),
            note("call = [\"text_count\"]", None),
            note("[secrets]\nA = [\"https://a.com\"]", None),
            note("mesh.see = true", None),
            note("mesh.call = [\"*: one\"]", None),
            note("mesh.call = [\"*: two\"]", Some("no")),
            note("container.images = [\"here:1\"]", None),
            note("container.images = [\"there:1\"]", None),
            note("container.images = [\"other:1\"]", Some("no")),
            note("container.repositories = [\"https://a.com/org/name\"]", None),
            note("[secrets]\nB = [\"https://a.com\"]", Some("no")),
            note("[[http]]\nurl = \"https://a.com/v1\"\nmethods = [\"GET\"]", None),
            note("[[http]]\nurl = \"https://a.com/v2\"\nmethods = [\"PUT\"]", Some("no")),
            note("[[files]]\npath = \"/a\"\nat = \"/in\"\nmode = \"read\"", None),
            note("[[files]]\npath = \"/b\"\nat = \"/out\"\nmode = \"read-write\"", None),
            note("[[files]]\npath = \"/b\"\nat = \"/out\"\nmode = \"read\"", None),
            note("[[files]]\npath = \"/a\"\nat = \"/in\"\nmode = \"read-write\"", Some("no")),
        ])
        .expect("TOML");
        let grant = ComponentGrant::parse(std::path::Path::new("x"), &policy).expect("valid");
        let component = ComponentName::new("c").expect("legal");
        let allows = |what: Question| what.denied(&grant, &component).is_none();
        let http = |method: &str, url: &str| Question::http(method, &url.parse().expect("a URL")).expect("a host");
        let call = |tool: &str| Question::Call(ToolName::new(tool).expect("legal"));
        assert!(allows(Question::Store) && allows(call("text_hash")), "{policy}");
        let peer: crate::mesh::PeerId = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer");
        let peers = |tool: &str| allows(Question::Peer(peer.clone(), ToolName::new(tool).expect("legal")));
        assert!(grant.mesh.see && peers("one") && peers("two") && !peers("three"), "{policy}");
        assert!(allows(http("GET", "https://a.com/v1")) && allows(http("PUT", "https://a.com/v2")));
        let image = |name: &str| allows(Question::Image(name.to_owned()));
        assert!(image("here:1") && image("there:1") && image("other:1") && !image("fourth:1"), "{policy}");
        let repository = |url: &str| allows(Question::Repository(url.to_owned()));
        assert!(repository("https://a.com/org/name") && !repository("https://a.com/org/other"), "{policy}");
        let folders: Vec<_> = grant.files.iter().map(|folder| (folder.at.as_str(), folder.mode)).collect();
        assert_eq!(folders, [("/in", FolderMode::ReadWrite), ("/out", FolderMode::ReadWrite)], "{policy}");
        assert!(!allows(http("PUT", "https://a.com/v1")) && !allows(call("text_x")));
    }
}
