//! The paths that a rule allows, and the paths that two parsers could read differently.

/// The paths of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Paths {
    /// Every one.
    Any,
    /// This one.
    One(String),
    /// All that begin with this, which ends in `/`.
    Below(String),
}

impl Paths {
    /// Takes the path of a rule's URL: empty, or one that may end in `/*`.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text == "/*" {
            return Ok(Self::Any);
        }
        if text.contains(['?', '#']) {
            return Err("a rule has no query and no fragment: it allows every query");
        }
        let (path, below) = text.strip_suffix('*').map_or((text, false), |path| (path, true));
        if path.contains('*') || (below && !path.ends_with('/')) {
            return Err("`*` stands at the end only, after a `/`: write `/v1/*`, which does not allow `/v10`");
        }
        if !is_plain(path) {
            return Err("a path begins with `/` and has no `//`, `.`, `..`, and no encoded dot, slash or percent sign");
        }
        Ok(if below { Self::Below(path.to_owned()) } else { Self::One(path.to_owned()) })
    }

    /// Whether the rule covers `path`.
    pub(super) fn allow(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => path == one,
            Self::Below(prefix) => path.starts_with(prefix) && is_plain(path),
        }
    }
}

/// Whether every server reads `path` as it is written: nothing in it leads upwards, is empty, or hides a separator.
pub(super) fn is_plain(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let lower = rest.to_ascii_lowercase();
    let hidden = ["%2e", "%2f", "%5c", "%25", "%00"].iter().any(|encoded| lower.contains(encoded));
    let legal = rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'?' | b'#' | b'"'));
    let count = rest.split('/').count();
    let upwards = |segment: &str| {
        // `..;a=b` is `..` to servers that know parameters of a segment.
        matches!(segment.split(';').next(), Some("." | ".."))
    };
    let mut segments = rest.split('/').enumerate();
    legal
        && !hidden
        && segments.all(|(at, segment)| (!segment.is_empty() || at.saturating_add(1) == count) && !upwards(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_allowed_as_it_is_written() {
        for (rule, path, allowed) in [
            ("", "/anything/../%2e//", true),
            ("/*", "/a", true),
            ("/v1", "/v1", true),
            ("/v1", "/v1/", false),
            ("/v1", "/v1/a", false),
            ("/v1", "/V1", false),
            ("/v1/*", "/v1/", true),
            ("/v1/*", "/v1/a/b/", true),
            ("/v1/*", "/v1/a%20b;c=d", true),
            ("/v1/*", "/v1", false),
            ("/v1/*", "/v10", false),
            ("/v1/*", "/v1/../admin", false),
            ("/v1/*", "/v1/..", false),
            ("/v1/*", "/v1/./a", false),
            ("/v1/*", "/v1/..;/admin", false),
            ("/v1/*", "/v1/%2e%2e/admin", false),
            ("/v1/*", "/v1/%2E./admin", false),
            ("/v1/*", "/v1/..%2fadmin", false),
            ("/v1/*", "/v1/%252e%252e/admin", false),
            ("/v1/*", "/v1/a%5c..%5cadmin", false),
            ("/v1/*", "/v1/a\\..\\admin", false),
            ("/v1/*", "/v1//admin", false),
            ("/v1/*", "//v1/a", false),
            ("/v1/*", "/v1/a\u{0}", false),
            ("/v1/*", "/v1/é", false),
            ("/", "/", true),
            ("/", "/a", false),
        ] {
            assert_eq!(Paths::parse(rule).expect(rule).allow(path), allowed, "{rule} {path}");
        }
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        for rule in ["/v1*", "/*/a", "/a/*/b", "/a?b", "/a#b", "/../a", "/a//b", "/%2e/", "/a%2fb", "v1/", "/**"] {
            assert!(Paths::parse(rule).is_err(), "{rule}");
        }
    }
}
