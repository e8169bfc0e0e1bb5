//! `wasi:filesystem`: the directories that a component's grant names, and no others.
//!
//! Every component has the interface, because language runtimes import it; without a grant it has no directory. The system itself (cap-primitives) resolves
//! paths below an open directory, so that no link and no race leads out. The host adds the mode of each directory and separate threads for blocking work. It
//! ends every operation with its call, and bounds open files, listings and bytes written.

mod folders;
mod handles;
mod open;
mod pool;
mod stream;

use std::{future::Future, sync::Arc};

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::{
    filesystem::{Descriptor, Dir, WasiFilesystemCtxView},
    p2::{
        DynInputStream, DynOutputStream, FsError, FsResult, ReaddirIterator,
        bindings::filesystem::{
            preopens,
            types::{self, ErrorCode, HostDescriptor, HostDirectoryEntryStream},
        },
    },
};

pub use self::{
    folders::{FolderError, Folders, OwnFolders},
    handles::FileHandles,
};
use self::{
    handles::ENTRY_BYTES,
    open::Wanted,
    pool::{blocking, in_pool},
    stream::{FileReader, FileWriter},
};
use crate::{
    capability::state::State,
    control::Control,
    grants::{files::FolderMode, ledger::Witness},
    memory::MemoryUse,
};

type Fd = Resource<Descriptor>;

/// The file system of one instance, with the controls of the call that owns it.
pub struct Files<'a> {
    /// The engine's own implementation, for all operations that this module does not replace.
    pub view: WasiFilesystemCtxView<'a>,
    /// Controls of the call.
    pub control: &'a Arc<Control>,
    /// Open files and listings.
    pub handles: &'a mut FileHandles,
    /// Granted directories.
    pub folders: Option<&'a Folders>,
    /// Notes the uses of the granted directories.
    pub witness: Option<&'a Witness>,
}

impl std::fmt::Debug for Files<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("handles", &self.handles).field("folders", &self.folders).finish_non_exhaustive()
    }
}

impl HasData for Files<'static> {
    type Data<'a> = Files<'a>;
}

/// Links the interfaces.
pub(super) fn link(l: &mut Linker<State>) -> wasmtime::Result<()> {
    types::add_to_linker::<State, Files<'static>>(l, State::files)?;
    preopens::add_to_linker::<State, Files<'static>>(l, State::files)
}

/// Runs an operation on the threads for files, and stops waiting for it when the call ends.
async fn wait<T>(control: &Control, operation: impl Future<Output = FsResult<T>>) -> FsResult<T> {
    control.wait(in_pool(operation)).await.map_err(FsError::trap)?
}

