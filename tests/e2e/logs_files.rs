//! Files of data are their owner's only: whatever the umask, while they are written, and also where an older host left them open.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    command_line::{mcpp, stderr, stdout},
    precompiled,
    support::{PATIENCE, answer, folder, guest, http_client, modern_request, text_of},
};

/// The program under a umask that takes nothing away.
fn program(data: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(mcpp()).args(arguments);
    command.env("MCPP_DATA", data).env_remove("MCPP_URL").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A running host; killed when dropped.
struct Running {
    process: Child,
    url: String,
}

impl Running {
    fn start(data: &Path, tools: &Path) -> Self {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--tools", tools.to_str().expect("text")];
        precompiled::give(data);
        let mut process = program(data, &arguments).stderr(Stdio::piped()).spawn().expect("started");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        let url = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let record: Value = serde_json::from_str(&line).ok()?;
            (record["message"] == "serving").then(|| record["url"].as_str().map(str::to_owned))?
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url: url.expect("it serves") }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777
}

/// All paths below `folder`, but nothing in folders called `tools`: what is in those is the tenant's.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    found.push(folder.to_owned());
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("a type").is_dir() {
            true if entry.file_name() == "tools" => found.push(entry.path()),
            true => walk(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// Checks that all below `folder` is its owner's only; the names that were found.
fn check(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(folder, &mut found);
    for path in &found {
        let kind = fs::symlink_metadata(path).expect("there").file_type();
        let most = if kind.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode(path), most, "{} (a socket: {})", path.display(), kind.is_socket());
    }
    found.iter().map(|path| path.strip_prefix(folder).expect("below").display().to_string()).collect()
}

fn widen(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

/// A folder of tools for the host's own user, which others may read.
fn tools() -> TempDir {
    let files = folder(&[("store", &guest("store"))]);
    widen(&files.path().join("tools"));
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_the_host_writes_is_its_owners_only_whatever_the_umask() {
    let files = tools();
    let (data, own_tools) = (files.path().join("data"), files.path().join("tools"));
    let told = |arguments: &[&str]| {
        let output = program(&data, arguments).output().expect("run");
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        stdout(&output)
    };
    told(&["grant", "store", "store = {}", "call = ['x']", "subscribe = ['other/*']"]);
    for team in ["team", "gone"] {
        told(&["tenant", "add", team]);
        told(&["grant", "store", "store = {}", "call = ['x']", "subscribe = ['other/*']", "--tenant", team]);
        fs::write(data.join("tenants").join(team).join("tools/store.wasm"), guest("store")).expect("written");
    }
    told(&["tenant", "limit", "team", "--limit", "running=3"]);
    let mut secret = program(&data, &["secret", "set", "KEY"]).stdin(Stdio::piped()).spawn().expect("started");
    secret.stdin.take().expect("piped").write_all(b"hidden").expect("written");
    assert!(secret.wait().expect("ended").success());
    let host = Running::start(&data, &own_tools);
    let http = http_client();
    for team in ["team", "gone"] {
        told(&["accept", "store", "--tenant", team]);
        let token = told(&["token", "create", team, "alice"]);
        let arguments = json!({ "name": "store_set", "arguments": { "key": "k", "value": "v" } });
        let waiting = tokio::time::timeout(PATIENCE, async {
            loop {
                let request = modern_request(&http, &host.url, "tools/call", arguments.clone());
                let said = answer(request.bearer_auth(token.trim()).send().await.expect("an answer")).await;
                if said.get("error").is_none() && !text_of(&said).starts_with("error") {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
        waiting.await.expect("the store is used");
    }
    let (backup, export) = (files.path().join("backup.redb"), files.path().join("export"));
    told(&["backup", backup.to_str().expect("text")]);
    told(&["tenant", "remove", "gone", "--yes", "--export", export.to_str().expect("text")]);
    let found = check(&data);
    for name in ["mcpp.sock", "tokens.toml", "secrets.toml", "secrets.key", "grants/store.toml", "store/team.redb"] {
        assert!(found.contains(&name.to_owned()), "{name} is not among {found:?}");
    }
    for name in ["tenant.toml", "accepted.json", "tools", "grants/store.toml"] {
        assert!(found.contains(&format!("tenants/team/{name}")), "{name} is not among {found:?}");
    }
    assert!(found.iter().any(|name| name.starts_with("compiled/team/")), "{found:?}");
    assert_eq!(mode(&backup), 0o600);
    assert!(check(&export).contains(&"data.redb".to_owned()));
    assert_eq!(mode(&export.join("tools/store.wasm")), 0o600);
    assert_eq!(mode(&own_tools), 0o755, "a folder that only holds tools is not the host's");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_an_older_host_left_open_are_narrowed_when_the_host_starts() {
    let files = tools();
    let (data, own_tools) = (files.path().join("data"), files.path().join("tools"));
    for folder in ["store", "compiled/team", "grants", "tenants/team/grants", "tenants/team/tools"] {
        fs::create_dir_all(data.join(folder)).expect("made");
    }
    for (file, text) in [
        ("grants/store.toml", "version = 1\nstore = {}\ncall = ['x']\nsubscribe = ['other/*']\n"),
        ("tenants/team/tenant.toml", "version = 1\n"),
        ("tenants/team/grants/x.toml", "version = 1\n"),
        ("store/gone.redb.old", "data"),
        ("compiled/team/x", "code"),
    ] {
        fs::write(data.join(file), text).expect("written");
    }
    let mut all = Vec::new();
    walk(&data, &mut all);
    all.iter().for_each(|path| widen(path));
    let host = Running::start(&data, &own_tools);
    let opened = data.join("tenants/team/tools");
    assert_eq!(mode(&opened), 0o755, "the operator opened it, and the host leaves it");
    fs::set_permissions(&opened, fs::Permissions::from_mode(0o700)).expect("set");
    check(&data);
    assert_eq!(mode(&own_tools), 0o755);
    drop(host);
}
