//! The builds of a tenant that components have pinned, in files: who holds which build, and the bytes of each. So a build is there after the component's file has
//! changed and the host was restarted.
//!
//! ```text
//! pinned/held.json           who holds what
//! pinned/NAME.DIGEST.wasm    the bytes of a build that is held, or live and from a file
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{
    call::build::{BuildId, MAX_PINNED, PinError},
    files::{private_folder, write_atomically, write_durably},
    names::ComponentName,
};

/// Most bytes of them.
pub const MAX_PINNED_BYTES: u64 = 512 << 20;
/// The version of the file that this host reads and writes.
const FORM: u32 = 1;

/// The pinned builds of one tenant.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    /// Held by whoever changes anything, for as long as the disk takes.
    writing: Mutex<()>,
    /// Held for moments: calls look at it.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The builds, with the components that hold them.
    held: BTreeMap<BuildId, BTreeSet<String>>,
    /// Builds whose bytes stay as long as they are live.
    live: BTreeSet<BuildId>,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldFile {
    version: u32,
    held: Vec<HeldBuild>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldBuild {
    by: String,
    build: BuildId,
}

/// A build to hold, with its bytes if they are in no file of the folder.
pub type BuildToHold = (BuildId, Option<&'static [u8]>);

impl Pins {
    /// The pins in a folder, which is made with the first of them.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut kept = Kept::default();
        match fs::read(folder.join("held.json")) {
            Ok(bytes) => {
                let file: HeldFile = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
                if file.version != FORM {
                    let reason = format!("its version is {}; this host reads {FORM}", file.version);
                    return Err(io::Error::other(reason));
                }
                for HeldBuild { by, build } in file.held {
                    kept.held.entry(build).or_default().insert(by);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Self { folder, writing: Mutex::default(), kept: Mutex::new(kept) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who holds what.
    fn held_file(&self) -> PathBuf {
        self.folder.join("held.json")
    }

    fn file(&self, build: &BuildId) -> PathBuf {
        self.folder.join(format!("{}.{}.wasm", build.component, build.digest))
    }

    /// Whether somebody holds a build.
    pub fn is_held(&self, build: &BuildId) -> bool {
        self.kept().held.contains_key(build)
    }

    /// Whether a component holds a build.
    pub(super) fn is_held_by(&self, build: &BuildId, by: &str) -> bool {
        self.kept().held.get(build).is_some_and(|holders| holders.contains(by))
    }

    /// The builds that a component holds.
    pub fn by(&self, by: &str) -> Vec<BuildId> {
        let kept = self.kept();
        kept.held.iter().filter(|(_, holders)| holders.contains(by)).map(|(build, _)| build.clone()).collect()
    }

    /// The builds of a component that are held, with those who hold them.
    pub fn of(&self, component: &str) -> Vec<(BuildId, Vec<String>)> {
        let kept = self.kept();
        let own = kept.held.iter().filter(|(build, _)| build.component.as_str() == component);
        own.map(|(build, holders)| (build.clone(), holders.iter().cloned().collect())).collect()
    }

    /// Keeps the bytes of a build that is live, in the place of those of the component's other builds that nobody holds.
    ///
    /// # Errors
    /// The bytes cannot be written. The build cannot be held then.
    pub fn save(&self, build: &BuildId, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.start_writing();
        let before: Vec<BuildId> = {
            let mut kept = self.kept();
            let is_before = |live: &BuildId| live.component == build.component && live != build;
            let before = kept.live.extract_if(.., |live| is_before(live)).collect();
            kept.live.insert(build.clone());
            before
        };
        self.forget(before.iter());
        let path = self.file(build);
        if path.exists() {
            return Ok(());
        }
        private_folder(&self.folder)?;
        write_atomically(&path, bytes)
    }

    /// Notes that a component was taken away: the bytes of its live build go, unless somebody holds it. Blocks.
    pub fn taken_away(&self, component: &str) {
        let _writing = self.start_writing();
        let live: Vec<BuildId> = self.kept().live.extract_if(.., |live| live.component.as_str() == component).collect();
        self.forget(live.iter());
    }

    /// Removes the bytes of those builds that nobody needs. The caller keeps others from writing.
    fn forget<'a>(&self, builds: impl Iterator<Item = &'a BuildId>) {
        for build in builds {
            let is_needed = {
                let kept = self.kept();
                kept.live.contains(build) || kept.held.contains_key(build)
            };
            if !is_needed
                && let Err(error) = fs::remove_file(self.file(build))
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%build, %error, "the bytes of a build that nobody needs are not removed");
            }
        }
    }

    /// Removes all bytes that nobody needs, and unfinished files that a crash left. Called once what is live is known. Blocks.
    pub fn sweep(&self) {
        let _writing = self.start_writing();
        let mut needed: BTreeSet<PathBuf> = {
            let kept = self.kept();
            kept.live.iter().chain(kept.held.keys()).map(|build| self.file(build)).collect()
        };
        needed.insert(self.held_file());
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !needed.contains(&path) {
                let _next_time = fs::remove_file(path);
            }
        }
    }

    /// The file with the bytes of a build.
    pub fn path(&self, build: &BuildId) -> Option<PathBuf> {
        // What another program wrote into the list must not lead out of the folder.
        let is_digest = build.digest.len() == 64 && build.digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| self.file(build))
    }

    /// Holds builds for a component; on the disk when it returns. Whether it did: it does not while the bytes of one are not there, because they are not kept yet or because
    /// another build has taken their place. Blocks.
    pub(super) fn hold(&self, by: &str, builds: &[BuildToHold]) -> Result<bool, PinError> {
        let failed = |error: io::Error| PinError::Unavailable(error.to_string());
        // No swap takes the bytes away meanwhile.
        let _writing = self.start_writing();
        if builds.iter().any(|(build, bytes)| bytes.is_none() && !self.file(build).exists()) {
            return Ok(false);
        }
        let held = self.sync(builds).map_err(failed).and_then(|()| self.with_held(by, builds));
        match held.and_then(|next| self.write(&next).map_err(failed).map(|()| next)) {
            Ok(next) => self.kept().held = next,
            Err(error) => {
                self.forget(builds.iter().map(|(build, _)| build));
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Puts the bytes of builds onto the disk.
    fn sync(&self, builds: &[BuildToHold]) -> io::Result<()> {
        for (build, bytes) in builds {
            if let Some(bytes) = bytes
                && !self.file(build).exists()
            {
                private_folder(&self.folder)?;
                write_atomically(&self.file(build), bytes)?;
            }
            File::open(self.file(build))?.sync_all()?;
        }
        Ok(())
    }

    /// What is held when a component holds these too.
    fn with_held(&self, by: &str, builds: &[BuildToHold]) -> Result<BTreeMap<BuildId, BTreeSet<String>>, PinError> {
        let mut next = self.kept().held.clone();
        for (build, _) in builds {
            next.entry(build.clone()).or_default().insert(by.to_owned());
        }
        let bytes = next.keys().filter_map(|build| fs::metadata(self.file(build)).ok());
        let bytes = bytes.fold(0_u64, |sum, meta| sum.saturating_add(meta.len()));
        match (next.len() > MAX_PINNED, bytes > MAX_PINNED_BYTES) {
            (true, _) => Err(PinError::TooMany(format!("{MAX_PINNED} builds"))),
            (_, true) => Err(PinError::TooMany(format!("{MAX_PINNED_BYTES} bytes of builds"))),
            _ => Ok(next),
        }
    }

    /// Lets builds go that a component held. Blocks.
    pub(super) fn release(&self, by: &str, builds: &[BuildId]) -> io::Result<()> {
        let _writing = self.start_writing();
        let before = self.kept().held.clone();
        let mut next = before.clone();
        for build in builds {
            if let Some(holders) = next.get_mut(build) {
                holders.remove(by);
            }
        }
        next.retain(|_, holders| !holders.is_empty());
        if next == before {
            return Ok(());
        }
        self.write(&next)?;
        self.kept().held = next;
        self.forget(builds.iter());
        Ok(())
    }

    fn write(&self, held: &BTreeMap<BuildId, BTreeSet<String>>) -> io::Result<()> {
        let each = held.iter().flat_map(|(build, holders)| holders.iter().map(move |by| (by, build)));
        let held = each.map(|(by, build)| HeldBuild { by: by.clone(), build: build.clone() }).collect();
        let text = serde_json::to_vec(&HeldFile { version: FORM, held }).map_err(io::Error::other)?;
        write_durably(&self.held_file(), &text)
    }
}

/// The build of a component that has these bytes.
pub fn build_of(component: &ComponentName, wasm: &[u8]) -> BuildId {
    BuildId { component: component.clone(), digest: blake3::hash(wasm).to_hex().to_string() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    fn build(component: &str, bytes: &[u8]) -> BuildId {
        build_of(&ComponentName::new(component).expect("legal"), bytes)
    }

    #[test]
    fn held_builds_outlive_the_host_and_go_with_the_last_who_holds_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pinned");
        let pins = Pins::open(path.clone()).expect("opened");
        let (one, two) = (build("text", b"one"), build("text", b"two"));
        pins.save(&one, b"one").expect("saved");
        assert_eq!(pins.hold("workflow", &[(one.clone(), None)]), Ok(true));
        assert_eq!(pins.hold("other", &[(one.clone(), None)]), Ok(true));
        pins.save(&two, b"two").expect("saved");
        let pins = Pins::open(path.clone()).expect("opened again");
        assert!(pins.is_held(&one) && !pins.is_held(&two));
        assert_eq!(pins.of("text"), [(one.clone(), vec!["other".to_owned(), "workflow".to_owned()])]);
        assert_eq!(fs::read(pins.path(&one).expect("a digest")).expect("there"), b"one");
        // Nothing is known to be live yet: the sweep leaves what is held.
        pins.sweep();
        assert!(!pins.file(&two).exists() && pins.file(&one).exists());
        pins.release("workflow", std::slice::from_ref(&one)).expect("released");
        assert!(pins.is_held(&one) && !pins.is_held_by(&one, "workflow"));
        pins.release("other", std::slice::from_ref(&one)).expect("released");
        assert!(!pins.is_held(&one) && !pins.file(&one).exists());
        assert!(Pins::open(path).expect("opened").by("other").is_empty());
    }

    #[test]
    fn bytes_that_are_live_or_held_stay_and_others_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::open(folder.path().join("pinned")).expect("opened");
        let (one, two, three) = (build("text", b"one"), build("text", b"two"), build("text", b"three"));
        pins.save(&one, b"one").expect("saved");
        pins.save(&two, b"two").expect("saved");
        assert!(!pins.file(&one).exists(), "the build before, which nobody holds");
        assert_eq!(pins.hold("workflow", &[(two.clone(), None)]), Ok(true));
        pins.save(&three, b"three").expect("saved");
        pins.release("workflow", std::slice::from_ref(&three)).expect("nothing to do");
        assert!(pins.file(&two).exists() && pins.file(&three).exists());
        assert_eq!(pins.hold("workflow", &[(three.clone(), None)]), Ok(true));
        pins.release("workflow", &[two.clone(), three.clone()]).expect("released");
        assert!(!pins.file(&two).exists() && pins.file(&three).exists(), "it is live");
        let nothing = BuildId { digest: "../../etc/passwd".into(), ..three };
        assert_eq!(pins.path(&nothing), None);
    }

    #[test]
    fn the_bytes_of_a_component_that_was_taken_away_go_unless_somebody_holds_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::open(folder.path().join("pinned")).expect("opened");
        let (one, two, other) = (build("text", b"one"), build("text", b"two"), build("other", b"other"));
        pins.save(&one, b"one").expect("saved");
        assert_eq!(pins.hold("workflow", &[(one.clone(), None)]), Ok(true));
        pins.save(&two, b"two").expect("saved");
        pins.save(&other, b"other").expect("saved");
        pins.taken_away("text");
        assert!(pins.file(&one).exists() && !pins.file(&two).exists() && pins.file(&other).exists());
        pins.release("workflow", std::slice::from_ref(&one)).expect("released");
        assert!(!pins.file(&one).exists(), "it is live no more");
    }

    #[test]
    fn what_a_crash_left_goes_with_the_sweep() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pinned");
        let pins = Pins::open(path.clone()).expect("opened");
        let (held, live) = (build("text", b"held"), build("text", b"live"));
        pins.save(&held, b"held").expect("saved");
        assert_eq!(pins.hold("workflow", &[(held.clone(), None)]), Ok(true));
        // Bytes that were about to be held or removed, and a file that was being written.
        let unfinished = crate::files::temporary(&pins.file(&live)).expect("a name");
        let unheld = pins.file(&build("text", b"unheld"));
        for left in [&unfinished, &unheld] {
            fs::write(left, b"left").expect("written");
        }
        let pins = Pins::open(path.clone()).expect("opened again");
        pins.save(&live, b"live").expect("saved");
        pins.sweep();
        let stays = [&pins.held_file(), &pins.file(&held), &pins.file(&live)].map(|path| path.exists());
        assert_eq!((stays, unfinished.exists(), unheld.exists()), ([true; 3], false, false));
        assert_eq!(Pins::open(path).expect("opened again").by("workflow"), [held]);
    }

    #[test]
    fn a_tenant_holds_only_so_many_builds() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::open(folder.path().join("pinned")).expect("opened");
        let bytes: Vec<[u8; 1]> = (0..=64).map(|number| [number]).collect();
        for bytes in bytes.iter().take(MAX_PINNED) {
            let bytes: &'static [u8] = Box::leak(Box::new(*bytes));
            assert_eq!(pins.hold("workflow", &[(build("text", bytes), Some(bytes))]), Ok(true));
        }
        let more: &'static [u8] = &[64];
        let refused = pins.hold("workflow", &[(build("text", more), Some(more))]);
        assert_eq!(refused, Err(PinError::TooMany("64 builds".into())));
        assert!(!pins.file(&build("text", more)).exists(), "nothing of it stays");
        let again: &'static [u8] = &[0];
        assert_eq!(pins.hold("other", &[(build("text", again), Some(again))]), Ok(true), "it is one of them");
    }

    #[test]
    fn what_is_held_in_the_midst_of_swaps_has_its_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let pins = Pins::open(folder.path().join("pinned")).expect("opened");
        let builds: Vec<BuildId> = (0..200_u8).map(|number| build("text", &[number])).collect();
        assert_eq!(pins.hold("workflow", &[(builds[0].clone(), None)]), Ok(false), "they are not there yet");
        const HELD: usize = 50;
        let (live, ended, mut held) = (AtomicUsize::new(0), AtomicBool::new(false), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (number, build) in builds.iter().enumerate().cycle() {
                    pins.save(build, &[number as u8]).expect("saved");
                    live.store(number, Ordering::Relaxed);
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    // Now and then the others find it still there.
                    (0..number % 50).for_each(|_| std::thread::yield_now());
                }
            });
            while held < HELD {
                let build = &builds[live.load(Ordering::Relaxed)];
                if pins.hold("workflow", &[(build.clone(), None)]).expect("no error") {
                    held += 1;
                    assert!(pins.file(build).exists());
                    pins.release("workflow", std::slice::from_ref(build)).expect("released");
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
    }
}
