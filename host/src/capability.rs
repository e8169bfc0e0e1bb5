//! Capabilities that a component may import: the one table that admission, linking and `mcpp inspect` read.
//!
//! An interface in no row does not exist for a guest. The host links a row that needs a grant only where the operator gave it.

pub mod bindings;
mod builds;
mod cancellation;
pub mod changed;
pub mod container;
mod deferral;
mod delegation;
pub mod endpoint;
pub mod events;
pub mod files;
mod hooks;
pub mod http;
pub mod inputs;
pub mod keyvalue;
mod logging;
pub mod mesh;
pub mod output;
mod settings;
mod sockets;
pub mod state;
pub mod store;
mod table;
pub mod wasi;

pub use self::table::TABLE;
use wasmtime::component::Linker;

use crate::{capability::state::State, engine::features::WASI_OF_TASKS, grants::ComponentGrant};

/// The start of every version of our own packages that this host links.
pub const SPOKEN: &str = "0.1.";

/// The versions of the standard packages that this host links: all releases that begin with one that ends in a dot, and exactly one of a draft. An empty one is an import
/// without a version.
pub const STANDARD: &[(&str, &[&str])] = &[
    ("wasi:io", &["0.2."]),
    ("wasi:clocks", &["0.2.", WASI_OF_TASKS]),
    ("wasi:random", &["0.2.", WASI_OF_TASKS]),
    ("wasi:cli", &["0.2.", WASI_OF_TASKS]),
    ("wasi:filesystem", &["0.2."]),
    ("wasi:sockets", &["0.2."]),
    ("wasi:http", &["0.2."]),
    ("wasi:keyvalue", &["0.2.0-draft"]),
    ("wasi:config", &["0.2.0-rc.1"]),
    // Its draft is also used as it stands in its repository, where it has no version.
    ("wasi:logging", &["0.1.0-draft", ""]),
];

/// One capability: interfaces that are granted, linked and explained together.
#[derive(Debug)]
pub struct Capability {
    /// Name of the capability in errors and in `mcpp inspect`.
    pub name: &'static str,
    /// Power that it gives a component, in words for an operator.
    pub meaning: &'static str,
    /// The interfaces that belong to it: `namespace:package/interface`, or `namespace:package/` for all of a package.
    interfaces: &'static [&'static str],
    /// Components that have it.
    pub access: Access,
    link: fn(&mut Linker<State>) -> wasmtime::Result<()>,
}

/// Components that have a capability.
#[derive(Debug)]
pub enum Access {
    /// Every component: the capability gives no power over anything outside the call.
    Everyone,
    /// Components with a grant for it.
    Granted {
        /// Whether a grant gives it.
        given: fn(&ComponentGrant) -> bool,
        /// The line to add to the component's grant.
        grant: &'static str,
    },
    /// No component. Every component may import it, because language runtimes do so without using it, and the host denies each of its operations.
    Nobody,
}

/// The line of a grant that gives a store.
pub const STORE: &str = "store = {}";

impl PartialEq for Capability {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Capability {}

impl Capability {
    /// The line of a grant that gives it; none if it needs none, or none gives it.
    pub fn line(&self) -> Option<&'static str> {
        match self.access {
            Access::Granted { grant, .. } => Some(grant),
            Access::Everyone | Access::Nobody => None,
        }
    }

    /// Whether a component needs this line in its grant to have the capability.
    pub fn needs(&self, line: &str) -> bool {
        self.line() == Some(line)
    }
}

/// Reason for which the host refuses an import.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The operator has not granted it.
    #[error(
        "it imports {}; to grant it, add {} to `grants/{component}.toml` in its tenant's folder and run `mcpp reload`",
        listed(missing.iter().map(|(import, lacking)| format!("`{import}`, which needs the capability `{}`", lacking.name)), "; "),
        listed(missing_lines(missing).into_iter().map(|line| format!("`{line}`")), " and "),
    )]
    NotGranted {
        /// The component.
        component: String,
        /// The first import of each capability that it lacks, with that.
        missing: Vec<(String, &'static Capability)>,
    },
    /// The host speaks another version of the interface.
    #[error("it imports `{import}`; this host speaks version {SPOKEN}x of the mcpp packages")]
    Version {
        /// The import.
        import: String,
    },
    /// The host speaks another version of the standard interface.
    #[error("it imports `{import}`; this host speaks version {spoken} of `{package}`; build it for that one")]
    StandardVersion {
        /// The import.
        import: String,
        /// The package.
        package: &'static str,
        /// The version that this host links.
        spoken: String,
    },
    /// The host does not know the interface.
    #[error("it imports `{import}`, which this host does not know; `mcpp wit` lists the interfaces it speaks")]
    Unknown {
        /// The import.
        import: String,
    },
}

