//! `mcpp dev`: a host of its own for one project, which builds at every save and shows what that changed.
//!
//! A build that fails, or that asks for more than its grant, changes nothing: the last good one serves on. This command never grants anything.

mod clients;
mod logs;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::Instant,
};

use super::{
    build::{show, show_failure, with_progress},
    clean,
    remote::tell,
    style::{Style, paint},
};
use crate::{
    author::{
        build::{Built, imports},
        project::Project,
        sources::Sources,
    },
    capability::{self, Access, Capability},
    config::Config,
    engine::features::Code,
    error::chain,
    files::write_atomically,
    grants::ComponentGrant,
    host::Host,
    names::TenantId,
    registry::catalog::{LoadTimes, Revision},
    reload::accept::{Face, FaceChange},
    reload::error::LoadError,
};

/// Where the host keeps its files, in the project's folder.
const DATA: &str = ".mcpp";
/// How often the command looks whether a waiting build is live.
const RECHECK: Duration = Duration::from_millis(300);
/// The first port that is tried, which is a host's usual one.
const PORT: u16 = 8000;
/// How many ports are tried.
const PORTS: u16 = 100;

#[derive(Debug, Args)]
pub(super) struct Dev {
    /// The project's folder
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where to listen [default: 127.0.0.1:8000, or the next port that is free]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where the host keeps its own files [default: .mcpp in the project's folder]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Configuration file of the host, for its limits
    #[arg(long, env = "MCPP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Dev {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let project = Project::find(&self.path)?;
        logs::start()?;
        let data = self.data.clone().unwrap_or_else(|| project.folder.join(DATA));
        let tools = fresh_tools_folder(&data)?;
        let mut config = match &self.config {
            Some(file) => Config::load(Some(file), |_| None)?,
            None => Config::default(),
        };
        config.data.dir = Some(data.clone());
        config.tools.folders = vec![tools.clone()];
        config.tools.builtin = false;
        config.tools.pinned = false;
        config.tools.baseline_first = true;
        // The watch begins before the first build, so that no save is missed.
        let mut sources = Sources::watch(&project.folder)?;
        let host = start(config, self.listen).await?;
        let mut session = DevSession {
            project,
            host,
            data,
            tools,
            built: None,
            live: None,
            waiting: false,
            optimizing: JoinSet::new(),
        };
        let outcome = session.serve(&mut sources).await;
        session.host.stop().await;
        outcome?;
        Ok(0)
    }
}

