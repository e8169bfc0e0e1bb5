//! The tenants there are, as files: each has a folder with its settings, grants, tools and secrets.
//!
//! ```text
//! DATA/                    the tenant `local`: grants/, fetched/, pinned/, accepted.json, secrets.toml; its tools folders are the configuration's
//! DATA/tenants/NAME/       every other tenant: tenant.toml, grants/, tools/, fetched/, pinned/, accepted.json, secrets.toml
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use super::Incarnation;
use crate::{
    files::{lock, narrow, narrow_all, private_folder, write_durably},
    limits::{TenantLimits, TenantLimitsPatch},
    names::TenantId,
};

/// The version of the settings file that this host reads and writes.
const FORMAT_VERSION: u32 = 1;
const SETTINGS: &str = "tenant.toml";
/// The key of all tenants' secrets, in the data directory, unless the operator keeps it elsewhere.
pub const KEY_FILE: &str = "secrets.key";
/// A tenant's tools, in its folder.
const TOOLS: &str = "tools";
/// The components that a tenant fetched from peers, in its folder.
const FETCHED: &str = "fetched";
/// The builds of components that are needed after others have taken their place, in a tenant's folder.
const PINNED: &str = "pinned";
/// The other tenants' folders, in the data directory.
const TENANTS: &str = "tenants";
/// Folders of the data directory that hold nothing but the host's files.
const OWN_FOLDERS: [&str; 5] = ["store", "compiled", "grants", FETCHED, PINNED];

/// Where all tenants' files are.
#[derive(Debug, Clone)]
pub struct Homes {
    data: PathBuf,
}

/// Where one tenant's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// The tenant.
    pub tenant: TenantId,
    /// Its folder.
    pub path: PathBuf,
}

/// The settings of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSettings {
    /// The version of the format.
    pub version: u32,
    /// Whether a component that is new, asks for more or shows clients something else waits until it is accepted.
    #[serde(default = "yes")]
    pub pinned: bool,
    /// The host refuses every request of the tenant, and runs none of its tools.
    #[serde(default)]
    pub suspended: bool,
    /// Which of the tenants that ever had this name it is.
    #[serde(default, skip_serializing_if = "Incarnation::is_none")]
    pub incarnation: Incarnation,
    /// When it was made.
    #[serde(default, with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub created: Option<SystemTime>,
    /// Limits that differ from the host's.
    #[serde(default)]
    pub limits: TenantLimitsPatch,
}

impl Default for TenantSettings {
    fn default() -> Self {
        Self {
            version: FORMAT_VERSION,
            pinned: true,
            suspended: false,
            incarnation: Incarnation::default(),
            created: None,
            limits: TenantLimitsPatch::default(),
        }
    }
}

fn yes() -> bool {
    true
}

