//! `[container]`: what a component may run in containers. Nothing by default: an empty table gives the interface and no image.
//!
//! The operator's settings of the engine have the same lists of images and repositories; both must name one.

use std::path::{Component, PathBuf};

use serde::Deserialize;

use super::files::FolderMode;

/// Most entries of each list.
const MAX_ENTRIES: usize = 256;
/// Longest name of an image, of a network, and longest URL of a repository, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The network of a container that has none.
pub const NO_NETWORK: &str = "none";

/// What a component may run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerGrant {
    /// The images.
    pub images: ImagePatterns,
    /// The repositories whose images it may build. A build may begin with any image.
    pub repositories: RepositoryPatterns,
    /// The directories of the machine.
    pub volumes: VolumeGrants,
    /// The networks of the engine, beside none.
    pub networks: NetworkGrants,
    /// Whether it may use the graphics processors.
    pub gpus: bool,
}

impl ContainerGrant {
    /// Whether `now` gives all of this too.
    pub fn is_within(&self, now: &Self) -> bool {
        let has = |all: &[String], some: &[String]| some.iter().all(|entry| all.contains(entry));
        has(&now.images.0, &self.images.0)
            && has(&now.repositories.0, &self.repositories.0)
            && self.volumes.0.iter().all(|volume| now.volumes.0.contains(volume))
            && has(&now.networks.0, &self.networks.0)
            && (now.gpus || !self.gpus)
    }
}

/// The line of a grant that allows an image.
pub fn image_line(image: &str) -> String {
    format!("container.images = [{image:?}]")
}

/// The line of a grant that allows a repository.
pub fn repository_line(url: &str) -> String {
    format!("container.repositories = [{url:?}]")
}

/// The name of an image with its tag or digest, so that one image has one name: without either the engine takes `latest`.
pub fn full_image(image: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let fits = (1..=MAX_NAME_BYTES).contains(&image.len())
        && image.chars().all(legal)
        && image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && image.ends_with(|c: char| c.is_ascii_alphanumeric())
        && image.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if !fits {
        return None;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    Some(if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") })
}

/// Whether a pattern, a text or a prefix before `*`, covers a text.
fn covers(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

fn bounded(texts: &[String]) -> Result<(), String> {
    match texts.len() {
        entries if entries > MAX_ENTRIES => Err(format!("{entries} entries; at most {MAX_ENTRIES} are read")),
        _ => Ok(()),
    }
}

/// Names of images: `python:3.12-slim`, all tags (`python:*`), all below a path (`ghcr.io/org/*`), or all (`*`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(try_from = "Vec<String>")]
pub struct ImagePatterns(Vec<String>);

impl TryFrom<Vec<String>> for ImagePatterns {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        bounded(&texts)?;
        let pattern = |text: String| {
            let named = match text.strip_suffix('*') {
                Some("") => Some(text.clone()),
                // A prefix ends where a part of the name does: `python*` would also be `python-of-somebody`.
                Some(prefix) => {
                    let name = prefix.strip_suffix([':', '/', '@']);
                    name.and_then(full_image).map(|_| text.clone())
                }
                None => full_image(&text),
            };
            named.ok_or_else(|| format!("{text:?} is no image; `python:3.12`, `python:*`, `ghcr.io/org/*` and `*` are"))
        };
        texts.into_iter().map(pattern).collect::<Result<_, _>>().map(Self)
    }
}

impl ImagePatterns {
    /// Whether an image, by its full name, is among them.
    pub fn allow(&self, image: &str) -> bool {
        self.0.iter().any(|pattern| covers(pattern, image))
    }
}

/// A repository's URL as the host takes it: `https`, a host and a path, and nothing that two programs could read differently.
pub fn is_repository(url: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '~' | ':');
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let Some((host, path)) = rest.split_once('/') else { return false };
    url.len() <= MAX_NAME_BYTES
        && rest.chars().all(legal)
        && host.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !path.contains(':')
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// URLs of repositories: `https://github.com/org/name`, or all below one (`https://github.com/org/*`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(try_from = "Vec<String>")]
pub struct RepositoryPatterns(Vec<String>);

impl TryFrom<Vec<String>> for RepositoryPatterns {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        bounded(&texts)?;
        let fits = |text: &String| match text.strip_suffix("/*") {
            // All of one host's, or all below a path.
            Some(prefix) => is_repository(prefix) || is_repository(&format!("{prefix}/x")),
            None => is_repository(text),
        };
        match texts.iter().find(|text| !fits(text)) {
            Some(text) => {
                Err(format!("{text:?} is no repository; `https://HOST/ORG/NAME` and `https://HOST/ORG/*` are"))
            }
            None => Ok(Self(texts)),
        }
    }
}

impl RepositoryPatterns {
    /// Whether a repository is among them.
    pub fn allow(&self, url: &str) -> bool {
        self.0.iter().any(|pattern| covers(pattern, url))
    }
}

/// A directory of the machine that containers may have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeGrant {
    /// The directory; absolute. Nothing below it can be mounted by itself, because a container may have put a link there.
    pub path: PathBuf,
    /// Access of the containers.
    #[serde(default)]
    pub mode: FolderMode,
}

