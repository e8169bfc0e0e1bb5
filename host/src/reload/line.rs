//! The task of one tenant: what of it is to be loaded, and the one load that goes on.
//!
//! The task itself never waits for a file, a compiler or a guest, so it answers whatever hangs: looking into folders and loading go on beside it, one of each at a time. An
//! operator's request goes before saved files, and saves have a pace. A file that is still being written waits in the queue, and keeps nothing else from being loaded.

mod partial;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::partial::{MAX_SETTLE, PartialFile};
use super::{
    LoadsNow, Progress, Report,
    dirty::DirtyFiles,
    loader::{Attempt, Cause, LoadOutcome, Loader},
    pace::LoadPace,
    sentry::{FolderSentry, LOOK_EVERY},
    source::{Source, SourceKey},
    watch::FolderWatch,
};
use crate::{grants::ComponentGrant, guest::component::Origin, registry::catalog::Problem, reload::error::LoadError};

/// Names that are shown of what waits to be loaded.
const MAX_SHOWN: usize = 20;

/// A request to a tenant's task.
#[derive(Debug)]
pub(super) enum LineRequest {
    /// To look at everything, and report when all of it is loaded, or at the latest after a while.
    Look {
        /// The failures that are known already.
        failed: Report,
        patience: Option<Duration>,
        answer: oneshot::Sender<Report>,
    },
    /// For what is being loaded.
    Now(oneshot::Sender<LoadsNow>),
}

/// The task of one tenant.
pub(super) struct LoadLine {
    loader: Arc<Loader>,
    watch: Arc<FolderWatch>,
    dirty: Arc<DirtyFiles>,
    inbox: mpsc::Receiver<LineRequest>,
    /// Told of each component that is loaded at the start.
    progress: Option<Progress>,
    /// None while it looks.
    sentry: Option<FolderSentry>,
    looking: JoinSet<(FolderSentry, Option<Vec<Source>>)>,
    /// Why everything is to be listed again as soon as the sentry is back.
    list_again: Option<Cause>,
    /// Why everything is being listed.
    listing: Option<Cause>,
    queue: VecDeque<QueuedLoad>,
    current: Option<CurrentLoad>,
    loads: JoinSet<Attempt>,
    rounds: Vec<LoadRound>,
    pace: LoadPace,
}

/// A load that waits.
#[derive(Debug)]
struct QueuedLoad {
    source: Source,
    cause: Cause,
    due: Instant,
    partial: Option<PartialFile>,
}

/// The load that goes on.
#[derive(Debug)]
struct CurrentLoad {
    load: QueuedLoad,
    /// The grant with which it began.
    grant: Option<ComponentGrant>,
    /// Why it has to be done once more: something changed meanwhile.
    again: Option<Cause>,
    cancel: CancellationToken,
    began: Instant,
}

/// Somebody who waits until everything was looked at.
#[derive(Debug)]
struct LoadRound {
    /// Whether a listing began since it was asked for.
    begun: bool,
    /// The sources that are still to be loaded; none until the task knows them.
    left: Option<BTreeSet<SourceKey>>,
    report: Report,
    until: Option<Instant>,
    answer: Option<oneshot::Sender<Report>>,
    /// Whether it is the first: the tenant is open when it is done.
    opens: bool,
}

impl LoadLine {
    /// A line that first loads everything there is, and answers with what that did.
    pub(super) fn new(
        loader: Arc<Loader>,
        watch: Arc<FolderWatch>,
        inbox: mpsc::Receiver<LineRequest>,
        progress: Progress,
        opened: oneshot::Sender<Report>,
    ) -> Self {
        let dirty = Arc::new(DirtyFiles::default());
        let sentry = FolderSentry::new(loader.folders().clone(), Arc::clone(&watch), Arc::clone(&dirty));
        let first = LoadRound {
            begun: false,
            left: None,
            report: Report::default(),
            until: None,
            answer: Some(opened),
            opens: true,
        };
        Self {
            loader,
            watch,
            dirty,
            inbox,
            progress: Some(progress),
            sentry: Some(sentry),
            looking: JoinSet::new(),
            list_again: Some(Cause::Asked),
            listing: None,
            queue: VecDeque::new(),
            current: None,
            loads: JoinSet::new(),
            rounds: vec![first],
            pace: LoadPace::new(Instant::now()),
        }
    }

    /// Works until the tenant is closed or the host stops.
    pub(super) async fn run(mut self) {
        let closing = self.loader.closing().clone();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = self.advance(Instant::now());
            let wake = async {
                match next {
                    Some(time) => tokio::time::sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = closing.cancelled() => break,
                request = self.inbox.recv() => match request {
                    Some(request) => self.serve(request),
                    None => break,
                },
                Some(looked) = self.looking.join_next() => self.looked(looked.ok()),
                Some(done) = self.loads.join_next() => self.loaded(done.ok()),
                () = self.dirty.changed() => {}
                _ = tick.tick() => self.look(None),
                () = wake => {}
            }
        }
        if let Some(current) = &self.current {
            current.cancel.cancel();
        }
        if let Some(sentry) = self.sentry {
            let _beside = tokio::task::spawn_blocking(move || sentry.end());
        }
    }

