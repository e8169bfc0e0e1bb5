//! Opens a path below a directory without ever waiting. The host gives out only files and directories, and closes a pipe or a device again at once.

use std::{
    fs::{File, FileTimes, FileType},
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use cap_primitives::fs::{FollowSymlinks, OpenOptions, OpenOptionsExt as _};
use rustix::{fs::Dir as Listing, io::Errno};
use wasmtime_wasi::{
    OpenMode,
    filesystem::{self, Descriptor},
    p2::{
        FsResult,
        bindings::filesystem::types::{DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags},
    },
};

/// Flags of the system.
pub(super) mod flags {
    use rustix::fs::OFlags;

    /// A directory, or nothing.
    pub(in super::super) const DIRECTORY: i32 = bits(OFlags::DIRECTORY);
    /// Do not wait for the other end of a pipe, and do not take a terminal.
    pub(super) const AT_ONCE: i32 = bits(OFlags::NONBLOCK.union(OFlags::NOCTTY));

    const fn bits(flags: OFlags) -> i32 {
        flags.bits().cast_signed()
    }
}

/// Options with which a guest opens a path. The flags have the meaning of the engine's own implementation.
pub(super) struct Wanted {
    options: OpenOptions,
    mode: OpenMode,
    directory: bool,
}

impl Wanted {
    pub(super) fn new(path: PathFlags, open: OpenFlags, flags: DescriptorFlags) -> FsResult<Self> {
        let sync = DescriptorFlags::FILE_INTEGRITY_SYNC
            | DescriptorFlags::DATA_INTEGRITY_SYNC
            | DescriptorFlags::REQUESTED_WRITE_SYNC;
        if flags.intersects(sync) {
            return Err(ErrorCode::Unsupported.into());
        }
        let directory = open.contains(OpenFlags::DIRECTORY);
        if directory && open.intersects(OpenFlags::CREATE | OpenFlags::EXCLUSIVE | OpenFlags::TRUNCATE) {
            return Err(ErrorCode::Invalid.into());
        }
        let (create, exclusive) = (open.contains(OpenFlags::CREATE), open.contains(OpenFlags::EXCLUSIVE));
        let truncate = open.contains(OpenFlags::TRUNCATE);
        let asks_to_write = flags.contains(DescriptorFlags::WRITE);
        let (read, write) =
            (flags.contains(DescriptorFlags::READ) || !asks_to_write, asks_to_write || create || truncate);
        let mut options = OpenOptions::new();
        options.read(read).write(write).truncate(truncate).create(create && !exclusive).create_new(create && exclusive);
        options.custom_flags(flags::AT_ONCE);
        let follow = path.contains(PathFlags::SYMLINK_FOLLOW);
        // By its public name; the short one is for the crate alone.
        options._cap_fs_ext_follow(if follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
        let mut mode = OpenMode::empty();
        mode.set(OpenMode::READ, read);
        mode.set(OpenMode::WRITE, write);
        Ok(Self { options, mode, directory })
    }

    /// Whether the options allow a change.
    pub(super) fn writes(&self) -> bool {
        self.mode.contains(OpenMode::WRITE)
    }

    /// Opens `path` below `dir`. Blocks.
    pub(super) fn open(self, dir: &filesystem::Dir, path: &str) -> FsResult<Descriptor> {
        let opened = cap_primitives::fs::open(&dir.dir, Path::new(path), &self.options)?;
        let kind = opened.metadata()?.file_type();
        if kind.is_dir() {
            return Ok(Descriptor::Dir(filesystem::Dir::new(opened, dir.perms, self.mode, false)));
        }
        if self.directory {
            return Err(ErrorCode::NotDirectory.into());
        }
        if !given_out(kind) {
            return Err(ErrorCode::Unsupported.into());
        }
        Ok(Descriptor::File(filesystem::File::new(opened, dir.perms, self.mode, false)))
    }
}

/// Whether guests may have a file of this kind.
fn given_out(kind: FileType) -> bool {
    kind.is_file() || kind.is_dir()
}

/// Sets the times of the target of `path` below `dir`. Blocks.
pub(super) fn set_times(dir: &File, path: &str, accessed: NewTimestamp, modified: NewTimestamp) -> io::Result<()> {
    let mut times = FileTimes::new();
    if let Some(accessed) = time(accessed)? {
        times = times.set_accessed(accessed);
    }
    if let Some(modified) = time(modified)? {
        times = times.set_modified(modified);
    }
    let open = |write: bool| {
        let mut options = OpenOptions::new();
        options.read(!write).write(write).custom_flags(flags::AT_ONCE);
        cap_primitives::fs::open(dir, Path::new(path), &options)
    };
    // Any handle can set a time; the kind of handle that the host can open depends on the file.
    let writable = open(true).or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::ISDIR) => open(false),
        _ => Err(error),
    });
    let file = writable?;
    if !given_out(file.metadata()?.file_type()) {
        return Err(Errno::NOTSUP.into());
    }
    file.set_times(times)
}

fn time(new: NewTimestamp) -> io::Result<Option<SystemTime>> {
    match new {
        NewTimestamp::NoChange => Ok(None),
        NewTimestamp::Now => Ok(Some(SystemTime::now())),
        NewTimestamp::Timestamp(at) => {
            let since = Duration::from_secs(at.seconds).checked_add(Duration::from_nanos(at.nanoseconds.into()));
            let time = since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
            time.map(Some).ok_or_else(|| Errno::OVERFLOW.into())
        }
    }
}

/// Counts a directory's entries; none if there are more than `most`. Blocks.
pub(super) fn count_entries(dir: &File, most: usize) -> io::Result<Option<usize>> {
    let mut count = 0_usize;
    for entry in Listing::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            count = count.saturating_add(1);
        }
        if count > most {
            return Ok(None);
        }
    }
    Ok(Some(count))
}
