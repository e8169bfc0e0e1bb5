//! The host under attack: the real program, in a memory control group of 2 GiB where the machine lets us make one, with the tenants that the bench needs.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use mcpp::{
    auth::tokens::{NewToken, TokenFile},
    names::TenantId,
    tenant::{SCOPE_METRICS, SCOPE_TOOLS, home::Homes},
};
use tempfile::TempDir;

use crate::server::free_port;

/// The memory that the host and what it starts may have, in bytes.
pub(crate) const HOST_BYTES: u64 = 2 << 30;

/// A host that is attacked.
pub(crate) struct Besieged {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
    group: Option<Group>,
}

impl Besieged {
    /// A host on `folder`, whose standard error nobody reads.
    pub(crate) async fn start(folder: TempDir) -> Self {
        let group = Group::make();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new("sh");
        let enter = group.as_ref().map_or_else(|| ":".to_owned(), Group::enter);
        command.arg("-c").arg(format!(r#"{enter}; exec "$@""#)).arg("sh").arg(program());
        command.args(["serve", "--listen", &address.to_string(), "--data"]).arg(folder.path().join("data"));
        command.env("RUST_LOG", "info,rmcp=off").current_dir(folder.path());
        let process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let ready = format!("http://{address}/ready");
        let http = reqwest::Client::new();
        let until = Instant::now() + Duration::from_secs(120);
        while !http.get(&ready).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(Instant::now() < until, "the host is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Self { process, address, folder, group }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.group.is_some()
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().expect("a process").is_none()
    }

    /// The operator's command, and how long it took; none if it failed or took more than ten seconds.
    pub(crate) fn operator(&self, arguments: &[&str]) -> Option<Duration> {
        let started = Instant::now();
        let mut command = Command::new(program());
        command.args(arguments).arg("--data").arg(self.folder.path().join("data"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        while started.elapsed() < Duration::from_secs(10) {
            if let Some(ended) = child.try_wait().expect("a process") {
                return ended.success().then(|| started.elapsed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        None
    }

    /// From now on the peak of its memory is measured anew.
    pub(crate) fn forget_peak(&self) {
        let _only_root_may = fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5");
    }

    /// The most resident memory of the host's own process, in bytes.
    pub(crate) fn peak_bytes(&self) -> f64 {
        self.status("VmHWM:")
    }

    /// Its threads.
    pub(crate) fn threads(&self) -> f64 {
        self.status("Threads:") / 1024.0
    }

    fn status(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    }
}

impl Drop for Besieged {
    fn drop(&mut self) {
        let _it_may_have_ended = self.process.kill();
        let _it_may_have_ended = self.process.wait();
    }
}

fn program() -> PathBuf {
    let here = std::env::current_exe().expect("a program");
    let program = here.parent().and_then(Path::parent).expect("a target folder").join("mcpp");
    assert!(program.exists(), "{} is not built: run `cargo build --release` first", program.display());
    program
}

/// A memory control group for the host; removed when dropped.
struct Group(PathBuf);

impl Group {
    /// In the first or the second version of control groups; none where neither lets us.
    fn make() -> Option<Self> {
        let name = format!("mcpp-bench-{}", std::process::id());
        for (root, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let folder = Path::new(root).join(&name);
            if fs::create_dir(&folder).is_ok() {
                let group = Self(folder);
                if fs::write(group.0.join(file), HOST_BYTES.to_string()).is_ok() {
                    return Some(group);
                }
            }
        }
        None
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel lets it go when its last process is gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A plain component with these functions, `(result s32)` each, with this body.
pub(crate) fn component(names: &[String], body: &str) -> Vec<u8> {
    let mut exports = String::new();
    for name in names {
        write!(exports, r#"(func (export "{name}") (result s32) (canon lift (core func $i "f")))"#).expect("written");
    }
    let text = format!(
        r#"(component (core module $m (func $f (export "f") (result i32) {body})) (core instance $i (instantiate $m)) {exports})"#
    );
    wat::parse_str(text).expect("a component")
}

/// One of the guests that the tests load.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("MCPP_TEST_GUESTS")).join(format!("{name}.wasm"))).expect("the build made it")
}

/// A tenant of the bench.
#[derive(Clone)]
pub(crate) struct Team {
    pub(crate) token: Arc<str>,
    pub(crate) tools: PathBuf,
}

/// A tenant with these components and without its folder pinned.
pub(crate) fn team(folder: &Path, name: &str, components: &[(&str, &[u8])], grants: &[(&str, &str)]) -> Team {
    let homes = Homes::new(folder.join("data"));
    let tenant = TenantId::new(name).expect("legal");
    let settings = toml::from_str("version = 1\npinned = false").expect("valid");
    let home = homes.add(&tenant, settings).expect("made");
    for (component, wasm) in components {
        fs::write(home.tools().join(format!("{component}.wasm")), wasm).expect("written");
    }
    for (component, grant) in grants {
        fs::create_dir_all(home.grants()).expect("made");
        fs::write(home.grants().join(format!("{component}.toml")), format!("version = 1\n{grant}")).expect("written");
    }
    let scopes = [SCOPE_TOOLS, SCOPE_METRICS].map(str::to_owned);
    let (subject, tools) = ("bench".to_owned(), Vec::new());
    let new = NewToken { tenant, subject, scopes: BTreeSet::from(scopes), tools, good_for: None };
    let token = TokenFile::new(homes.tokens()).create(new).expect("made").1;
    Team { token: token.into(), tools: home.tools() }
}

pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(folder.path().join("tools")).expect("made");
    fs::create_dir_all(folder.path().join("data")).expect("made");
    folder
}