    /// Begins what can begin; when there will be more to do.
    fn advance(&mut self, now: Instant) -> Option<Instant> {
        if self.dirty.take_whole() {
            self.list_again = Some(self.list_again.unwrap_or(Cause::Event));
        }
        if let Some(cause) = self.list_again {
            self.look(Some(cause));
        }
        let (settled, next_settled) = self.dirty.take_settled(now);
        for path in settled {
            self.enqueue(Source::File(path), Cause::Event, now);
        }
        let next_load = if self.current.is_none() { self.begin_load(now) } else { None };
        let next_answer = self.answer_rounds(now);
        [next_settled, next_load, next_answer].into_iter().flatten().min()
    }

    fn serve(&mut self, request: LineRequest) {
        match request {
            LineRequest::Look { failed, patience, answer } => {
                let until = patience.map(|patience| Instant::now() + patience);
                let (begun, left, answer) = (false, None, Some(answer));
                self.rounds.push(LoadRound { begun, left, report: failed, until, answer, opens: false });
                self.list_again = Some(Cause::Asked);
                self.cancel_outdated();
            }
            LineRequest::Now(answer) => drop(answer.send(self.now())),
        }
    }

    /// A load that began with another grant than the one in force now begins anew.
    fn cancel_outdated(&mut self) {
        if let Some(current) = &mut self.current
            && current.grant != self.loader.grant(&current.load.source.component()).ok()
        {
            current.again = Some(Cause::Asked);
            current.cancel.cancel();
        }
    }

    fn now(&self) -> LoadsNow {
        let waits = self.queue.iter().map(|load| load.source.component());
        LoadsNow {
            opening: self.rounds.iter().any(|round| round.opens),
            loading: self.current.as_ref().map(|current| current.load.source.component()),
            for_ms: self
                .current
                .as_ref()
                .map_or(0, |current| u64::try_from(current.began.elapsed().as_millis()).unwrap_or(u64::MAX)),
            queued: self.queue.len(),
            next: waits.take(MAX_SHOWN).collect(),
        }
    }

    /// Lets the sentry look, if it does not already; with a cause, everything is listed too.
    fn look(&mut self, list: Option<Cause>) {
        let Some(mut sentry) = self.sentry.take() else { return };
        self.listing = list;
        if list.is_some() {
            self.list_again = None;
            self.rounds.iter_mut().for_each(|round| round.begun = true);
        }
        let (loader, dirty) = (Arc::clone(&self.loader), Arc::clone(&self.dirty));
        self.looking.spawn_blocking(move || {
            sentry.look();
            let sources = list.map(|_| {
                // Whatever changed until now is listed now.
                dirty.take_whole();
                loader.sources()
            });
            (sentry, sources)
        });
    }

    fn looked(&mut self, looked: Option<(FolderSentry, Option<Vec<Source>>)>) {
        let (sentry, sources) = looked.unwrap_or_else(|| {
            // It broke: another one begins where this one ended.
            self.list_again = self.listing;
            let (watch, dirty) = (Arc::clone(&self.watch), Arc::clone(&self.dirty));
            (FolderSentry::new(self.loader.folders().clone(), watch, dirty), None)
        });
        self.show_problems(&sentry);
        self.sentry = Some(sentry);
        let (Some(cause), Some(sources)) = (self.listing.take(), sources) else { return };
        if cause == Cause::Asked {
            let keys: BTreeSet<SourceKey> = sources.iter().map(Source::key).collect();
            for round in self.rounds.iter_mut().filter(|round| round.begun && round.left.is_none()) {
                round.left = Some(keys.clone());
            }
        }
        let now = Instant::now();
        for source in sources {
            self.enqueue(source, cause, now);
        }
    }

    /// Notes what is wrong with the folders, and forgets what is mended.
    fn show_problems(&self, sentry: &FolderSentry) {
        let (registry, tenant) = (self.loader.registry(), self.loader.tenant());
        let catalog = registry.catalog(tenant);
        for (path, problem) in sentry.problems() {
            let name = path.display().to_string();
            let known = catalog.problems().find(|known| known.component == name).map(|known| &known.error);
            let changed = match problem {
                Some(error) if known != Some(&error) => {
                    tracing::error!(%tenant, error, "a tools folder has a problem");
                    registry.report(
                        tenant,
                        Problem { component: name, origin: Origin::File(path), error, since: SystemTime::now() },
                    )
                }
                None if known.is_some() => {
                    tracing::info!(%tenant, folder = name, "the tools folder is watched again");
                    registry.remove(tenant, &name)
                }
                _ => Ok(()),
            };
            if let Err(stopping) = changed {
                tracing::debug!(%stopping, "a folder's problem is not noted");
            }
        }
    }

