//! Which paths the MCP endpoint may have.

use super::ServerConfig;

impl ServerConfig {
    /// Whether a request for `path` is for the MCP endpoint, which also serves with a slash at its end.
    pub fn is_endpoint(&self, path: &str) -> bool {
        path.strip_suffix('/').unwrap_or(path) == self.mount_path.strip_suffix('/').unwrap_or(&self.mount_path)
    }
}

/// Whether a path means itself to a router and to clients: no parameter, no wildcard, nothing that would have to be encoded, no part that clients resolve.
pub(super) fn is_plain(path: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(legal);
    path.strip_prefix('/').is_some_and(|path| path.split('/').all(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_that_means_itself_is_taken() {
        for path in ["/mcp", "/api/v1.0/mcp", "/~team/mcp_2"] {
            assert!(is_plain(path), "{path}");
        }
        for path in [
            "", "/", "mcp", "/mcp/", "/:id", "/*x", "/mcp/:v", "/{id}", "/日本", "/a//b", "/a/../b", "/./a", "/a%2fb",
            "/a b", "/a?b", "/a#b", "/a\n",
        ] {
            assert!(!is_plain(path), "{path}");
        }
    }
}
