//! A PostgreSQL server of a test's own.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::SCHEMA;

/// A server of the test's own.
pub(crate) struct Server {
    pub(super) folder: TempDir,
    process: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_be_gone = self.process.kill();
        let _it_may_be_gone = self.process.wait();
    }
}

fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: install Debian's package `postgresql`");
    let mut found: Vec<PathBuf> =
        versions.flatten().map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().expect("PostgreSQL's programs")
}

/// The server does not run as root.
fn as_somebody(command: &mut Command) -> &mut Command {
    const NOBODY: u32 = 65_534;
    if nix::unistd::geteuid().is_root() { command.uid(NOBODY).gid(NOBODY) } else { command }
}

impl Server {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if nix::unistd::geteuid().is_root() {
            chown(folder.path(), Some(65_534), Some(65_534)).expect("given away");
        }
        let data = folder.path().join("data");
        let mut initdb = Command::new(program("initdb"));
        let made = as_somebody(initdb.args(["--no-sync", "--auth=trust", "--username=mcpp", "-D"]).arg(&data))
            .current_dir(folder.path())
            .output()
            .expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut server = Command::new(program("postgres"));
        server.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", "max_connections=200", "-k"]);
        server.arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(folder.path());
        let process = as_somebody(&mut server).spawn().expect("postgres");
        let server = Self { folder, process };
        let patience = Instant::now() + Duration::from_secs(30);
        let client = loop {
            match connect(server.folder.path()).await {
                Ok(client) => break client,
                Err(error) => assert!(Instant::now() < patience, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        client.batch_execute(SCHEMA).await.expect("the tables");
        server
    }
}

pub(super) async fn connect(socket: &Path) -> Result<Client, tokio_postgres::Error> {
    let config = format!("host={} user=mcpp dbname=postgres", socket.display());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