/// Why a tenant's files are not usable.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// A file or folder could not be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The settings are not valid.
    #[error("the settings {path} are not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// The settings have another version.
    #[error("the settings {path} have version {found}; this host reads version {FORMAT_VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Their version.
        found: u32,
    },
    /// There is such a tenant already.
    #[error("there is a tenant `{0}` already")]
    Exists(TenantId),
    /// There is no such tenant.
    #[error("there is no tenant `{0}`; `mcpp tenant list` shows those there are")]
    Unknown(TenantId),
    /// The name means the host itself.
    #[error("no tenant may be called `{0}`: by that name the host means itself")]
    Reserved(TenantId),
    /// The tenant is the host's own user.
    #[error("the tenant `local` is the host's own user: it is always there and cannot be {0}")]
    Local(&'static str),
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> HomeError + use<> {
    let path = path.to_owned();
    move |source| HomeError::Io { path, source }
}

impl Homes {
    /// The tenants of a data directory.
    pub fn new(data: PathBuf) -> Self {
        Self { data }
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Where a tenant's files are, or would be.
    pub fn of(&self, tenant: &TenantId) -> Home {
        let path = if *tenant == TenantId::local() {
            self.data.clone()
        } else {
            self.data.join(TENANTS).join(tenant.as_str())
        };
        Home { tenant: tenant.clone(), path }
    }

    /// All tenants: `local`, then the others by name.
    pub fn list(&self) -> Result<Vec<Home>, HomeError> {
        let mut homes = vec![self.of(&TenantId::local())];
        let folder = self.data.join(TENANTS);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(homes),
            Err(error) => return Err(failed(&folder)(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed(&folder))?.path();
            // A folder without settings is one that is being made, or removed.
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| TenantId::new(name).ok());
            if let Some(tenant) = name.filter(|name| *name != TenantId::local())
                && path.join(SETTINGS).is_file()
            {
                homes.push(Home { tenant, path });
            }
        }
        homes.sort_by(|a, b| {
            (a.tenant != TenantId::local(), &a.tenant).cmp(&(b.tenant != TenantId::local(), &b.tenant))
        });
        Ok(homes)
    }

    /// The home of a tenant that there is.
    pub fn find(&self, tenant: &TenantId) -> Result<Home, HomeError> {
        let home = self.of(tenant);
        if *tenant == TenantId::local() || home.path.join(SETTINGS).is_file() {
            Ok(home)
        } else {
            Err(HomeError::Unknown(tenant.clone()))
        }
    }

    /// Makes a tenant with an empty tools folder.
    pub fn add(&self, tenant: &TenantId, settings: TenantSettings) -> Result<Home, HomeError> {
        if self.find(tenant).is_ok() {
            return Err(HomeError::Exists(tenant.clone()));
        }
        if tenant.is_reserved() {
            return Err(HomeError::Reserved(tenant.clone()));
        }
        let home = self.of(tenant);
        for folder in [home.tools(), home.grants()] {
            private_folder(&folder).map_err(failed(&folder))?;
        }
        // The settings last: with them, the tenant is there.
        let incarnation = Incarnation::random().map_err(failed(&home.path))?;
        home.write(&TenantSettings { incarnation, created: Some(SystemTime::now()), ..settings })?;
        Ok(home)
    }

    /// Removes a tenant's files. The caller removes the tenant's data in the store.
    pub fn remove(&self, tenant: &TenantId) -> Result<(), HomeError> {
        if *tenant == TenantId::local() {
            return Err(HomeError::Local("removed"));
        }
        let home = self.find(tenant)?;
        let settings = home.path.join(SETTINGS);
        std::fs::remove_file(&settings).map_err(failed(&settings))?;
        std::fs::remove_dir_all(&home.path).map_err(failed(&home.path))
    }

    /// Makes the data directory if it is not there, and takes the rights to it and to all of the host's files in it from everybody but the owner. Folders that are not
    /// the host's stay as they are, and so does a tenant's tools folder: it is made for its owner only, and an operator may open it to those who save builds there.
    pub fn make_private(&self) -> io::Result<()> {
        private_folder(&self.data)?;
        let mut outcome = narrow(&self.data);
        for folder in OWN_FOLDERS {
            outcome = outcome.and(narrow_all(&self.data.join(folder), None));
        }
        let tenants = self.data.join(TENANTS);
        match narrow(&tenants) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            narrowed => outcome = outcome.and(narrowed),
        }
        for entry in std::fs::read_dir(&tenants).into_iter().flatten().flatten() {
            outcome = outcome.and(narrow_all(&entry.path(), Some(TOOLS)));
        }
        for entry in std::fs::read_dir(&self.data)?.flatten() {
            // A key that others could read is refused when it is used: to narrow it would hide that it has leaked.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) && entry.file_name() != KEY_FILE {
                outcome = outcome.and(narrow(&entry.path()));
            }
        }
        outcome
    }

    /// Where the tokens of all tenants are.
    pub fn tokens(&self) -> PathBuf {
        self.data.join("tokens.toml")
    }

    /// Where compiled components of this program itself are kept: by a name that no tenant can have.
    pub fn compiled_built_in(&self) -> PathBuf {
        self.data.join("compiled").join("_built-in")
    }

    /// Where compiled components of a tenant are kept.
    pub fn compiled(&self, tenant: &TenantId) -> PathBuf {
        self.data.join("compiled").join(tenant.as_str())
    }
}

impl Home {
    /// The folder of grants.
    pub fn grants(&self) -> PathBuf {
        self.path.join("grants")
    }

    /// The folder of tools.
    pub fn tools(&self) -> PathBuf {
        self.path.join(TOOLS)
    }

    /// The folder of components that were fetched from peers.
    pub fn fetched(&self) -> PathBuf {
        self.path.join(FETCHED)
    }

