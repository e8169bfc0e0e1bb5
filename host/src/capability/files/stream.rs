//! Streams of files. The host counts bytes before it writes them, and no stream outlives or holds up its call.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::{
    async_trait,
    p2::{DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult},
};

use super::{
    handles::Handle,
    pool::{enter, in_pool},
};
use crate::control::Control;

/// A stream that reads a file.
pub(super) struct FileReader {
    pub(super) inner: DynInputStream,
    pub(super) control: Arc<Control>,
    pub(super) _handle: Option<Arc<Handle>>,
}

/// A stream that writes a file.
pub(super) struct FileWriter {
    pub(super) inner: DynOutputStream,
    pub(super) control: Arc<Control>,
    pub(super) _handle: Option<Arc<Handle>>,
}

#[async_trait]
impl Pollable for FileReader {
    async fn ready(&mut self) {
        // The guest's next operation reports the end of the call.
        let _over = self.control.wait_in_place(in_pool(self.inner.ready())).await;
    }
}

#[async_trait]
impl InputStream for FileReader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let _entered = enter();
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.control.wait(in_pool(self.inner.blocking_read(size))).await.map_err(StreamError::Trap)?
    }

    async fn cancel(&mut self) {
        let _over = self.control.wait_in_place(in_pool(self.inner.cancel())).await;
    }
}

#[async_trait]
impl Pollable for FileWriter {
    async fn ready(&mut self) {
        let _over = self.control.wait_in_place(in_pool(self.inner.ready())).await;
    }
}

impl FileWriter {
    fn charge(&self, bytes: usize) -> StreamResult<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.control.charge_file_bytes(bytes).map_err(StreamError::Trap)
    }
}

/// Every write ends in `write` or `blocking_write_and_flush`: the trait makes its other methods from them.
#[async_trait]
impl OutputStream for FileWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.charge(bytes.len())?;
        let _entered = enter();
        self.inner.write(bytes)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.charge(bytes.len())?;
        let written = in_pool(self.inner.blocking_write_and_flush(bytes));
        self.control.wait(written).await.map_err(StreamError::Trap)?
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        let _over = self.control.wait_in_place(in_pool(self.inner.cancel())).await;
    }
}
