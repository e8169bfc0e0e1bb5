//! `wasi:io/streams`: the host races each blocking stream operation against the call's end, because an upstream may never write or read.

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult,
    bindings::io::streams::{self, HostInputStream, HostOutputStream},
};

use super::WaitingTable;

impl streams::Host for WaitingTable<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<streams::StreamError> {
        streams::Host::convert_stream_error(self.table, error)
    }
}

impl HostInputStream for WaitingTable<'_> {
    async fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        HostInputStream::drop(self.table, stream).await
    }

    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        HostInputStream::read(self.table, stream, len)
    }

    async fn blocking_read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        let reading = HostInputStream::blocking_read(self.table, stream, len);
        self.control.wait(reading).await.map_err(StreamError::Trap)?
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        HostInputStream::skip(self.table, stream, len)
    }

    async fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        let skipping = HostInputStream::blocking_skip(self.table, stream, len);
        self.control.wait(skipping).await.map_err(StreamError::Trap)?
    }

    fn subscribe(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostInputStream::subscribe(self.table, stream)
    }
}

impl HostOutputStream for WaitingTable<'_> {
    async fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        HostOutputStream::drop(self.table, stream).await
    }

    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        HostOutputStream::check_write(self.table, stream)
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        HostOutputStream::write(self.table, stream, bytes)
    }

    fn subscribe(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        HostOutputStream::subscribe(self.table, stream)
    }

    async fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        let writing = HostOutputStream::blocking_write_and_flush(self.table, stream, bytes);
        self.control.wait(writing).await.map_err(StreamError::Trap)?
    }

    async fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        let writing = HostOutputStream::blocking_write_zeroes_and_flush(self.table, stream, len);
        self.control.wait(writing).await.map_err(StreamError::Trap)?
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        HostOutputStream::write_zeroes(self.table, stream, len)
    }

    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        HostOutputStream::flush(self.table, stream)
    }

    async fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        let flushing = HostOutputStream::blocking_flush(self.table, stream);
        self.control.wait(flushing).await.map_err(StreamError::Trap)?
    }

    fn splice(&mut self, to: Resource<DynOutputStream>, from: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        HostOutputStream::splice(self.table, to, from, len)
    }

    async fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        let splicing = HostOutputStream::blocking_splice(self.table, to, from, len);
        self.control.wait(splicing).await.map_err(StreamError::Trap)?
    }
}