impl Files<'_> {
    fn dir(&self, fd: &Fd) -> FsResult<Dir> {
        match self.view.table.get(fd)? {
            Descriptor::Dir(dir) => Ok(dir.clone()),
            Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
        }
    }

    /// Notes that the guest wants something below an open directory.
    fn note(&mut self, fd: &Fd, wanted: FolderMode) {
        let (Some(folders), Some(witness), Some(number)) = (self.folders, self.witness, self.handles.granted(fd.rep()))
        else {
            return;
        };
        if self.handles.is_first_use(number, wanted) {
            folders.note(number, wanted, witness);
        }
    }

    fn charge(&self, bytes: u64) -> FsResult<()> {
        self.control.charge_file_bytes(bytes).map_err(FsError::trap)
    }

    fn metered(&mut self, fd: u32, stream: Resource<DynOutputStream>) -> FsResult<Resource<DynOutputStream>> {
        let inner = self.view.table.delete(stream)?;
        let writer = FileWriter { inner, control: Arc::clone(self.control), _handle: self.handles.of(fd) };
        Ok(self.view.table.push(Box::new(writer) as DynOutputStream)?)
    }
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Fd, String)>> {
        let granted = self.folders.into_iter().flat_map(Folders::iter).enumerate();
        let mut given = |(number, (dir, at))| {
            let fd = self.view.table.push(Descriptor::Dir(dir))?;
            self.handles.keep_granted(fd.rep(), number);
            Ok((fd, at))
        };
        granted.map(&mut given).collect()
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        types::Host::convert_error_code(&mut self.view, error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> wasmtime::Result<Option<ErrorCode>> {
        types::Host::filesystem_error_code(&mut self.view, error)
    }
}

/// Methods of the engine, run on the threads for files. The macro notes which directories they use and how.
macro_rules! as_they_are {
    ($($([$mode:ident of $($dir:ident),+])? fn $name:ident($($param:ident: $type:ty),*) -> $answer:ty;)*) => {
        $(async fn $name(&mut self, $($param: $type),*) -> FsResult<$answer> {
            $($(self.note(&$dir, FolderMode::$mode);)+)?
            wait(self.control, HostDescriptor::$name(&mut self.view, $($param),*)).await
        })*
    };
}

impl HostDescriptor for Files<'_> {
    as_they_are! {
        fn advise(fd: Fd, offset: u64, len: u64, advice: types::Advice) -> ();
        fn sync_data(fd: Fd) -> ();
        fn sync(fd: Fd) -> ();
        fn get_flags(fd: Fd) -> types::DescriptorFlags;
        fn get_type(fd: Fd) -> types::DescriptorType;
        fn set_times(fd: Fd, accessed: types::NewTimestamp, modified: types::NewTimestamp) -> ();
        fn read(fd: Fd, len: u64, offset: u64) -> (Vec<u8>, bool);
        [ReadWrite of fd] fn create_directory_at(fd: Fd, path: String) -> ();
        fn stat(fd: Fd) -> types::DescriptorStat;
        [Read of fd] fn stat_at(fd: Fd, flags: types::PathFlags, path: String) -> types::DescriptorStat;
        [ReadWrite of fd, other] fn link_at(fd: Fd, flags: types::PathFlags, old: String, other: Fd, new: String) -> ();
        [Read of fd] fn readlink_at(fd: Fd, path: String) -> String;
        [ReadWrite of fd] fn remove_directory_at(fd: Fd, path: String) -> ();
        [ReadWrite of fd, other] fn rename_at(fd: Fd, old: String, other: Fd, new: String) -> ();
        [ReadWrite of fd] fn symlink_at(fd: Fd, old: String, new: String) -> ();
        [ReadWrite of fd] fn unlink_file_at(fd: Fd, path: String) -> ();
        fn metadata_hash(fd: Fd) -> types::MetadataHashValue;
        [Read of fd] fn metadata_hash_at(fd: Fd, flags: types::PathFlags, path: String) -> types::MetadataHashValue;
    }

    async fn set_size(&mut self, fd: Fd, size: u64) -> FsResult<()> {
        // Charges the whole size, not only the growth, because another guest may change the old size a moment later.
        self.charge(size)?;
        wait(self.control, HostDescriptor::set_size(&mut self.view, fd, size)).await
    }

    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: u64) -> FsResult<u64> {
        self.charge(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        wait(self.control, HostDescriptor::write(&mut self.view, fd, bytes, offset)).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        flags: types::PathFlags,
        path: String,
        accessed: types::NewTimestamp,
        modified: types::NewTimestamp,
    ) -> FsResult<()> {
        self.note(&fd, FolderMode::ReadWrite);
        if !flags.contains(types::PathFlags::SYMLINK_FOLLOW) {
            let set = HostDescriptor::set_times_at(&mut self.view, fd, flags, path, accessed, modified);
            return wait(self.control, set).await;
        }
        // The engine would open the file in a way that waits for a pipe's other end.
        let dir = self.dir(&fd)?;
        if dir.perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted.into());
        }
        let set = blocking(move || open::set_times(&dir.dir, &path, accessed, modified));
        wait(self.control, async { Ok(set.await?) }).await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: types::PathFlags,
        path: String,
        open_flags: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Fd> {
        let dir = self.dir(&fd)?;
        let wanted = Wanted::new(path_flags, open_flags, flags)?;
        self.note(&fd, if wanted.writes() { FolderMode::ReadWrite } else { FolderMode::Read });
        if wanted.writes() && dir.perms.write_not_permitted() {
            return Err(ErrorCode::NotPermitted.into());
        }
        let handle = self.handles.reserve().ok_or(ErrorCode::Busy)?;
        let opened = blocking(move || wanted.open(&dir, &path));
        let opened = wait(self.control, opened).await?;
        let granted = self.handles.granted(fd.rep()).filter(|_| matches!(opened, Descriptor::Dir(_)));
        let fd = self.view.table.push(opened)?;
        self.handles.keep(fd.rep(), handle);
        if let Some(number) = granted {
            self.handles.keep_granted(fd.rep(), number);
        }
        Ok(fd)
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.handles.close(fd.rep());
        HostDescriptor::drop(&mut self.view, fd)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<ReaddirIterator>> {
        self.note(&fd, FolderMode::Read);
        let (dir, room) = (self.dir(&fd)?, self.handles.room_for_entries());
        // The engine takes a listing into memory as a whole, so the host must know its length before.
        let counted = blocking(move || open::count_entries(&dir.dir, room));
        let entries = wait(self.control, async { Ok(counted.await?) }).await?.ok_or(ErrorCode::Overflow)?;
        let bytes = u64::try_from(entries.saturating_mul(ENTRY_BYTES)).unwrap_or(u64::MAX);
        let memory = self.control.memory().reserve(MemoryUse::Messages, bytes);
        let memory = memory.map_err(|_| ErrorCode::InsufficientMemory)?;
        let listing = wait(self.control, HostDescriptor::read_directory(&mut self.view, fd)).await?;
        self.handles.keep_listing(listing.rep(), entries, memory);
        Ok(listing)
    }

    fn read_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynInputStream>> {
        let handle = self.handles.of(fd.rep());
        let stream = HostDescriptor::read_via_stream(&mut self.view, fd, offset)?;
        let inner = self.view.table.delete(stream)?;
        let reader = FileReader { inner, control: Arc::clone(self.control), _handle: handle };
        Ok(self.view.table.push(Box::new(reader) as DynInputStream)?)
    }

    fn write_via_stream(&mut self, fd: Fd, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        let rep = fd.rep();
        let stream = HostDescriptor::write_via_stream(&mut self.view, fd, offset)?;
        self.metered(rep, stream)
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        let rep = fd.rep();
        let stream = HostDescriptor::append_via_stream(&mut self.view, fd)?;
        self.metered(rep, stream)
    }

    async fn is_same_object(&mut self, one: Fd, other: Fd) -> wasmtime::Result<bool> {
        let compared = in_pool(HostDescriptor::is_same_object(&mut self.view, one, other));
        self.control.wait(compared).await?
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        listing: Resource<ReaddirIterator>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        HostDirectoryEntryStream::read_directory_entry(&mut self.view, listing).await
    }

    fn drop(&mut self, listing: Resource<ReaddirIterator>) -> wasmtime::Result<()> {
        self.handles.close_listing(listing.rep());
        HostDirectoryEntryStream::drop(&mut self.view, listing)
    }
}
