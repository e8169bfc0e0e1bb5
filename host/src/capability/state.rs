//! Host's state for one instance: its WASI context, its tables, its limits, and the call it serves.
//!
//! Fresh for every call and dropped with it, unless the host keeps the instance ([`MakeRoom`]). Most guests never ask for WASI or HTTP: the host makes those contexts at their first use.

mod usage;

use std::{collections::BTreeMap, sync::Arc};

use tokio_util::sync::CancellationToken;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    filesystem::{WasiFilesystemCtx, WasiFilesystemCtxView},
};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use self::usage::Usage;
use super::output::{LogStream, RecordWriter};
use crate::{
    call::{
        Dispatch, LogLevel, Observer, Session, TraceContext, effect::Effects, hook::HookTokens, inputs::ClientLine,
    },
    capability::{
        cancellation::NoticeView,
        changed::ChangedView,
        container::{ContainerAccess, ContainerView},
        endpoint::EndpointView,
        events::OutboxView,
        files::{FileHandles, Files, Folders},
        http::{HttpAccess, HttpUse, Requester},
        mesh::{MeshAccess, MeshView},
        settings::SettingsView,
        store::{StoreAccess, StoreUse, StoreView},
    },
    control::Control,
    grants::ledger::Witness,
    names::{TenantId, ToolName, ToolPattern},
    tenant::{Incarnation, Principal},
};

/// Handles that a guest may hold at once.
const MAX_HANDLES: usize = 10_000;
/// Most HTTP handles of a guest, each of which may hold 64 KiB of the host's memory.
const MAX_HTTP_HANDLES: usize = 1_000;
/// Random bytes that one host call may ask for.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// Holder of guests that rest between two calls.
pub trait MakeRoom: std::fmt::Debug + Send + Sync {
    /// Ends a resting guest of the tenant, or of any tenant if the host itself lacks memory; returns whether there was one.
    fn make_memory(&self, tenant: &TenantId, of_host: bool) -> bool;
}

/// The running call, as its guest may see it through the `endpoint` capability.
#[derive(Debug)]
pub struct Running {
    /// The caller.
    pub principal: Principal,
    /// The component that serves the call.
    pub component: Arc<str>,
    /// The tool that is called.
    pub tool: Arc<str>,
    /// Where the call belongs in a trace.
    pub trace: TraceContext,
    /// Receiver of its log and progress.
    pub observer: Observer,
    /// How deep the call is nested.
    pub depth: u8,
    /// The hosts over which the request came to this one.
    pub hops: u8,
    /// Tools that the component may call.
    pub may_call: Arc<[ToolPattern]>,
    /// Receiver of nested calls.
    pub dispatch: Arc<dyn Dispatch>,
    /// The component's space; none without a grant.
    pub store: Option<StoreAccess>,
    /// The directories that the component may see.
    pub files: Folders,
    /// The component's settings.
    pub config: Arc<BTreeMap<String, String>>,
    /// Its way out over HTTP; none without a grant.
    pub http: Option<HttpAccess>,
    /// Its part in the mesh; none without a grant.
    pub mesh: Option<MeshAccess>,
    /// Its way to the container engine; none without a grant.
    pub containers: Option<ContainerAccess>,
    /// Notes the component's uses of its grant and its denials.
    pub witness: Witness,
    /// Cause that events and timers of the call name; none for a call of the tool, which is the cause itself.
    pub cause: Option<Arc<str>>,
    /// The legacy client's session.
    pub session: Option<Session>,
    /// The line to the client.
    pub client: ClientLine,
    /// Events that led to this call, each emitted by the handler of the one before; 0 for a call of a client.
    pub chain: u32,
    /// The keys of its effects.
    pub effects: Arc<Effects>,
    /// Fires when the host begins to stop.
    pub stopping: CancellationToken,
    /// Guests that rest: where memory is short, one makes room.
    pub resting: Arc<dyn MakeRoom>,
    /// The tokens of hooks that it may make, in its tenant as it is now; none if hooks are closed.
    pub hooks: Option<(Arc<HookTokens>, Incarnation)>,
}

