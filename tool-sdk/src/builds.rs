//! Builds of components for work that goes on after others have taken their place: a component pins the builds with which the work began, calls their tools, and unpins them
//! when the work has ended. A component that uses this needs a grant: `call = ["TOOL"]`.
//!
//! ```
//! use std::time::Duration;
//! use mcpp_tool::{builds, rights};
//!
//! let begun_with = builds::pin(["text_hash"])?;
//! // Days later, and many builds later:
//! let answer = rights::of_caller().call_on(&begun_with, None, "text_hash", &serde_json::json!({ "text": "x" }), None);
//! builds::unpin(&begun_with);
//! # Ok::<_, builds::PinError>(())
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Output,
    call::CallError,
    rights::{Description, Rights},
};

/// One build of a component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Build {
    /// The component.
    pub component: String,
    /// The digest of its bytes: 64 hexadecimal digits.
    pub digest: String,
}

/// Why builds are not pinned. None of them is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinError {
    /// Not both the caller and this component may call this tool.
    NotFound(String),
    /// The tenant has so many pinned builds already, or bytes of them.
    TooMany(String),
    /// A build cannot be kept; why.
    Unavailable(String),
}

impl std::fmt::Display for PinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound(tool) => write!(f, "there is no tool `{tool}`"),
            Self::TooMany(most) => write!(f, "the tenant has {most} pinned already; `mcpp info` shows by whom"),
            Self::Unavailable(reason) => write!(f, "the build cannot be kept: {reason}"),
        }
    }
}

impl std::error::Error for PinError {}

/// Pins the live builds of the components that have these tools. Tools of other hosts have none here.
///
/// # Errors
/// See [`PinError`].
pub fn pin(tools: impl IntoIterator<Item = impl Into<String>>) -> Result<Vec<Build>, PinError> {
    let tools: Vec<String> = tools.into_iter().map(Into::into).collect();
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::delegation::builds as host;
        let pinned = host::pin(&tools).map_err(|error| match error {
            host::PinError::NotFound(tool) => PinError::NotFound(tool),
            host::PinError::TooMany(most) => PinError::TooMany(most),
            host::PinError::Unavailable(reason) => PinError::Unavailable(reason),
        })?;
        Ok(pinned.into_iter().map(|host::Build { component, digest }| Build { component, digest }).collect())
    }
    #[cfg(not(target_arch = "wasm32"))]
    Ok(memory::pin(&tools))
}

/// Unpins builds that this component has pinned.
pub fn unpin(builds: &[Build]) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::mcpp::delegation::builds::unpin(&to_host(builds));
    #[cfg(not(target_arch = "wasm32"))]
    memory::unpin(builds);
}

/// The builds that this component has pinned.
pub fn pinned() -> Vec<Build> {
    #[cfg(target_arch = "wasm32")]
    {
        use crate::bindings::mcpp::delegation::builds as host;
        host::pinned().into_iter().map(|host::Build { component, digest }| Build { component, digest }).collect()
    }
    #[cfg(not(target_arch = "wasm32"))]
    memory::pinned()
}

/// As [`describe`](crate::rights::describe), of the one of these builds that has the tool; of today's tool without builds.
pub fn describe(builds: &[Build], tool: &str) -> Option<Description> {
    #[cfg(target_arch = "wasm32")]
    {
        let found = crate::bindings::mcpp::delegation::builds::describe_on(&to_host(builds), tool)?;
        Description::read(found.input_schema, found.output_schema)
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _no_catalog = (builds, tool);
        None
    }
}

/// Whether a tool is one of another host, or of the host itself, which has no builds.
pub fn is_elsewhere(tool: &str) -> bool {
    // Such a tool is described on any build, also on one that is not there.
    #[cfg(target_arch = "wasm32")]
    return describe(&[Build { component: "none".into(), digest: String::new() }], tool).is_some();
    #[cfg(not(target_arch = "wasm32"))]
    memory::is_elsewhere(tool)
}

