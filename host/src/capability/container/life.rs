//! One container from its image to its removal. Nothing of it depends on the guest: the guest hears, and may end it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use bollard::{
    container::LogOutput,
    errors::Error,
    models::{ContainerCreateBody, ImageInspect},
    query_parameters::{
        AttachContainerOptions, BuildImageOptions, CreateContainerOptions, CreateImageOptions, InspectContainerOptions,
        StartContainerOptions, WaitContainerOptions,
    },
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    build_files,
    engine::{ContainerEngine, EngineFailure, bounded},
    plan::{ContainerPlan, PlannedImage},
};
use crate::{
    capability::bindings::mcpp::container::containers::{Ending, Origin, Outcome, Phase},
    limits::millis,
};

/// Most bytes of one piece of output.
pub(super) const MAX_PIECE_BYTES: usize = 16 << 10;
/// Pieces that wait for the guest.
pub(super) const MAX_WAITING: usize = 4;
/// The least time between two looks at the size of a container's files.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// The engine looks at each file: of many files that costs it one part in so many of its time.
const LOOK_SHARE: u32 = 10;
/// The time in which a build's processor time is counted, in microseconds: the kernel's own.
const CPU_PERIOD_US: i64 = 100_000;
/// Pieces, of another origin than the one before, that are put together.
const MAX_UNREAD_PIECES: usize = 64;

/// What happens to a container.
#[derive(Debug)]
pub(super) enum ContainerEvent {
    /// The next phase.
    Phase(Phase),
    /// Output.
    Output(Origin, Bytes),
    /// It has ended, and is gone.
    Ended(Ending),
    /// It did not run, or nobody knows how it ended; it is gone.
    Failed(EngineFailure),
}

/// The name of an image that the engine has, and what the engine said of it if it was asked.
type PreparedImage = (String, Option<ImageInspect>);

/// What ends a container from outside, and who hears of it.
#[derive(Debug)]
pub(super) struct LifeSignals {
    /// The call is over.
    over: CancellationToken,
    /// The guest, or the end of its handle.
    killed: CancellationToken,
    events: mpsc::Sender<ContainerEvent>,
}

/// A container in somebody's hands. Dropped, the container is killed.
#[derive(Debug)]
pub(super) struct LifeHandle {
    /// What happens.
    pub(super) events: mpsc::Receiver<ContainerEvent>,
    /// Kills it.
    pub(super) kill: CancellationToken,
    _kill_when_dropped: DropGuard,
}

impl LifeSignals {
    pub(super) fn new(over: CancellationToken) -> (Self, LifeHandle) {
        let (sender, events) = mpsc::channel(MAX_WAITING);
        let killed = CancellationToken::new();
        let handle = LifeHandle { events, kill: killed.clone(), _kill_when_dropped: killed.clone().drop_guard() };
        (Self { over, killed, events: sender }, handle)
    }
}

/// A container, as it is to be.
pub(super) struct ContainerLife {
    /// The engine.
    pub(super) engine: ContainerEngine,
    /// What runs.
    pub(super) plan: ContainerPlan,
    /// The labels.
    pub(super) labels: HashMap<String, String>,
    /// Its name, and that of the image that is built for it.
    pub(super) name: String,
}

/// What there may be at the engine.
#[derive(Default)]
struct Making {
    /// Whether anything was asked for that has to be removed.
    has_begun: bool,
    /// The order to make the container, under way. It is never broken off: the engine would make it afterwards.
    under_way: Option<JoinHandle<Result<(), Error>>>,
}