/// Directories of the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<VolumeGrant>")]
pub struct VolumeGrants(Vec<VolumeGrant>);

impl TryFrom<Vec<VolumeGrant>> for VolumeGrants {
    type Error = String;

    fn try_from(volumes: Vec<VolumeGrant>) -> Result<Self, String> {
        if volumes.len() > MAX_ENTRIES {
            return Err(format!("{} directories; at most {MAX_ENTRIES} are read", volumes.len()));
        }
        let fits = |volume: &VolumeGrant| {
            volume.path.is_absolute()
                && volume.path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir))
                && volume.path.to_str().is_some()
        };
        match volumes.iter().find(|volume| !fits(volume)) {
            Some(volume) => Err(format!("the directory {:?} is not an absolute path without `..`", volume.path)),
            None => Ok(Self(volumes)),
        }
    }
}

impl VolumeGrants {
    /// The access to a directory, named exactly as in the grant; none without a grant.
    pub fn mode(&self, path: &str) -> Option<FolderMode> {
        // As texts: `/srv/` and `/srv/./a` are other names of what is granted, and need not be known.
        self.0.iter().find(|volume| volume.path.to_str() == Some(path)).map(|volume| volume.mode)
    }
}

/// Names of the engine's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct NetworkGrants(Vec<String>);

impl TryFrom<Vec<String>> for NetworkGrants {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        bounded(&names)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // `container:NAME` has a colon.
        let fits =
            |name: &String| (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(legal) && name != "host";
        match names.iter().find(|name| !fits(name)) {
            Some(name) => Err(format!(
                "{name:?} is no network that a component can have: the machine's own and that of another container are not"
            )),
            None => Ok(Self(names)),
        }
    }
}

impl NetworkGrants {
    /// Whether a container may be in a network.
    pub fn allow(&self, name: &str) -> bool {
        name == NO_NETWORK || self.0.iter().any(|known| known == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(text: &str) -> Result<ContainerGrant, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_image_has_one_name_and_a_pattern_covers_whole_parts_of_it() {
        let grant = grant("images = ['python', 'node:*', 'ghcr.io/org/*', 'a@*']").expect("valid");
        for (image, allowed) in [
            ("python", true),
            ("python:latest", true),
            ("python:3", false),
            ("node", true),
            ("node:22-slim", true),
            ("node-of-somebody:22", false),
            ("ghcr.io/org/x/y:1", true),
            ("ghcr.io/organism/x", false),
            ("evil.example/python", false),
            ("localhost:5000/python", false),
            ("a@sha256:00ff", true),
        ] {
            assert_eq!(grant.images.allow(&full_image(image).expect(image)), allowed, "{image}");
        }
        for wrong in ["", "-v", "a b", "../x", "a//b", "a:", "/a", "a\n", "--privileged", "ä"] {
            assert_eq!(full_image(wrong), None, "{wrong:?}");
        }
        assert!(!ContainerGrant::default().images.allow("python:latest"), "nothing by default");
    }

    #[test]
    fn repositories_are_urls_that_nobody_reads_differently() {
        let grant = grant("repositories = ['https://github.com/org/*', 'https://git.example.com/one']").expect("valid");
        for (url, fits, allowed) in [
            ("https://github.com/org/name", true, true),
            ("https://github.com/org/name.git", true, true),
            ("https://github.com/organism/name", true, false),
            ("https://git.example.com/one", true, true),
            ("https://git.example.com/one/more", true, false),
            ("https://github.com/org/../evil/name", false, true),
            ("https://github.com/org/name#main:/", false, true),
            ("https://user:secret@github.com/org/name", false, false),
            ("http://github.com/org/name", false, false),
            ("git@github.com:org/name", false, false),
            ("https://github.com/org/a b", false, true),
        ] {
            assert_eq!((is_repository(url), grant.repositories.allow(url)), (fits, allowed), "{url}");
        }
    }

    #[test]
    fn a_grant_that_opens_the_machine_is_refused() {
        for (text, says) in [
            ("networks = ['host']", "no network"),
            ("networks = ['container:other']", "no network"),
            ("images = ['python*']", "no image"),
            ("volumes = [{ path = 'srv' }]", "absolute"),
            ("volumes = [{ path = '/srv/../etc' }]", "absolute"),
            ("repositories = ['http://github.com/*']", "no repository"),
            ("repositories = ['https://*']", "no repository"),
            ("privileged = true", "unknown field"),
        ] {
            let error = grant(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        let some = grant("networks = ['web']\nvolumes = [{ path = '/srv/in' }]").expect("valid");
        assert!(some.networks.allow("none") && some.networks.allow("web") && !some.networks.allow("host"));
        assert_eq!(some.volumes.mode("/srv/in"), Some(FolderMode::Read));
        for other in ["/srv/in/", "/srv/in/below", "/srv", "/srv/./in"] {
            assert_eq!(some.volumes.mode(other), None, "{other}");
        }
        assert!(!some.is_within(&ContainerGrant::default()) && ContainerGrant::default().is_within(&some));
    }
}
