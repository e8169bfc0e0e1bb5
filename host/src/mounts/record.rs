//! A tenant's mounts in their file, with the tools that the operator accepted: one file a tenant, changed by one at a time.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::{
    files::{lock, write_durably},
    mcp::mesh::remote::list::PeerTool,
    mesh::PeerId,
    names::{ComponentName, ToolName, ToolPattern},
    peers::invitation::MAX_PATTERNS,
    tenant::{Incarnation, home::Home},
};

/// The version of the file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
/// The file, in the tenant's home.
const FILE_NAME: &str = "mounts.json";
/// Mounts of one tenant.
pub const MAX_MOUNTS: usize = 32;
/// Peers of one mount.
pub const MAX_PEERS: usize = 8;
/// Tools of one mount.
pub const MAX_MOUNTED_TOOLS: usize = 256;
/// A larger file is refused: it is read as a whole, and written as a whole at each change.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// A mount's name: 1 to 32 characters of `a-z A-Z 0-9 _ -`. Its tools are called `NAME_TOOL`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountName(ComponentName);

/// A mount name that breaks the rule.
#[derive(Debug, thiserror::Error)]
#[error("mount name {0:?} is not 1 to 32 characters of `a-z`, `A-Z`, `0-9`, `_` and `-`")]
pub struct InvalidMountName(String);

impl MountName {
    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The name as the one of a component that has no power.
    pub fn component(&self) -> &ComponentName {
        &self.0
    }

    /// The name, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.shared()
    }

    /// The name here of a peer's tool; none if it would be too long.
    pub fn of_tool(&self, tool: &ToolName) -> Option<ToolName> {
        ToolName::new(&format!("{self}_{tool}")).ok()
    }
}

impl fmt::Display for MountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for MountName {
    type Err = InvalidMountName;

    fn from_str(name: &str) -> Result<Self, InvalidMountName> {
        let invalid = || InvalidMountName(name.chars().take(80).collect());
        if name.len() > 32 {
            return Err(invalid());
        }
        ComponentName::new(name).map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for MountName {
    type Error = InvalidMountName;

    fn try_from(name: String) -> Result<Self, InvalidMountName> {
        name.parse()
    }
}

impl From<MountName> for String {
    fn from(name: MountName) -> Self {
        name.as_str().to_owned()
    }
}

/// One mount as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountRecord {
    /// The hosts whose tools it has, by their ids.
    pub peers: Vec<PeerId>,
    /// The tools that it has, by their names there: names, or prefixes that end in `*`.
    pub tools: Vec<ToolPattern>,
    /// When it was made.
    #[serde(with = "humantime_serde")]
    pub since: SystemTime,
    /// The tools that the operator accepted, by their names there.
    #[serde(default)]
    pub accepted: BTreeMap<ToolName, PeerTool>,
}

/// Why a tenant's mounts are not usable, or are not changed.
#[derive(Debug, thiserror::Error)]
pub enum MountFileError {
    /// The file could not be read or written.
    #[error("cannot use {path}, which has the tenant's mounts")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There are too many mounts, or too much in them.
    #[error(
        "a tenant has at most {MAX_MOUNTS} mounts, and {MAX_FILE_BYTES} bytes of accepted tools in them; unmount some"
    )]
    Full,
    /// The mount has no legal number of something.
    #[error(
        "a mount has 1 to {MAX_PEERS} peers, 1 to {MAX_PATTERNS} tools or prefixes, and at most {MAX_MOUNTED_TOOLS} accepted tools"
    )]
    Bounds,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MountTable {
    version: u32,
    /// Which of the tenants that ever had its name it is.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    incarnation: Incarnation,
    mounts: BTreeMap<MountName, MountRecord>,
}

/// The mounts of one tenant in their file.
#[derive(Debug, Clone)]
pub struct MountFile {
    path: PathBuf,
    incarnation: Incarnation,
}

impl MountFile {
    /// The file in a tenant's home, of the tenant with that incarnation.
    pub fn new(home: &Home, incarnation: Incarnation) -> Self {
        Self { path: home.path.join(FILE_NAME), incarnation }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, source: io::Error) -> MountFileError {
        MountFileError::Io { path: self.path.clone(), source }
    }