/// The capability that has `import` (`namespace:package/interface@version`), if any.
pub fn of_import(import: &str) -> Option<&'static Capability> {
    let interface = import.split('@').next().unwrap_or(import);
    TABLE.iter().find(|capability| {
        capability.interfaces.iter().any(|known| match known.strip_suffix('/') {
            Some(package) => interface.strip_prefix(package).is_some_and(|rest| rest.starts_with('/')),
            None => interface == *known,
        })
    })
}

/// The lines that give what is missing, each once: several capabilities may have one.
pub fn missing_lines(missing: &[(String, &'static Capability)]) -> Vec<&'static str> {
    let mut lines: Vec<&'static str> = Vec::new();
    for line in missing.iter().filter_map(|(_, lacking)| lacking.line()) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Texts one behind the other, with this between them.
fn listed(texts: impl Iterator<Item = String>, between: &str) -> String {
    texts.collect::<Vec<_>>().join(between)
}

/// Checks the imports of `component` against its grant. All that the grant lacks is in one refusal.
pub fn check(
    component: &str,
    imports: impl IntoIterator<Item = String>,
    grant: &ComponentGrant,
) -> Result<(), Refused> {
    let mut missing: Vec<(String, &'static Capability)> = Vec::new();
    for import in imports {
        if let Some(lacking) = lacking(&import, grant)?
            && missing.iter().all(|(_, known)| known.name != lacking.name)
        {
            missing.push((import, lacking));
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Refused::NotGranted { component: component.to_owned(), missing }),
    }
}

/// The capability of one import, if the grant does not give it.
fn lacking(import: &str, grant: &ComponentGrant) -> Result<Option<&'static Capability>, Refused> {
    let import = import.to_owned();
    let foreign_version =
        import.starts_with("mcpp:") && import.split_once('@').is_none_or(|(_, version)| !version.starts_with(SPOKEN));
    if foreign_version && of_import(&import).is_some() {
        return Err(Refused::Version { import });
    }
    let Some(capability) = of_import(&import) else { return Err(Refused::Unknown { import }) };
    if let Some((package, spoken)) = foreign_standard(&import) {
        return Err(Refused::StandardVersion { import, package, spoken });
    }
    Ok(match capability.access {
        Access::Everyone | Access::Nobody => None,
        Access::Granted { given, .. } => (!given(grant)).then_some(capability),
    })
}

/// The standard package of `import`, and the version of it that this host speaks, if the import asks for another.
pub fn foreign_standard(import: &str) -> Option<(&'static str, String)> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let package = interface.split('/').next().unwrap_or(interface);
    let (package, spoken) = STANDARD.iter().find(|(known, _)| *known == package)?;
    let is_release = !version.contains('-');
    let same = |spoken: &&str| match spoken.ends_with('.') {
        true => is_release && version.starts_with(spoken),
        false => version == *spoken,
    };
    let written = |spoken: &&str| match *spoken {
        "" => "none".to_owned(),
        releases if releases.ends_with('.') => format!("{releases}x"),
        draft => draft.to_owned(),
    };
    (!spoken.iter().any(same)).then(|| (*package, spoken.iter().map(written).collect::<Vec<_>>().join(" and ")))
}

/// A linker with the capabilities of every component and those that `grant` gives, and no others.
pub fn linker(engine: &wasmtime::Engine, grant: &ComponentGrant) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    for capability in TABLE {
        let given = match capability.access {
            Access::Everyone | Access::Nobody => true,
            Access::Granted { given, .. } => given(grant),
        };
        if given {
            (capability.link)(&mut linker)?;
        }
    }
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(component: &str, import: &str, grant: &ComponentGrant) -> Result<(), Refused> {
        check(component, [import.to_owned()], grant)
    }

    #[test]
    fn one_refusal_names_all_that_a_grant_lacks_and_each_line_once() {
        let imports = [
            "mcpp:store/transactions@0.1.0",
            "wasi:io/streams@0.2.6",
            "mcpp:events/outbox@0.1.0",
            "mcpp:endpoint/call@0.1.0",
        ];
        let refused = check("shop", imports.map(str::to_owned), &ComponentGrant::default());
        let error = refused.expect_err("no grant").to_string();
        assert!(
            error.starts_with("it imports `mcpp:store/transactions@0.1.0`, which needs the capability `store`; "),
            "{error}"
        );
        assert!(
            error.contains("to grant it, add `store = {}` and `call = [\"TOOL\"]` to `grants/shop.toml`"),
            "{error}"
        );
    }

    #[test]
    fn imports_find_their_capability() {
        for (import, name) in [
            ("wasi:io/streams@0.2.6", Some("runtime")),
            ("wasi:cli/stdout@0.2.0", Some("runtime")),
            ("wasi:filesystem/types@0.2.3", Some("files")),
            ("wasi:keyvalue/atomics@0.2.0-draft", Some("keyvalue")),
            ("wasi:keyvalue/watcher@0.2.0-draft", None),
            ("wasi:config/store@0.2.0-rc.1", Some("config")),
            ("wasi:logging/logging@0.1.0-draft", Some("logging")),
            ("wasi:clocksmith/x@0.2.0", None),
            ("mcpp:endpoint/call@0.1.0", Some("call")),
            ("mcpp:endpoint/caller@0.1.0", Some("endpoint")),
            ("mcpp:client/inputs@0.1.0", Some("client")),
            ("mcpp:delegation/rights@0.1.0", Some("call")),
            ("mcpp:delegation/builds@0.1.4", Some("call")),
            ("mcpp:primitives/changed@0.1.0", Some("changed")),
            ("mcpp:delegation/idempotency@0.1.1", Some("endpoint")),
            ("mcpp:mesh/types@0.1.0", Some("mesh")),
            ("mcpp:mesh/calls@0.1.0", Some("mesh-calls")),
            ("mcpp:mesh/swarm@0.1.0", None),
            ("mcpp:container/containers@0.1.0", Some("containers")),
            ("wasi:sockets/tcp@0.2.0", Some("sockets")),
            ("evil:host/escape", None),
            ("run", None),
        ] {
            assert_eq!(of_import(import).map(|capability| capability.name), name, "{import}");
        }
    }

    #[test]
    fn another_version_of_a_standard_interface_is_refused_by_the_one_that_is_spoken() {
        let granted = ComponentGrant { store: Some(crate::grants::StoreGrant::default()), ..ComponentGrant::default() };
        for (import, spoken) in [
            ("wasi:io/streams@0.2.6", None),
            ("wasi:io/streams@0.3.0", Some("0.2.x")),
            ("wasi:filesystem/types@0.3.0-rc-2026-01-06", Some("0.2.x")),
            ("wasi:filesystem/types", Some("0.2.x")),
            ("wasi:clocks/monotonic-clock@0.3.0", None),
            ("wasi:clocks/monotonic-clock@0.3.0-rc-2026-01-06", Some("0.2.x and 0.3.x")),
            ("wasi:cli/stdout@0.4.0", Some("0.2.x and 0.3.x")),
            ("wasi:sockets/tcp@0.2.12", None),
            ("wasi:sockets/types@0.3.0", Some("0.2.x")),
            ("wasi:http/types@0.3.0", Some("0.2.x")),
            ("wasi:keyvalue/store@0.2.0-draft", None),
            ("wasi:keyvalue/store@0.2.0-draft2", Some("0.2.0-draft")),
            ("wasi:config/store@0.2.0-rc.1", None),
            ("wasi:config/store@0.2.0-draft", Some("0.2.0-rc.1")),
            ("wasi:logging/logging@0.1.0-draft", None),
            ("wasi:logging/logging", None),
            ("wasi:logging/logging@0.1.0", Some("0.1.0-draft and none")),
        ] {
            let said = check_one("guest", import, &granted).map_err(|error| error.to_string());
            match spoken {
                None => assert_eq!(said, Ok(()), "{import}"),
                Some(spoken) => {
                    let error = said.expect_err(import);
                    assert!(error.contains(&format!("speaks version {spoken} of `wasi:")), "{import}: {error}");
                }
            }
        }
    }

    #[test]
    fn a_standard_interface_with_power_needs_its_grant() {
        let error =
            check_one("kv", "wasi:keyvalue/batch@0.2.0-draft", &ComponentGrant::default()).expect_err("no grant");
        assert!(error.to_string().contains("add `store = {}` to `grants/kv.toml`"), "{error}");
        for free in ["wasi:config/store@0.2.0-rc.1", "wasi:logging/logging@0.1.0-draft", "wasi:filesystem/types@0.2.0"]
        {
            assert_eq!(check_one("any", free, &ComponentGrant::default()), Ok(()), "{free} gives no power by itself");
        }
    }

    #[test]
    fn a_refusal_names_the_line_to_add() {
        let error = check_one("greeter", "mcpp:endpoint/call@0.1.0", &ComponentGrant::default()).expect_err("no grant");
        assert!(error.to_string().contains("add `call = [\"TOOL\"]` to `grants/greeter.toml`"), "{error}");
        // Each interface of the mesh has a right of its own.
        let sees = ComponentGrant { mesh: toml::from_str("see = true").expect("valid"), ..ComponentGrant::default() };
        assert_eq!(check_one("greeter", "mcpp:mesh/peers@0.1.0", &sees), Ok(()));
        for other in ["connections", "services", "announcements", "calls"] {
            let error = check_one("greeter", &format!("mcpp:mesh/{other}@0.1.0"), &sees).expect_err("no grant");
            assert!(error.to_string().contains("add `mesh."), "{error}");
        }
    }
}