/// An empty tools folder in `data`, without the builds of another day.
fn fresh_tools_folder(data: &std::path::Path) -> anyhow::Result<PathBuf> {
    let tools = data.join("tools");
    let making = || format!("cannot make {}", tools.display());
    std::fs::create_dir_all(&tools).with_context(making)?;
    for entry in std::fs::read_dir(&tools).with_context(making)?.flatten() {
        if crate::reload::loader::is_component_file(&entry.path()) {
            std::fs::remove_file(entry.path()).with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(tools)
}

/// Starts the host where it was told to listen, or on the first port that is free.
async fn start(mut config: Config, listen: Option<SocketAddr>) -> anyhow::Result<Host> {
    let usual = (PORT..PORT.saturating_add(PORTS)).map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let addresses: Vec<SocketAddr> = listen.map_or_else(|| usual.collect(), |address| vec![address]);
    let mut last = None;
    for address in addresses {
        config.server.listen = address;
        match Box::pin(Host::start(config.clone(), Arc::new(|| {}))).await {
            Ok(host) => {
                host.loaded().await;
                return Ok(host);
            }
            Err(error) => match error.downcast_ref::<io::Error>() {
                Some(source) if source.kind() == io::ErrorKind::AddrInUse => last = Some(error),
                _ => return Err(error),
            },
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("there is no port to listen on")))
}

/// One project and the host that serves it.
struct DevSession {
    project: Project,
    host: Host,
    data: PathBuf,
    tools: PathBuf,
    /// The newest build.
    built: Option<RunningBuild>,
    /// The tools that clients see now.
    live: Option<Face>,
    /// Whether the newest build waits for a grant, or is not live for another reason.
    waiting: bool,
    /// The task that makes the optimized code of the live build; its result is the time it took.
    optimizing: JoinSet<Result<Option<Duration>, LoadError>>,
}

/// A build in the tools folder.
struct RunningBuild {
    component: String,
    digest: String,
    imports: std::collections::BTreeSet<String>,
    /// From the save to the build's beginning; the first build is for no save.
    noticed: Option<Duration>,
    took: Duration,
}

impl RunningBuild {
    /// How long each step from the save to the swap took.
    fn times(&self, live: &Revision) -> Vec<String> {
        let mut steps = Vec::from_iter(self.noticed.map(|noticed| ("noticed", noticed)));
        steps.push(("built", self.took));
        if let Some(LoadTimes { compile, cached, list, swap }) = live.times.get() {
            let compiled = match (live.code, *cached) {
                (_, true) => "compiled before, read",
                (Code::Baseline, false) => "compiled without optimization",
                (Code::Optimized, false) => "compiled",
            };
            steps.extend([(compiled, *compile), ("tools listed", *list), ("swapped", *swap)]);
        }
        steps.into_iter().map(|(step, took)| format!("{step} in {}", shown(took))).collect()
    }
}

impl DevSession {
    /// Builds at every save, until it is told to stop.
    async fn serve(&mut self, sources: &mut Sources) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let stopped = async {
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => pressed,
                _ = terminate.recv() => Ok(()),
            }
        };
        let mut stopped = std::pin::pin!(stopped);
        tokio::select! {
            built = self.build(None) => built?,
            stopped = &mut stopped => return Ok(stopped?),
        }
        loop {
            tokio::select! {
                stopped = &mut stopped => return Ok(stopped?),
                saved = sources.saved() => {
                    let saved = saved?;
                    tokio::select! {
                        built = self.build(Some(saved)) => built?,
                        stopped = &mut stopped => return Ok(stopped?),
                    }
                }
                // A grant that the operator gives meanwhile lets the waiting build go live.
                () = tokio::time::sleep(RECHECK), if self.waiting => {
                    self.waiting = !self.settle();
                    self.optimize().await?;
                }
                Some(Ok(made)) = self.optimizing.join_next() => self.optimized(made).await?,
            }
        }
    }

    /// Builds the saved sources, swaps, and tells the outcome.
    async fn build(&mut self, saved: Option<Instant>) -> anyhow::Result<()> {
        let noticed = saved.map(|saved| saved.elapsed());
        match with_progress(&self.project).await {
            Ok(built) => {
                // An author need not read at every save that the tools succeeded.
                if built.said.to_lowercase().contains("warn") {
                    show(&built.said);
                }
                if let Err(error) = self.swap(&built, noticed).await {
                    self.failed(&format!("{error:#}"));
                }
            }
            Err(error) => {
                show_failure(&error);
                self.failed("the project does not build");
            }
        }
        Ok(())
    }

    async fn swap(&mut self, built: &Built, noticed: Option<Duration>) -> anyhow::Result<()> {
        let reading = || format!("cannot read {}", built.component.display());
        let wasm = std::fs::read(&built.component).with_context(reading)?;
        let component = built.component.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(before) = self.built.take().filter(|before| before.component != component) {
            std::fs::remove_file(self.tools.join(format!("{}.wasm", before.component)))?;
            self.live = None;
        }
        self.waiting = false;
        write_atomically(&self.tools.join(format!("{component}.wasm")), &wasm)?;
        let digest = blake3::hash(&wasm).to_hex().to_string();
        // An author need not read of the imports that every component has.
        let imports =
            imports(&wasm)?.into_iter().filter(|import| !capability::of_import(import).is_some_and(is_for_everyone));
        self.built = Some(RunningBuild { digest, imports: imports.collect(), noticed, took: built.took, component });
        self.host.reload().await?;
        if self.settle() {
            return self.optimize().await;
        }
        self.waiting = true;
        self.refused();
        Ok(())
    }

    /// Shows what is new, if the newest build is live; whether it is.
    fn settle(&mut self) -> bool {
        let Some(build) = &self.built else { return false };
        let catalog = self.host.registry().catalog(&TenantId::local());
        let Some(revision) = catalog.component(&build.component).filter(|live| live.digest == build.digest) else {
            return false;
        };
        let face = Face::of(revision, build.imports.clone());
        if self.live.as_ref() != Some(&face) {
            self.announce(build, revision, &face);
            self.live = Some(face);
        }
        true
    }

    /// Begins to make the optimized code of the build that is live, if it serves without.
    async fn optimize(&mut self) -> anyhow::Result<()> {
        let live = self.host.registry().catalog(&TenantId::local()).components().next().cloned();
        if let Some(live) = live.filter(|live| live.code == Code::Baseline && !self.waiting)
            && let Some(loader) = self.host.tenants().reloader().loader(&TenantId::local())
        {
            self.optimizing.spawn(async move { loader.optimize(&live).await });
        }
        Ok(())
    }

    /// Lets the optimized code serve.
    async fn optimized(&self, made: Result<Option<Duration>, LoadError>) -> anyhow::Result<()> {
        match made {
            Ok(Some(took)) => {
                self.host.reload().await?;
                let catalog = self.host.registry().catalog(&TenantId::local());
                // Another build may have taken its place meanwhile.
                if catalog.components().all(|live| live.code == Code::Optimized) {
                    tell(&format!("  optimized code serves now (compiled in {})", shown(took)));
                }
            }
            Ok(None) => {}
            Err(error) => {
                tell(&paint(Style::Warning, &format!("  the optimized code was not made: {}", clean(&chain(&error)))))
            }
        }
        Ok(())
    }

    fn announce(&self, build: &RunningBuild, revision: &Revision, face: &Face) {
        let times = build.times(revision).join(", ");
        let url = self.host.url();
        let name = clean(&build.component);
        tell(&paint(Style::Good, &format!("{name} is live on {url} ({times})")));
        let difference = face.changes(self.live.as_ref());
        // Of a tool that is new its author needs no more than its name.
        let of_interest =
            |change: &&FaceChange| !matches!(change, FaceChange::New | FaceChange::Text { before: None, .. });
        for line in difference.iter().filter(of_interest).map(FaceChange::line) {
            tell(&format!("  {}", paint(Style::of_difference(&line), &line)));
        }
        if self.live.is_some() && difference.is_empty() {
            tell("  clients see the same tools");
        }
        for note in &revision.notes {
            tell(&format!("  {}", paint(Style::Warning, &clean(note))));
        }
        if self.live.is_none() {
            clients::advice(&build.component, &url).iter().for_each(|line| tell(line));
        }
    }

    /// Says why the newest build is not live, and which grant would help.
    fn refused(&self) {
        let Some(build) = &self.built else { return };
        let catalog = self.host.registry().catalog(&TenantId::local());
        let problem = catalog.problems().find(|problem| problem.component == build.component);
        let reason = problem.map_or("it was not loaded", |problem| problem.error.as_str());
        self.failed(reason);
        for (import, meaning, line) in self.not_granted(build) {
            tell(&format!("  + asks for {}: {meaning}", clean(&import)));
            let data = self.data.display();
            tell(&paint(
                Style::Good,
                &format!("    to grant it: mcpp grant {} '{line}' --data {data}", build.component),
            ));
        }
    }

    /// The imports of a build that its grant lacks: the interface, its meaning, and the line that grants it.
    fn not_granted(&self, build: &RunningBuild) -> Vec<(String, &'static str, &'static str)> {
        let file = self.data.join("grants").join(format!("{}.toml", build.component));
        let grant = ComponentGrant::load(&file).unwrap_or_default();
        let asked = build.imports.iter().filter_map(|import| {
            let capability = capability::of_import(import)?;
            match capability.access {
                Access::Granted { given, grant: line } if !given(&grant) => {
                    Some((import.clone(), capability.meaning, line))
                }
                _ => None,
            }
        });
        asked.collect()
    }

    fn failed(&self, reason: &str) {
        let serves = if self.live.is_some() { "the last good build serves on" } else { "nothing serves yet" };
        tell(&paint(Style::Bad, &format!("not live: {}; {serves}", clean(reason))));
    }
}

fn is_for_everyone(capability: &Capability) -> bool {
    matches!(capability.access, Access::Everyone | Access::Nobody)
}

/// A duration in the unit in which it is read well.
fn shown(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match took.as_millis() {
        0..10 => format!("{:.1} ms", seconds * 1e3),
        10..1_000 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}