impl ContainerLife {
    /// Lives.
    pub(super) async fn live(self, signals: LifeSignals) {
        let mut making = Making::default();
        let ended = tokio::select! {
            biased;
            () = signals.over.cancelled() => None,
            ended = self.run(&signals, &mut making) => Some(ended),
        };
        if let Some(under_way) = making.under_way {
            drop(under_way.await);
        }
        let has_image = matches!(self.plan.image, PlannedImage::Built { .. });
        match making.has_begun {
            true => self.engine.remove(&self.name, has_image).await,
            false => self.engine.forget(&self.name),
        }
        let outcome = match &ended {
            None => "call_over",
            Some(Ok(ending)) => outcome_name(ending.outcome),
            Some(Err(_)) => "failed",
        };
        self.engine.count(&self.labels, outcome);
        let event = match ended {
            None => return,
            Some(Ok(ending)) => ContainerEvent::Ended(ending),
            Some(Err(failure)) => ContainerEvent::Failed(failure),
        };
        tokio::select! {
            () = signals.over.cancelled() => {}
            _nobody_hears = signals.events.send(event) => {}
        }
    }

    async fn run(&self, signals: &LifeSignals, making: &mut Making) -> Result<Ending, EngineFailure> {
        let killed = |run: Duration| Ending { outcome: Outcome::Killed, exit_code: None, run_ms: millis(run) };
        let prepared = tokio::select! {
            biased;
            () = signals.killed.cancelled() => return Ok(killed(Duration::ZERO)),
            prepared = self.prepare(signals, making) => prepared?,
        };
        self.make(prepared, making).await?;
        let options = AttachContainerOptions { stream: true, stdout: true, stderr: true, ..Default::default() };
        // Before it starts, so that nothing of its output is lost.
        let attached = bounded(self.engine.output().attach_container(&self.name, Some(options))).await?;
        bounded(self.engine.short().start_container(&self.name, None::<StartContainerOptions>)).await?;
        let began = Instant::now();
        let following = async {
            tell(signals, ContainerEvent::Phase(Phase::Running)).await;
            self.follow(attached.output, signals).await
        };
        let ended = tokio::select! {
            biased;
            () = signals.killed.cancelled() => return Ok(killed(began.elapsed())),
            () = tokio::time::sleep(self.plan.time) => (Outcome::TimedOut, None),
            () = self.fill_disk() => (Outcome::TooMuchDisk, None),
            ended = following => ended?,
        };
        let (outcome, exit_code) = ended;
        Ok(Ending { outcome, exit_code, run_ms: millis(began.elapsed()) })
    }

    /// Has the engine get the image.
    async fn prepare(&self, signals: &LifeSignals, making: &mut Making) -> Result<PreparedImage, EngineFailure> {
        self.engine.clean().await?;
        making.has_begun = matches!(self.plan.image, PlannedImage::Built { .. });
        let config = self.engine.config();
        let (time_ms, what) = match &self.plan.image {
            PlannedImage::Named(_) => (config.pull_ms, "fetched"),
            PlannedImage::Built { .. } => (config.build_ms, "built"),
        };
        let preparing = async {
            match &self.plan.image {
                PlannedImage::Named(name) => self.pull(name, signals).await.map(|seen| (name.clone(), seen)),
                PlannedImage::Built { .. } => self.build(signals).await.map(|()| (self.name.clone(), None)),
            }
        };
        let late = || EngineFailure::Refused(format!("the image was not {what} within {time_ms} ms"));
        tokio::time::timeout(Duration::from_millis(time_ms), preparing).await.map_err(|_| late())?
    }

