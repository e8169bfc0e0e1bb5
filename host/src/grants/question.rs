//! Questions to a grant: whether it allows something, and if not, why and what to add.

use url::Url;

use super::{ComponentGrant, container, mesh};
use crate::{
    mesh::PeerId,
    names::{ComponentName, ToolName, Topic},
};

/// A question to a component's grant.
#[derive(Debug, Clone)]
pub enum Question {
    /// Whether the component may make a request. The answer looks up no name.
    Http {
        /// The method.
        method: String,
        /// The URL. It has a host.
        url: Url,
        /// The URL's host.
        host: String,
    },
    /// Whether it may call a tool.
    Call(ToolName),
    /// Whether it may call a tool of a peer.
    Peer(PeerId, ToolName),
    /// Whether it may subscribe to a topic.
    Topic(Topic),
    /// Whether it may run an image, by its full name. The settings of the host must allow it too.
    Image(String),
    /// Whether it may run an image built of a repository, by its URL; likewise.
    Repository(String),
    /// Whether it has a store.
    Store,
}

/// Why a grant does not allow something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason.
    pub reason: String,
    /// The lines of a grant that would allow it; none if none can.
    pub add: Option<String>,
}

impl Question {
    /// The question for a request; none if the URL has no host.
    pub fn http(method: &str, url: &Url) -> Option<Self> {
        Some(Self::Http { method: method.to_owned(), host: url.host_str()?.to_owned(), url: url.clone() })
    }

    /// Why the grant of `component` does not allow it; none if the grant does.
    pub fn denied(&self, grant: &ComponentGrant, component: &ComponentName) -> Option<Denial> {
        match self {
            Self::Http { method, url, host } => {
                let checked = grant.http.check(method, url.scheme(), host, url.port(), url.path());
                checked.err().map(|denied| Denial { reason: denied.to_string(), add: denied.advice() })
            }
            Self::Call(tool) => {
                let allowed = grant.call.iter().any(|pattern| pattern.matches(tool));
                (!allowed).then(|| Denial {
                    reason: format!("it may not call `{tool}`"),
                    add: Some(format!("call = [\"{tool}\"]")),
                })
            }
            Self::Peer(peer, tool) => (!grant.mesh.call.allow(peer, tool)).then(|| Denial {
                reason: format!("it may not call `{tool}` of {peer}"),
                add: Some(mesh::call_line(peer, tool)),
            }),
            Self::Topic(topic) => {
                let own = topic.component == *component;
                let allowed = own || grant.subscribe.iter().any(|pattern| pattern.matches(topic));
                (!allowed).then(|| Denial {
                    reason: format!("it is not told of {topic}"),
                    add: Some(format!("subscribe = [\"{topic}\"]")),
                })
            }
            Self::Image(image) => {
                let allowed = grant.container.as_ref().is_some_and(|container| container.images.allow(image));
                (!allowed).then(|| Denial {
                    reason: format!("it may not run the image {image}"),
                    add: Some(container::image_line(image)),
                })
            }
            Self::Repository(url) => {
                let allowed = grant.container.as_ref().is_some_and(|container| container.repositories.allow(url));
                (!allowed).then(|| Denial {
                    reason: format!("it may not run what is built of {url}"),
                    add: Some(container::repository_line(url)),
                })
            }
            Self::Store => grant
                .store
                .is_none()
                .then(|| Denial { reason: "it has no store".into(), add: Some("store = {}".into()) }),
        }
    }
}