impl Running {
    /// Whether the grant names a tool.
    pub fn may_call(&self, tool: &ToolName) -> bool {
        self.may_call.iter().any(|pattern| pattern.matches(tool))
    }

    /// Cause that events and timers of the call name.
    pub fn cause(&self) -> Arc<str> {
        let called = || format!("tool {} by {}", self.tool, self.principal.subject).into();
        self.cause.clone().unwrap_or_else(called)
    }

    /// Writer of the call's log records.
    pub fn writer(&self) -> RecordWriter {
        let tenant = Some(self.principal.tenant.clone());
        RecordWriter { tenant, component: Arc::clone(&self.component), tool: Arc::clone(&self.tool) }
    }

    fn way_out(&self) -> Option<(HttpAccess, Requester)> {
        let access = self.http.clone()?;
        let tenant = self.principal.tenant.clone();
        let (component, tool) = (Arc::clone(&self.component), Arc::clone(&self.tool));
        let (witness, effects) = (self.witness.clone(), Arc::clone(&self.effects));
        let requester = Requester { tenant, component, tool, witness, effects };
        Some((access, requester))
    }
}

/// The state of one instance.
pub struct State {
    wasi: Option<Box<Wasi>>,
    filesystem: WasiFilesystemCtx,
    table: ResourceTable,
    /// Controls of the call.
    pub control: Arc<Control>,
    /// The call; absent while the host only asks the component for its tools.
    pub running: Option<Box<Running>>,
    /// The last progress reported, to keep reports rising.
    progress: f64,
    /// Open snapshots and transactions of the store.
    pub store_use: StoreUse,
    handles: Option<Box<FileHandles>>,
    http: Option<Box<HttpUse>>,
    usage: Usage,
    component: Arc<str>,
}

/// The WASI context of an instance, and the streams of its output.
struct Wasi {
    ctx: WasiCtx,
    output: [LogStream; 2],
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("running", &self.running).finish_non_exhaustive()
    }
}

impl State {
    /// State for one instance of `component`.
    pub fn new(component: &Arc<str>, control: Arc<Control>, running: Option<Box<Running>>) -> Self {
        let mut table = ResourceTable::new();
        let without_http = running.as_ref().is_some_and(|call| call.http.is_none());
        table.set_max_capacity(if without_http { MAX_HANDLES } else { MAX_HTTP_HANDLES });
        let usage = Usage::new(&control);
        Self {
            wasi: None,
            filesystem: WasiFilesystemCtx::default(),
            table,
            control,
            running,
            progress: f64::NEG_INFINITY,
            store_use: StoreUse::default(),
            handles: None,
            http: None,
            usage,
            component: Arc::clone(component),
        }
    }

    /// The WASI context for the present call.
    fn new_wasi(component: &Arc<str>, control: &Arc<Control>, running: Option<&Running>) -> Wasi {
        let observer = running.map(|call| call.observer.clone()).unwrap_or_default();
        let nobody = || RecordWriter { tenant: None, component: Arc::clone(component), tool: "".into() };
        let writer = running.map_or_else(nobody, Running::writer);
        let stream = |level| LogStream::new(writer.clone(), level, Arc::clone(control), observer.clone());
        let output = [stream(LogLevel::Info), stream(LogLevel::Warning)];
        let [stdout, stderr] = output.clone();
        let ctx = WasiCtx::builder()
            .stdout(stdout)
            .stderr(stderr)
            .max_random_size(MAX_RANDOM_BYTES)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .build();
        Wasi { ctx, output }
    }

    fn output(&self) -> impl Iterator<Item = &LogStream> {
        self.wasi.iter().flat_map(|wasi| &wasi.output)
    }