    /// Has the engine fetch an image that it does not have; what it says of one that it has.
    async fn pull(&self, name: &str, signals: &LifeSignals) -> Result<Option<ImageInspect>, EngineFailure> {
        match bounded(self.engine.short().inspect_image(name)).await {
            Ok(seen) => return Ok(Some(seen)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        tell(signals, ContainerEvent::Phase(Phase::Pulling)).await;
        let options = CreateImageOptions { from_image: Some(name.to_owned()), ..CreateImageOptions::default() };
        let mut story = Box::pin(self.engine.story().create_image(Some(options), None, None));
        while let Some(step) = story.next().await {
            step?;
        }
        Ok(None)
    }

    async fn build(&self, signals: &LifeSignals) -> Result<(), EngineFailure> {
        let PlannedImage::Built { remote, dockerfile, arguments } = &self.plan.image else { return Ok(()) };
        tell(signals, ContainerEvent::Phase(Phase::Building)).await;
        // As much as the API has a number for.
        let memory = i32::try_from(self.plan.memory_bytes).unwrap_or(i32::MAX);
        // A container's processor time is in billionths of a processor's.
        let nano_cpus = self.plan.body.host_config.as_ref().and_then(|host| host.nano_cpus).unwrap_or_default();
        let options = BuildImageOptions {
            remote: Some(remote.clone()),
            dockerfile: dockerfile.clone(),
            t: Some(self.name.clone()),
            buildargs: Some(arguments.clone()),
            labels: Some(self.labels.clone()),
            networkmode: Some(self.plan.network.clone()),
            memory: Some(memory),
            memswap: Some(memory),
            cpuperiod: i32::try_from(CPU_PERIOD_US).ok(),
            cpuquota: i32::try_from(nano_cpus.saturating_mul(CPU_PERIOD_US) / 1_000_000_000).ok(),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        // The library wants a body also where the engine fetches what it builds.
        let nothing = Some(bollard::body_full(Bytes::new()));
        let mut story = Box::pin(self.engine.story().build_image(options, None, nothing));
        let mut left = self.engine.config().output_bytes;
        let (mut names, files) = build_files::new();
        let telling = async move {
            while let Some(step) = story.next().await {
                // Of a long story the end is missing; the build goes on.
                let text = step?.stream.unwrap_or_default();
                names.hear(&text)?;
                let bytes = u32::try_from(text.len()).unwrap_or(u32::MAX);
                if let Some(less) = left.checked_sub(bytes) {
                    left = less;
                    say(signals, Origin::Build, text.into()).await;
                }
            }
            Ok(())
        };
        // Beside it: a guest that takes no output holds up the story, and not the build.
        tokio::try_join!(telling, files.watch(&self.engine)).map(|((), ())| ())
    }

    async fn make(&self, (image, seen): PreparedImage, making: &mut Making) -> Result<(), EngineFailure> {
        let mut body = self.plan.body.clone();
        let seen = match seen {
            Some(seen) => seen,
            None => bounded(self.engine.short().inspect_image(&image)).await?,
        };
        hold_volumes(seen, &mut body);
        (body.image, body.labels) = (Some(image), Some(self.labels.clone()));
        let options = CreateContainerOptions { name: Some(self.name.clone()), ..CreateContainerOptions::default() };
        let engine = self.engine.clone();
        let task =
            tokio::spawn(async move { bounded(engine.short().create_container(Some(options), body)).await.map(drop) });
        making.has_begun = true;
        let made = making.under_way.insert(task).await;
        making.under_way = None;
        Ok(made.map_err(|error| EngineFailure::Away(error.to_string()))??)
    }

    /// Ends when the container's own files have more bytes than the settings allow. An engine that does not tell their size has no such bound.
    async fn fill_disk(&self) {
        let mut pause = DISK_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            let asked = Instant::now();
            let options = InspectContainerOptions { size: true };
            let seen = bounded(self.engine.short().inspect_container(&self.name, Some(options))).await;
            let bytes = seen.ok().and_then(|container| container.size_rw).unwrap_or_default();
            if u64::try_from(bytes).is_ok_and(|bytes| bytes > self.engine.config().disk_bytes) {
                return;
            }
            pause = pause_after(asked.elapsed());
        }
    }

    /// Passes on what the container writes, until it ends or has written too much.
    async fn follow(
        &self,
        mut output: impl futures::Stream<Item = Result<LogOutput, Error>> + Unpin,
        signals: &LifeSignals,
    ) -> Result<(Outcome, Option<i64>), EngineFailure> {
        let mut left = usize::try_from(self.engine.config().output_bytes).unwrap_or(usize::MAX);
        let mut unread = Unread::default();
        loop {
            let piece = tokio::select! {
                biased;
                permit = signals.events.reserve(), if !unread.is_empty() => {
                    // If nobody listens any more, the container is being killed.
                    let Ok(permit) = permit else { return std::future::pending().await };
                    if let Some((origin, bytes)) = unread.pop() {
                        permit.send(ContainerEvent::Output(origin, bytes));
                    }
                    continue;
                }
                piece = output.next(), if unread.has_room() => piece,
            };
            let Some(piece) = piece else { break };
            let (origin, mut bytes) = match piece? {
                LogOutput::StdErr { message } => (Origin::Stderr, message),
                LogOutput::StdOut { message } | LogOutput::Console { message } => (Origin::Stdout, message),
                LogOutput::StdIn { .. } => continue,
            };
            let is_too_much = bytes.len() > left;
            bytes.truncate(left);
            left = left.saturating_sub(bytes.len());
            unread.push(origin, &bytes);
            if is_too_much {
                unread.flush(signals).await;
                return Ok((Outcome::TooMuchOutput, None));
            }
        }
        unread.flush(signals).await;
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        let mut waiting = Box::pin(self.engine.story().wait_container(&self.name, Some(options)));
        let code = match waiting.next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(error.into()),
            None => return Err(EngineFailure::Away("it does not say how the container ended".to_owned())),
        };
        let state = bounded(self.engine.short().inspect_container(&self.name, None)).await?.state;
        let outcome = match state.and_then(|state| state.oom_killed) {
            Some(true) => Outcome::OutOfMemory,
            _ => Outcome::Exited,
        };
        Ok((outcome, Some(code)))
    }
}

/// The pause after a look at the sizes of files that took `looked`.
pub(super) fn pause_after(looked: Duration) -> Duration {
    DISK_PAUSE.max(looked * LOOK_SHARE)
}

/// An outcome, as metrics have it.
fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Exited => "exited",
        Outcome::OutOfMemory => "out_of_memory",
        Outcome::TimedOut => "timed_out",
        Outcome::TooMuchOutput => "too_much_output",
        Outcome::TooMuchDisk => "too_much_disk",
        Outcome::Killed => "killed",
    }
}