    fn enqueue(&mut self, source: Source, cause: Cause, now: Instant) {
        let key = source.key();
        if let Some(current) = self.current.as_mut().filter(|current| current.load.source.key() == key) {
            current.again = Some(current.again.map_or(cause, |before| before.max(cause)));
        } else if let Some(queued) = self.queue.iter_mut().find(|queued| queued.source.key() == key) {
            queued.cause = queued.cause.max(cause);
            if cause == Cause::Asked {
                queued.due = queued.due.min(now);
            }
        } else {
            self.queue.push_back(QueuedLoad { source, cause, due: now, partial: None });
        }
    }

    /// Begins the next load, if one is due; if none is, when there will be.
    fn begin_load(&mut self, now: Instant) -> Option<Instant> {
        let paced = self.pace.next(now);
        let may_begin = |load: &QueuedLoad| match load.cause {
            Cause::Asked => load.due,
            Cause::Event => load.due.max(paced),
        };
        let due = |load: &QueuedLoad| may_begin(load) <= now;
        let asked = self.queue.iter().position(|load| load.cause == Cause::Asked && due(load));
        let Some(load) = asked.or_else(|| self.queue.iter().position(due)).and_then(|at| self.queue.remove(at)) else {
            return self.queue.iter().map(may_begin).min();
        };
        let (loader, source, cause) = (Arc::clone(&self.loader), load.source.clone(), load.cause);
        let cancel = self.loader.closing().child_token();
        let token = cancel.clone();
        self.loads.spawn(async move { loader.load(&source, cause, &token).await });
        let grant = self.loader.grant(&load.source.component()).ok();
        self.current = Some(CurrentLoad { load, grant, again: None, cancel, began: now });
        None
    }

    fn loaded(&mut self, attempt: Option<Attempt>) {
        let Some(CurrentLoad { mut load, again, began, .. }) = self.current.take() else { return };
        let now = Instant::now();
        // A source that was only looked at, or is gone, costs nothing that would have to be paced.
        let is_free = matches!(attempt, Some(Attempt::Known | Attempt::Done(LoadOutcome::Removed)));
        if load.cause == Cause::Event && !is_free {
            self.pace.count(now, load.source.bytes());
        }
        // A load that broke off is done as little as one that was cancelled.
        let outcome = match attempt {
            Some(Attempt::Done(outcome)) => outcome,
            Some(Attempt::Known) => LoadOutcome::Unchanged,
            Some(Attempt::Partial(error, stamp)) => match PartialFile::again(load.partial, stamp, now) {
                Some(partial) => {
                    load.due = now + if again.is_some() { Duration::ZERO } else { partial.wait };
                    load.partial = Some(partial);
                    self.queue.push_back(load);
                    return;
                }
                None => {
                    let error = match load.partial {
                        Some(partial) if partial.has_lasted(now) => {
                            LoadError::NeverSettles { seconds: MAX_SETTLE.as_secs(), error: Box::new(error) }
                        }
                        _ => error,
                    };
                    self.loader.fail(&load.source, &error, began.into_std())
                }
            },
            Some(Attempt::Cancelled) => {
                self.queue.push_back(QueuedLoad { due: now, partial: None, ..load });
                return;
            }
            None => self.loader.fail(&load.source, &LoadError::Broke, began.into_std()),
        };
        if let Some(cause) = again {
            self.queue.push_back(QueuedLoad { cause, due: now, partial: None, ..load });
            return;
        }
        self.settle(&load.source.key(), outcome);
    }

    /// Tells those who wait for a load what it came to.
    fn settle(&mut self, key: &SourceKey, outcome: LoadOutcome) {
        for round in &mut self.rounds {
            if round.left.as_mut().is_some_and(|left| left.remove(key)) {
                round.report.add(key.component(), outcome.clone());
                if let Some(progress) = self.progress.as_ref().filter(|_| round.opens) {
                    progress();
                }
            }
        }
    }

    /// Answers those who have waited for long enough, or for all; when the next one will have.
    fn answer_rounds(&mut self, now: Instant) -> Option<Instant> {
        for round in &mut self.rounds {
            let is_done = round.left.as_ref().is_some_and(BTreeSet::is_empty);
            if !is_done && round.until.is_none_or(|until| until > now) {
                continue;
            }
            let mut report = std::mem::take(&mut round.report);
            match &round.left {
                Some(left) => report.loading = left.iter().map(SourceKey::component).collect(),
                None => drop(report.loading.insert("(the folder)".into())),
            }
            if let Some(answer) = round.answer.take() {
                let _asker_may_be_gone = answer.send(report);
            }
            if round.opens {
                self.loader.registry().opened(self.loader.tenant());
                self.progress = None;
            }
        }
        self.rounds.retain(|round| round.answer.is_some());
        self.rounds.iter().filter_map(|round| round.until).min()
    }
}
