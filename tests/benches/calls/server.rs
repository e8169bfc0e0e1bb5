//! Servers as processes of their own, with their CPU time and memory as the kernel counts them.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub(crate) struct Server {
    process: Child,
    port: u16,
    folder: Option<TempDir>,
    started_in: Duration,
}

impl Server {
    /// mcpp with its built-in tools and these components.
    pub(crate) async fn mcpp(components: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("tools")).expect("made");
        for (name, wasm) in components {
            std::fs::write(folder.path().join(format!("tools/{name}.wasm")), wasm).expect("written");
        }
        Self::mcpp_in(folder).await
    }

    /// mcpp on a folder that had one before.
    pub(crate) async fn mcpp_in(folder: TempDir) -> Self {
        let here = std::env::current_exe().expect("a program");
        let program = here.parent().and_then(Path::parent).expect("a target folder").join("mcpp");
        assert!(program.exists(), "{} is not built: run `cargo build --release` first", program.display());
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--tools"]).arg(folder.path().join("tools"));
        command.arg("--data").arg(folder.path().join("data")).env("RUST_LOG", "error,rmcp=off");
        command.current_dir(folder.path());
        Self::start(command, port, Some(folder), "/live").await
    }

    /// One of the servers in `native`.
    pub(crate) async fn native(name: &str) -> Self {
        let port = free_port();
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.arg(name).env("PORT", port.to_string());
        Self::start(command, port, None, "/mcp").await
    }

    async fn start(mut command: Command, port: u16, folder: Option<TempDir>, path: &str) -> Self {
        let started = Instant::now();
        let process = command.stdout(Stdio::null()).spawn().expect("started");
        let http = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{port}{path}");
        while http.get(&url).send().await.is_err() {
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        Self { process, port, folder, started_in: started.elapsed() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }

    pub(crate) fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Replaces a component, whole.
    pub(crate) fn write(&self, name: &str, wasm: &[u8]) {
        let tools = self.folder.as_ref().expect("a folder").path().join("tools");
        std::fs::write(tools.join(".new"), wasm).expect("written");
        std::fs::rename(tools.join(".new"), tools.join(format!("{name}.wasm"))).expect("moved");
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("Linux");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number");
        // The kernel counts in hundredths of a second on every machine that this runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    }

    /// Stops it and keeps its folder.
    pub(crate) fn stop(mut self) -> TempDir {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        self.process.wait().expect("ended");
        self.folder.take().expect("a folder")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.process.kill();
        let _it_may_have_ended = self.process.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
}