/// Output that the guest has not taken yet, put together: a program that writes byte by byte costs its guest no more than another.
#[derive(Debug, Default)]
struct Unread {
    pieces: VecDeque<(Origin, BytesMut)>,
    bytes: usize,
}

impl Unread {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    fn has_room(&self) -> bool {
        self.bytes < MAX_PIECE_BYTES && self.pieces.len() < MAX_UNREAD_PIECES
    }

    fn push(&mut self, origin: Origin, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len());
        match self.pieces.back_mut() {
            Some((same, piece)) if *same == origin => piece.extend_from_slice(bytes),
            _ if bytes.is_empty() => {}
            _ => self.pieces.push_back((origin, BytesMut::from(bytes))),
        }
    }

    fn pop(&mut self) -> Option<(Origin, Bytes)> {
        let (origin, piece) = self.pieces.front_mut()?;
        let (origin, bytes) = (*origin, piece.split_to(piece.len().min(MAX_PIECE_BYTES)).freeze());
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.bytes = self.bytes.saturating_sub(bytes.len());
        Some((origin, bytes))
    }

    async fn flush(&mut self, signals: &LifeSignals) {
        while let Some((origin, bytes)) = self.pop() {
            tell(signals, ContainerEvent::Output(origin, bytes)).await;
        }
    }
}

async fn say(signals: &LifeSignals, origin: Origin, mut bytes: Bytes) {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(MAX_PIECE_BYTES));
        tell(signals, ContainerEvent::Output(origin, piece)).await;
    }
}

/// Holds the directories that an image declares as volumes in the container's memory, which has a bound: the engine would put them on the machine's disk, and count them for nobody.
fn hold_volumes(image: ImageInspect, body: &mut ContainerCreateBody) {
    let declared = image.config.and_then(|config| config.volumes).unwrap_or_default();
    let host = body.host_config.get_or_insert_default();
    let mounted: Vec<_> = host.mounts.iter().flatten().filter_map(|mount| mount.target.clone()).collect();
    let own = declared.into_iter().filter(|path| !mounted.contains(path));
    host.tmpfs.get_or_insert_default().extend(own.map(|path| (path, String::new())));
}

/// Waits until there is room for an event. If nobody listens any more, the container is being killed.
async fn tell(signals: &LifeSignals, event: ContainerEvent) {
    drop(signals.events.send(event).await);
}
