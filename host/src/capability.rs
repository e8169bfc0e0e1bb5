//! What a component may import, capability by capability: the one table that admission, linking and `mcpp inspect` read.
//!
//! An interface that stands in no row does not exist for a guest. A row that needs a grant is linked only where the operator gave it.

pub mod endpoint;
pub mod events;
pub mod http;
pub mod store;
pub mod wasi;

use wasmtime::component::Linker;

use crate::{grants::ComponentGrant, wasm::state::State};

/// The start of every version of our own packages that this host links.
pub const SPOKEN: &str = "0.1.";

/// One capability: interfaces that are granted, linked and explained together.
#[derive(Debug)]
pub struct Capability {
    /// The name by which errors and `mcpp inspect` call it.
    pub name: &'static str,
    /// What it lets a component do, in words for an operator.
    pub meaning: &'static str,
    /// The interfaces that belong to it: `namespace:package/interface`, or `namespace:package/` for all of a package.
    interfaces: &'static [&'static str],
    /// Who has it.
    pub access: Access,
    link: fn(&mut Linker<State>) -> wasmtime::Result<()>,
}

/// Who has a capability.
#[derive(Debug)]
pub enum Access {
    /// Every component: it gives no power over anything outside the call.
    Everyone,
    /// Components with a grant for it.
    Granted {
        /// Whether a grant gives it.
        given: fn(&ComponentGrant) -> bool,
        /// The line to add under `[components.NAME]` of the grants file.
        grant: &'static str,
    },
    /// Nobody: this host does not offer it.
    Nobody,
}

/// All capabilities, in the order in which they are linked.
pub const TABLE: &[Capability] = &[
    Capability {
        name: "runtime",
        meaning: "clocks, random numbers, and standard output as log records; no files, no environment, no network",
        interfaces: &["wasi:io/", "wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:filesystem/"],
        access: Access::Everyone,
        link: wasi::link,
    },
    Capability {
        name: "endpoint",
        meaning: "see who calls, write log records and report progress of the running call",
        interfaces: &["mcpp:tool/types", "mcpp:endpoint/caller", "mcpp:endpoint/log", "mcpp:endpoint/progress"],
        access: Access::Everyone,
        link: endpoint::link,
    },
    Capability {
        name: "call",
        meaning: "call other tools of the same tenant, as the same caller",
        interfaces: &["mcpp:endpoint/call"],
        access: Access::Granted { given: |grant| !grant.call.is_empty(), grant: "call = [\"TOOL\"]" },
        link: endpoint::link_call,
    },
    Capability {
        name: "store",
        meaning: "keep data of its own, on disk, up to the quota that the grant sets",
        interfaces: &["mcpp:store/types", "mcpp:store/snapshots", "mcpp:store/transactions", "mcpp:store/changes"],
        access: Access::Granted { given: |grant| grant.store.is_some(), grant: "store = {}" },
        link: store::link,
    },
    Capability {
        name: "events",
        meaning: "emit events on its own topics and set timers for itself, in transactions of its store",
        interfaces: &["mcpp:events/outbox"],
        access: Access::Granted { given: |grant| grant.store.is_some(), grant: "store = {}" },
        link: events::link,
    },
    Capability {
        name: "sockets",
        meaning: "open network connections of its own",
        interfaces: &["wasi:sockets/"],
        access: Access::Nobody,
        link: |_| Ok(()),
    },
    Capability {
        name: "http",
        meaning: "make the HTTP requests that its rules allow, within its budgets of requests and bytes",
        interfaces: &["wasi:http/types", "wasi:http/outgoing-handler"],
        access: Access::Granted {
            given: |grant| !grant.http.is_empty(),
            grant: "http = [{ url = \"https://HOST/*\" }]",
        },
        link: http::link,
    },
];

/// Why an import is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The operator has not granted it.
    #[error(
        "it imports `{import}`, which needs the capability `{capability}`; to grant it, add `{grant}` under \
         `[components.{component}]` in the grants file and run `mcpp reload`"
    )]
    NotGranted {
        /// The component.
        component: String,
        /// What it imports.
        import: String,
        /// The capability that has this interface.
        capability: &'static str,
        /// The line to add.
        grant: &'static str,
    },
    /// The host knows the interface and does not offer it.
    #[error("it imports `{import}` (capability `{capability}`), which this host does not offer to any component")]
    NotOffered {
        /// What it imports.
        import: String,
        /// The capability.
        capability: &'static str,
    },
    /// The host speaks another version of the interface.
    #[error("it imports `{import}`; this host speaks version {SPOKEN}x of the mcpp packages")]
    Version {
        /// What it imports.
        import: String,
    },
    /// The host does not know the interface.
    #[error("it imports `{import}`, which this host does not know; `mcpp wit` lists the interfaces it speaks")]
    Unknown {
        /// What it imports.
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

/// Checks one import of `component` against its grant.
pub fn check(component: &str, import: &str, grant: &ComponentGrant) -> Result<(), Refused> {
    let import = import.to_owned();
    let foreign_version =
        import.starts_with("mcpp:") && import.split_once('@').is_none_or(|(_, version)| !version.starts_with(SPOKEN));
    if foreign_version && of_import(&import).is_some() {
        return Err(Refused::Version { import });
    }
    let Some(capability) = of_import(&import) else { return Err(Refused::Unknown { import }) };
    match capability.access {
        Access::Everyone => Ok(()),
        Access::Granted { given, .. } if given(grant) => Ok(()),
        Access::Granted { grant, .. } => {
            Err(Refused::NotGranted { component: component.to_owned(), import, capability: capability.name, grant })
        }
        Access::Nobody => Err(Refused::NotOffered { import, capability: capability.name }),
    }
}

/// A linker with what everyone has and what `grant` gives, and nothing else.
pub fn linker(engine: &wasmtime::Engine, grant: &ComponentGrant) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    for capability in TABLE {
        let given = match capability.access {
            Access::Everyone => true,
            Access::Granted { given, .. } => given(grant),
            Access::Nobody => false,
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

    #[test]
    fn imports_find_their_capability() {
        for (import, name) in [
            ("wasi:io/streams@0.2.6", Some("runtime")),
            ("wasi:cli/stdout@0.2.0", Some("runtime")),
            ("wasi:clocksmith/x@0.2.0", None),
            ("mcpp:endpoint/call@0.1.0", Some("call")),
            ("mcpp:endpoint/caller@0.1.0", Some("endpoint")),
            ("wasi:sockets/tcp@0.2.0", Some("sockets")),
            ("evil:host/escape", None),
            ("run", None),
        ] {
            assert_eq!(of_import(import).map(|capability| capability.name), name, "{import}");
        }
    }

    #[test]
    fn a_refusal_names_the_line_to_add() {
        let error = check("greeter", "mcpp:endpoint/call@0.1.0", &ComponentGrant::default()).expect_err("no grant");
        assert!(error.to_string().contains("add `call = [\"TOOL\"]` under `[components.greeter]`"), "{error}");
    }
}
