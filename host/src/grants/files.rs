//! `[[files]]`: directories of the host that a component may see, and how.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

/// Most directories of one component.
const MAX_FOLDERS: usize = 16;

/// A component's directories; none of them is seen inside another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<FolderGrant>")]
pub struct FolderGrants(Vec<FolderGrant>);

/// One directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawFolder")]
pub struct FolderGrant {
    /// The directory on the host; absolute.
    pub path: PathBuf,
    /// The path at which the component sees the directory; absolute.
    pub at: String,
    /// Access to the directory.
    pub mode: FolderMode,
}

/// Access to a directory and all below it; each later mode includes the earlier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FolderMode {
    /// List and read.
    #[default]
    Read,
    /// Also write, make, rename and remove.
    ReadWrite,
}

impl std::fmt::Display for FolderMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::ReadWrite => "read-write",
        })
    }
}

/// The form in the grant's file.
impl std::fmt::Display for FolderGrant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, at) = (toml::Value::from(self.path.to_string_lossy().as_ref()), toml::Value::from(self.at.as_str()));
        write!(f, "[[files]]\npath = {path}\nat = {at}\nmode = \"{}\"", self.mode)
    }
}

/// A directory as it is written in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFolder {
    path: PathBuf,
    at: Option<String>,
    #[serde(default)]
    mode: FolderMode,
}

impl TryFrom<RawFolder> for FolderGrant {
    type Error = String;

    fn try_from(raw: RawFolder) -> Result<Self, String> {
        let RawFolder { path, at, mode } = raw;
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("the directory {path:?} is not an absolute path without `..`"));
        }
        let at = match at {
            Some(at) => at,
            None => {
                let last = path.file_name().map(|name| format!("/{}", name.to_string_lossy()));
                last.ok_or_else(|| format!("the directory {path:?} needs an `at`: where the component sees it"))?
            }
        };
        let inner = at.strip_prefix('/').filter(|inner| {
            inner.is_empty() || inner.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
        });
        if inner.is_none() {
            return Err(format!("`at = {at:?}` is not an absolute path without `.`, `..` and `//`"));
        }
        Ok(Self { path, at, mode })
    }
}

impl TryFrom<Vec<FolderGrant>> for FolderGrants {
    type Error = String;

    fn try_from(folders: Vec<FolderGrant>) -> Result<Self, String> {
        if folders.len() > MAX_FOLDERS {
            return Err(format!("{} directories; at most {MAX_FOLDERS} are allowed", folders.len()));
        }
        for (index, one) in folders.iter().enumerate() {
            for other in folders.iter().skip(index.saturating_add(1)) {
                let (one, other) = (Path::new(&one.at), Path::new(&other.at));
                if one.starts_with(other) || other.starts_with(one) {
                    return Err(format!("`at = {one:?}` and `at = {other:?}` are the same or one within the other"));
                }
            }
        }
        Ok(Self(folders))
    }
}

impl FolderGrants {
    /// Whether `now` also contains each of these directories.
    pub(super) fn are_within(&self, now: &Self) -> bool {
        self.0.iter().all(|folder| now.0.contains(folder))
    }

    /// The directories.
    pub fn iter(&self) -> impl Iterator<Item = &FolderGrant> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::ComponentGrant;

    fn parse(text: &str) -> Result<Vec<FolderGrant>, String> {
        toml::from_str::<ComponentGrant>(text).map(|grant| grant.files.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_directory_is_read_only_and_has_its_own_name_unless_it_says_otherwise() {
        let text = "[[files]]\npath = '/srv/data'\n[[files]]\npath = '/srv/x'\nat = '/work/out'\nmode = 'read-write'\n";
        let folders = parse(text).expect("valid");
        let seen: Vec<_> = folders.iter().map(|folder| (folder.at.as_str(), folder.mode)).collect();
        assert_eq!(seen, [("/data", FolderMode::Read), ("/work/out", FolderMode::ReadWrite)]);
    }

    #[test]
    fn a_directory_is_written_as_it_is_read() {
        let grant = FolderGrant { path: "/srv/\"a\\b\"\n".into(), at: "/x \"y\"".into(), mode: FolderMode::ReadWrite };
        assert_eq!(parse(&grant.to_string()), Ok(vec![grant]));
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        let two = |one: &str, other: &str| {
            format!("[[files]]\npath = '/a'\nat = '{one}'\n[[files]]\npath = '/b'\nat = '{other}'\n")
        };
        for (text, says) in [
            ("[[files]]\npath = 'data'\n".to_owned(), "is not an absolute path"),
            ("[[files]]\npath = '/srv/../etc'\n".to_owned(), "is not an absolute path"),
            ("[[files]]\npath = '/'\n".to_owned(), "needs an `at`"),
            ("[[files]]\npath = '/a'\nat = 'data'\n".to_owned(), "is not an absolute path"),
            ("[[files]]\npath = '/a'\nat = '/x/../y'\n".to_owned(), "is not an absolute path"),
            ("[[files]]\npath = '/a'\nat = '/x//y'\n".to_owned(), "is not an absolute path"),
            ("[[files]]\npath = '/a'\nmode = 'write'\n".to_owned(), "unknown variant `write`"),
            ("[[files]]\npath = '/a'\nowner = 'me'\n".to_owned(), "unknown field `owner`"),
            (two("/x", "/x"), "the same or one within the other"),
            (two("/x/y", "/x"), "the same or one within the other"),
            (two("/", "/x"), "the same or one within the other"),
            ((0..17).map(|n| format!("[[files]]\npath = '/{n}'\n")).collect(), "at most 16"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(says), "{text:?} gave {error:?}, which does not say {says:?}");
        }
        assert_eq!(parse(&two("/x", "/xy")).map(|folders| folders.len()), Ok(2), "a name's start is not its parent");
    }
}