    /// Takes the next call; the instance stays as the call before left it.
    pub fn wake(&mut self, control: Arc<Control>, running: Box<Running>) {
        // Values used in earlier calls may still be in the instance's memory.
        control.redactor().inherit(self.control.redactor());
        for stream in self.output() {
            stream.write_for(running.writer(), Arc::clone(&control), running.observer.clone());
        }
        self.http = None;
        if let Some(handles) = &mut self.handles {
            handles.wake();
        }
        self.progress = f64::NEG_INFINITY;
        self.running = Some(running);
        self.control = control;
    }

    /// Ends the call. An instance that still has a snapshot or transaction open cannot stay, because others may wait for it.
    pub fn rest(&mut self) -> bool {
        for stream in self.output() {
            let writer = RecordWriter { tenant: None, component: "".into(), tool: "".into() };
            stream.write_for(writer, Arc::clone(&self.control), Observer::default());
        }
        self.http = None;
        self.running = None;
        !self.store_use.is_open()
    }

    /// The table of handles and the controls, for host functions that wait.
    pub fn table_and_control(&mut self) -> (&mut ResourceTable, &Control) {
        (&mut self.table, &self.control)
    }

    /// The call and its endpoint.
    pub fn endpoint(&mut self) -> EndpointView<'_> {
        EndpointView {
            control: &self.control,
            running: self.running.as_deref(),
            progress: &mut self.progress,
            transaction_open: self.store_use.transaction_open,
        }
    }

    /// The call, for the notice that its caller has given up.
    pub fn notice(&mut self) -> NoticeView<'_> {
        NoticeView { control: &self.control, table: &mut self.table }
    }

    /// The call, for what it tells clients.
    pub fn changed(&mut self) -> ChangedView<'_> {
        ChangedView(self.running.as_deref())
    }

    /// The mesh, as far as the grant goes.
    pub fn mesh(&mut self) -> MeshView<'_> {
        MeshView {
            control: &self.control,
            running: self.running.as_deref(),
            transaction_open: self.store_use.transaction_open,
        }
    }

    /// The container engine, as far as the grant goes.
    pub fn containers(&mut self) -> ContainerView<'_> {
        ContainerView {
            table: &mut self.table,
            control: &self.control,
            running: self.running.as_deref(),
            transaction_open: self.store_use.transaction_open,
        }
    }

    /// The component's settings.
    pub fn settings(&mut self) -> SettingsView<'_> {
        SettingsView(self.running.as_deref().map(|running| &*running.config))
    }

    /// The component's space.
    pub fn store(&mut self) -> StoreView<'_> {
        StoreView {
            table: &mut self.table,
            control: &self.control,
            access: self.running.as_deref().and_then(|running| running.store.as_ref()),
            used: &mut self.store_use,
        }
    }

    /// The outbox of the open transaction.
    pub fn outbox(&mut self) -> OutboxView<'_> {
        OutboxView { table: &mut self.table, control: &self.control, running: self.running.as_deref() }
    }

    /// The file system, as far as the grant allows it.
    pub fn files(&mut self) -> Files<'_> {
        Files {
            view: WasiFilesystemCtxView { ctx: &mut self.filesystem, table: &mut self.table },
            control: &self.control,
            handles: self.handles.get_or_insert_default(),
            folders: self.running.as_deref().map(|running| &running.files),
            witness: self.running.as_deref().map(|running| &running.witness),
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let new = || Box::new(Self::new_wasi(&self.component, &self.control, self.running.as_deref()));
        WasiCtxView { ctx: &mut self.wasi.get_or_insert_with(new).ctx, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.charge_http();
        let way_out = || self.running.as_deref().and_then(Running::way_out);
        let http = self.http.get_or_insert_with(|| Box::new(HttpUse::new(Arc::clone(&self.control), way_out())));
        http.hooks.transaction_open = self.store_use.transaction_open;
        WasiHttpCtxView { hooks: &mut http.hooks, table: &mut self.table, ctx: &mut http.ctx }
    }
}
