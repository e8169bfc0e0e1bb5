//! How to add the server to the clients that people have.

use serde_json::json;

/// Lines to copy.
pub(super) fn advice(name: &str, url: &str) -> Vec<String> {
    let cursor = json!({ "mcpServers": { name: { "url": url } } });
    let code = json!({ "servers": { name: { "type": "http", "url": url } } });
    vec![
        "to add it to a client:".into(),
        format!("  Claude Code            claude mcp add --transport http {name} {url}"),
        format!("  Cursor, mcp.json       {cursor}"),
        format!("  VS Code, mcp.json      {code}"),
        format!("  here                   mcpp tools --url {url}"),
    ]
}
