//! Secrets that the host may put into a component's requests, and the origins to which each may go.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::http::UrlOrigin;
use crate::secrets::SecretName;

/// The granted secrets of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretGrants(BTreeMap<SecretName, Origins>);

/// One secret's origins; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeSet<UrlOrigin>")]
struct Origins(BTreeSet<UrlOrigin>);

impl TryFrom<BTreeSet<UrlOrigin>> for Origins {
    type Error = &'static str;

    fn try_from(origins: BTreeSet<UrlOrigin>) -> Result<Self, Self::Error> {
        if origins.is_empty() {
            return Err("a granted secret needs at least one origin, such as \"https://api.example.com\"");
        }
        Ok(Self(origins))
    }
}

impl SecretGrants {
    /// Whether `now` also contains each of these secrets and origins.
    pub(super) fn are_within(&self, now: &Self) -> bool {
        self.0.iter().all(|(name, origins)| now.0.get(name).is_some_and(|now| origins.0.is_subset(&now.0)))
    }

    /// Whether the secret `name` is granted, for any origin.
    pub fn names(&self, name: &SecretName) -> bool {
        self.0.contains_key(name)
    }

    /// Whether the secret `name` may go to `origin`.
    pub fn allow(&self, name: &SecretName, origin: &UrlOrigin) -> bool {
        self.0.get(name).is_some_and(|origins| origins.0.contains(origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_to_the_origins_it_is_granted_for() {
        let grants: SecretGrants =
            toml::from_str("API_KEY = ['https://API.example.com', 'http://127.0.0.1:8080']").expect("valid");
        let may = |name: &str, origin: &str| {
            let name = SecretName::new(name).expect("a name");
            grants.allow(&name, &UrlOrigin::try_from(origin.to_owned()).expect("an origin"))
        };
        assert!(may("API_KEY", "https://api.example.com") && may("API_KEY", "https://api.example.com:443"));
        assert!(may("API_KEY", "http://127.0.0.1:8080"));
        for (name, origin) in [
            ("API_KEY", "http://api.example.com"),
            ("API_KEY", "https://api.example.com:8443"),
            ("API_KEY", "https://example.com"),
            ("OTHER", "https://api.example.com"),
        ] {
            assert!(!may(name, origin), "{name} {origin}");
        }
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (text, says) in [
            ("api_key = ['https://a.com']", "not a secret's name"),
            ("A = []", "at least one origin"),
            ("A = 'https://a.com'", "invalid type"),
            ("A = ['a.com']", "has no scheme"),
            ("A = ['https://a.com/v1']", "a host and perhaps a port"),
            ("A = ['https://*.a.com']", "letters, digits"),
        ] {
            let error = toml::from_str::<SecretGrants>(text).expect_err(text).to_string();
            assert!(error.contains(says), "{text} gave {error:?}, which does not say {says:?}");
        }
    }
}