    /// The folder of builds that are needed after others have taken their place.
    pub fn pinned(&self) -> PathBuf {
        self.path.join(PINNED)
    }

    /// The file of the pinned components that the operator has accepted.
    pub fn accepted(&self) -> PathBuf {
        self.path.join("accepted.json")
    }

    /// The tenant's settings.
    pub fn settings(&self) -> Result<TenantSettings, HomeError> {
        let path = self.path.join(SETTINGS);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.tenant == TenantId::local() => {
                return Ok(TenantSettings::default());
            }
            Err(error) => return Err(failed(&path)(error)),
        };
        let settings: TenantSettings = toml::from_str(&text)
            .map_err(|source| HomeError::Parse { path: path.clone(), source: Box::new(source) })?;
        if settings.version != FORMAT_VERSION {
            return Err(HomeError::Version { path, found: settings.version });
        }
        Ok(settings)
    }

    /// The tenant's limits, where `defaults` holds unless it has its own.
    pub fn limits(&self, defaults: &TenantLimits) -> Result<TenantLimits, HomeError> {
        Ok(defaults.patched(&self.settings()?.limits))
    }

    /// Sets something for the tenant.
    pub fn change(&self, change: impl FnOnce(&mut TenantSettings)) -> Result<TenantSettings, HomeError> {
        let path = self.path.join(SETTINGS);
        let _one_at_a_time = lock(&path).map_err(failed(&path))?;
        let mut settings = self.settings()?;
        change(&mut settings);
        self.write(&settings)?;
        Ok(settings)
    }

    fn write(&self, settings: &TenantSettings) -> Result<(), HomeError> {
        let path = self.path.join(SETTINGS);
        let text = toml::to_string(settings).map_err(|error| failed(&path)(io::Error::other(error)))?;
        write_durably(&path, text.as_bytes()).map_err(failed(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let homes = Homes::new(folder.path().to_owned());
        let (team, local) = (TenantId::new("team").expect("legal"), TenantId::local());
        let names = || homes.list().expect("listed").into_iter().map(|home| home.tenant).collect::<Vec<_>>();
        assert_eq!(names(), std::slice::from_ref(&local));
        let settings = || toml::from_str::<TenantSettings>("version = 1\nlimits = { running = 3 }").expect("valid");
        let home = homes.add(&team, settings()).expect("made");
        let first = home.settings().expect("read").incarnation;
        assert!(!first.is_none());
        assert!(home.settings().expect("read").pinned, "what others bring waits to be accepted");
        assert!(matches!(homes.add(&team, settings()), Err(HomeError::Exists(_))));
        assert!(matches!(homes.add(&local, settings()), Err(HomeError::Exists(_))));
        for name in ["built-in", "host", "mcpp"] {
            let name = TenantId::new(name).expect("legal");
            assert!(matches!(homes.add(&name, settings()), Err(HomeError::Reserved(_))), "{name}");
        }
        let built_in = homes.compiled_built_in();
        let name = built_in.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(TenantId::new(name).is_err(), "no tenant's cache is the built-in components'");
        assert_eq!(names(), [local.clone(), team.clone()]);
        assert_eq!(home.limits(&TenantLimits::default()).expect("read").running, 3);
        assert!(home.change(|settings| settings.suspended = true).expect("changed").suspended);
        assert!(homes.find(&team).and_then(|home| home.settings()).expect("read").suspended);
        std::fs::write(home.path.join(SETTINGS), "version = 2").expect("written");
        assert!(matches!(home.settings(), Err(HomeError::Version { found: 2, .. })));
        std::fs::write(home.path.join(SETTINGS), "version = 1\nadmin = true").expect("written");
        assert!(matches!(home.settings(), Err(HomeError::Parse { .. })));
        homes.remove(&team).expect("removed");
        let again = homes.add(&team, settings()).expect("made again").settings().expect("read").incarnation;
        assert_ne!(again, first, "one of the same name is another");
        homes.remove(&team).expect("removed");
        assert!(matches!(homes.remove(&team), Err(HomeError::Unknown(_))));
        assert!(matches!(homes.remove(&local), Err(HomeError::Local(_))));
        assert_eq!(names(), [local]);
    }
}