    /// All mounts; none if there never was one. Blocks.
    pub fn read(&self) -> Result<BTreeMap<MountName, MountRecord>, MountFileError> {
        let file = match std::fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            opened => opened.map_err(|error| self.failed(error))?,
        };
        let mut text = Vec::new();
        file.take(MAX_FILE_BYTES.saturating_add(1)).read_to_end(&mut text).map_err(|error| self.failed(error))?;
        if !fits(&text) {
            return Err(MountFileError::Full);
        }
        let table: MountTable = serde_json::from_slice(&text).map_err(|error| self.failed(error.into()))?;
        if table.version != FORMAT_VERSION {
            return Err(self.failed(io::Error::other(format!("it has version {}", table.version))));
        }
        // Those of another tenant that had this name are not this one's.
        if table.incarnation != self.incarnation {
            return Ok(BTreeMap::new());
        }
        check(&table.mounts)?;
        Ok(table.mounts)
    }

    /// Changes the mounts. One changes them at a time. Blocks.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<MountName, MountRecord>) -> T,
    ) -> Result<T, MountFileError> {
        let _one_at_a_time = lock(&self.path).map_err(|error| self.failed(error))?;
        let before = self.read()?;
        let mut mounts = before.clone();
        let done = change(&mut mounts);
        if mounts != before {
            check(&mounts)?;
            let table = MountTable { version: FORMAT_VERSION, incarnation: self.incarnation.clone(), mounts };
            let text = serde_json::to_vec_pretty(&table).map_err(|error| self.failed(error.into()))?;
            if !fits(&text) {
                return Err(MountFileError::Full);
            }
            write_durably(&self.path, &text).map_err(|error| self.failed(error))?;
        }
        Ok(done)
    }
}

fn check(mounts: &BTreeMap<MountName, MountRecord>) -> Result<(), MountFileError> {
    if mounts.len() > MAX_MOUNTS {
        return Err(MountFileError::Full);
    }
    let is_legal = |record: &MountRecord| {
        (1..=MAX_PEERS).contains(&record.peers.len())
            && (1..=MAX_PATTERNS).contains(&record.tools.len())
            && record.accepted.len() <= MAX_MOUNTED_TOOLS
    };
    if mounts.values().all(is_legal) { Ok(()) } else { Err(MountFileError::Bounds) }
}

fn fits(text: &[u8]) -> bool {
    u64::try_from(text.len()).is_ok_and(|bytes| bytes <= MAX_FILE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::TenantId, tenant::home::Homes};

    fn record(peers: usize) -> MountRecord {
        let peer: PeerId = "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo".parse().expect("a peer");
        MountRecord {
            peers: vec![peer; peers],
            tools: vec!["*".parse().expect("a pattern")],
            since: SystemTime::UNIX_EPOCH,
            accepted: BTreeMap::new(),
        }
    }

    fn tool(bytes: usize) -> PeerTool {
        PeerTool {
            name: "t".into(),
            title: None,
            description: "x".repeat(bytes),
            input_schema: "{}".into(),
            output_schema: None,
            hints: Default::default(),
        }
    }

    #[test]
    fn mounts_are_kept_privately_and_within_their_bounds() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Homes::new(folder.path().to_owned()).of(&TenantId::local());
        let file = MountFile::new(&home, Incarnation::default());
        let name = |number: usize| -> MountName { format!("m{number}").parse().expect("legal") };
        assert!(file.read().expect("none yet").is_empty());
        file.change(|mounts| mounts.insert(name(0), record(1))).expect("kept");
        assert_eq!(file.read().expect("read")[&name(0)], record(1));
        let mode = std::fs::metadata(file.path()).expect("there");
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        let put = |number: usize, record: MountRecord| file.change(|mounts| drop(mounts.insert(name(number), record)));
        assert!(matches!(put(1, record(0)), Err(MountFileError::Bounds)));
        assert!(matches!(put(1, record(MAX_PEERS + 1)), Err(MountFileError::Bounds)));
        (1..MAX_MOUNTS).for_each(|number| put(number, record(MAX_PEERS)).expect("room"));
        assert!(matches!(put(MAX_MOUNTS, record(1)), Err(MountFileError::Full)));
        let mut large = record(1);
        let bytes = usize::try_from(MAX_FILE_BYTES).expect("fits");
        large.accepted.insert(ToolName::new("t").expect("legal"), tool(bytes));
        assert!(matches!(put(0, large), Err(MountFileError::Full)));
        let other = MountFile::new(&home, Incarnation::random().expect("chance"));
        assert!(other.read().expect("read").is_empty(), "another tenant of that name has none");
    }

    #[test]
    fn a_name_and_a_tool_make_a_name() {
        let gpu: MountName = "gpu".parse().expect("legal");
        let of = |tool: String| gpu.of_tool(&ToolName::new(&tool).expect("legal")).map(|name| name.to_string());
        assert_eq!(of("render_x".into()).as_deref(), Some("gpu_render_x"));
        assert_eq!((of("x".repeat(124)).is_some(), of("x".repeat(125))), (true, None));
        for bad in ["", "a b", "a.b", &"x".repeat(33)] {
            assert!(bad.parse::<MountName>().is_err(), "{bad}");
        }
    }
}