/// The one of these builds that has a tool; none for a tool that [is elsewhere](is_elsewhere).
pub fn of_tool<'a>(builds: &'a [Build], tool: &str) -> Option<&'a Build> {
    #[cfg(target_arch = "wasm32")]
    {
        let has_tool = |build: &&Build| describe(std::slice::from_ref(*build), tool).is_some();
        builds.iter().find(has_tool).filter(|_| !is_elsewhere(tool))
    }
    #[cfg(not(target_arch = "wasm32"))]
    memory::of_tool(builds, tool)
}

/// Where a call ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Here,
    /// On a peer, which has the tool for a mount: the peer's id.
    Peer(String),
}

/// The end of a call, and where it ran.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedCall {
    /// The answer, as [`Rights::call_on`] gives it.
    pub answer: Result<Output, CallError>,
    /// The place in which the call began to run; none if it ran nowhere.
    pub place: Option<Place>,
}

impl Rights {
    /// As [`Rights::call_on`], with the place. In a native test there is nothing to call: [`CallError::NotFound`].
    pub fn call_placed(
        &self,
        builds: &[Build],
        effect: Option<&str>,
        tool: &str,
        arguments: &impl Serialize,
        timeout: Option<Duration>,
    ) -> PlacedCall {
        let arguments = match serde_json::to_string(arguments) {
            Ok(arguments) => arguments,
            Err(error) => {
                return PlacedCall { answer: Err(CallError::InvalidArguments(error.to_string())), place: None };
            }
        };
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::mcpp::delegation::builds as host;
            let terms = self.terms(effect, timeout);
            let host::PlacedCall { answer, place } = host::call_placed(&terms, &to_host(builds), tool, &arguments);
            let place = place.map(|place| match place {
                host::Place::Here => Place::Here,
                host::Place::Peer(peer) => Place::Peer(peer),
            });
            PlacedCall { answer: answer.map(Output::from).map_err(CallError::from), place }
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            let _nothing_to_call = (builds, effect, tool, arguments, timeout);
            PlacedCall { answer: Err(CallError::NotFound), place: None }
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn to_host(builds: &[Build]) -> Vec<crate::bindings::mcpp::delegation::builds::Build> {
    use crate::bindings::mcpp::delegation::builds as host;
    let each = builds.iter().cloned();
    each.map(|Build { component, digest }| host::Build { component, digest }).collect()
}

/// The builds of native tests.
#[cfg(not(target_arch = "wasm32"))]
pub mod memory {
    use std::{
        cell::RefCell,
        collections::{BTreeMap, BTreeSet},
    };

    use super::Build;

    thread_local! {
        static LIVE: RefCell<BTreeMap<String, Build>> = const { RefCell::new(BTreeMap::new()) };
        static PINNED: RefCell<BTreeSet<Build>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Makes a build the live one of the component that has a tool. Other tools have no build.
    pub fn set_live(tool: &str, build: Build) {
        LIVE.with_borrow_mut(|live| drop(live.insert(tool.to_owned(), build)));
    }

    pub(super) fn pin(tools: &[String]) -> Vec<Build> {
        let builds: BTreeSet<Build> =
            LIVE.with_borrow(|live| tools.iter().filter_map(|tool| live.get(tool)).cloned().collect());
        PINNED.with_borrow_mut(|pinned| pinned.extend(builds.iter().cloned()));
        builds.into_iter().collect()
    }

    pub(super) fn is_elsewhere(tool: &str) -> bool {
        LIVE.with_borrow(|live| !live.contains_key(tool))
    }

    /// The build of the component that has a tool: also one of before.
    pub(super) fn of_tool<'a>(builds: &'a [Build], tool: &str) -> Option<&'a Build> {
        LIVE.with_borrow(|live| {
            let component = &live.get(tool)?.component;
            builds.iter().find(|build| build.component == *component)
        })
    }

    pub(super) fn unpin(builds: &[Build]) {
        PINNED.with_borrow_mut(|pinned| pinned.retain(|build| !builds.contains(build)));
    }

    pub(super) fn pinned() -> Vec<Build> {
        PINNED.with_borrow(|pinned| pinned.iter().cloned().collect())
    }
}
