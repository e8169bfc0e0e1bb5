//! `wasi:http/outgoing-handler`: requests that the grant's rules allow, to addresses that they allow, with secrets that the guest never sees.
//!
//! The WASI side (handles, bodies, fields) is wasmtime's; sending is ours, from the check of the rules to the socket. A refused request is `HTTP-request-denied` to the guest; why, and
//! what would allow it, is a record in the host's log. Redirects are answers like any other.

mod connection;
mod exchange;
mod outbound;
mod resolver;
mod substitute;
mod tls;

use std::sync::Arc;

use http::HeaderName;
use tokio::sync::Semaphore;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks,
    WasiHttpView as _,
    p2::{
        bindings::http::types::{self, HostOutgoingRequest as _},
        types::HostOutgoingRequest,
    },
};

pub use self::{
    outbound::{Outbound, OutboundConfig, OutboundError},
    resolver::{Resolve, Resolver},
};
use crate::{
    grants::{
        http::{HttpRules, MAX_METHOD_BYTES},
        ledger::Witness,
        secrets::SecretGrants,
    },
    secrets::Secrets,
    tenant::TenantId,
    wasm::{control::Control, state::State},
};

/// What one set of fields may take of the host's memory, in bytes: fewer than 1,000 fields.
const MAX_FIELD_MEMORY_BYTES: usize = 64 << 10;
/// Most fields of a request's head, and of an answer's.
const MAX_FIELDS: usize = 256;
/// Most that a guest writes to a body at once, and most that waits to be sent, in bytes.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// Longest `host:port`, in bytes.
const MAX_AUTHORITY_BYTES: usize = 300;
/// Requests of one call that are under way at once; more wait.
const MAX_AT_ONCE: usize = 8;

/// What a component may request.
#[derive(Debug)]
pub struct HttpGrant {
    /// Which requests.
    pub rules: HttpRules,
    /// Which secrets the host puts into them.
    pub secrets: SecretGrants,
}

/// A running call's way out.
#[derive(Debug, Clone)]
pub struct HttpAccess {
    /// The host's connections.
    pub outbound: Arc<Outbound>,
    /// What the component may request.
    pub grant: Arc<HttpGrant>,
    /// Its tenant's secrets.
    pub secrets: Arc<Secrets>,
}

/// Who makes requests, for the host's log.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The tenant.
    pub tenant: TenantId,
    /// The component.
    pub component: Arc<str>,
    /// The tool.
    pub tool: Arc<str>,
    /// Notes what it does and what it is denied.
    pub witness: Witness,
}

/// What one instance has of HTTP.
pub struct HttpUse {
    /// The WASI side's settings.
    pub ctx: WasiHttpCtx,
    /// How requests are sent.
    pub hooks: Hooks,
}

impl std::fmt::Debug for HttpUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpUse").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

impl HttpUse {
    /// For an instance; without `access` every request is denied.
    pub fn new(control: Arc<Control>, access: Option<(HttpAccess, Requester)>) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELD_MEMORY_BYTES);
        let places = Arc::new(Semaphore::new(MAX_AT_ONCE));
        Self { ctx, hooks: Hooks { control, access, places, transaction_open: false } }
    }
}

/// Sends the requests of one instance.
#[derive(Debug)]
pub struct Hooks {
    control: Arc<Control>,
    access: Option<(HttpAccess, Requester)>,
    places: Arc<Semaphore>,
    /// Whether the instance has a transaction open: nothing that may take long is begun then.
    pub transaction_open: bool,
}

/// What the WASI side gets of a request: the answer, and the work that goes on while its body is read.
type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name: &HeaderName| DEFAULT_FORBIDDEN_HEADERS.contains(name))
    }

    /// `Host` is what the rules were asked about, in its one form; never what the guest wrote.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        match self.prepare(request, options) {
            Ok(exchange) => Box::new(exchange.run()),
            Err(error) => Box::new(async { Err(error) }),
        }
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> types::ErrorCode {
        types::ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, _: &std::io::Error) -> types::ErrorCode {
        types::ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _: &std::io::Error) -> types::ErrorCode {
        types::ErrorCode::TlsProtocolError
    }
}

impl Hooks {
    /// Counts a request and checks all of it that can be checked without looking anything up.
    fn prepare(
        &self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<exchange::Exchange, Error> {
        if self.control.charge_http_request().is_err() {
            // The call is stopped; the guest meets that at its next step.
            return Err(Error::ConnectionLimitReached);
        }
        if self.transaction_open {
            let reason = "transaction-open: commit or drop the open transaction first, others may be waiting for it";
            return Err(Error::InternalError(Some(reason.into())));
        }
        let Some((access, requester)) = self.access.clone() else { return Err(Error::HttpRequestDenied) };
        let control = Arc::clone(&self.control);
        exchange::Exchange::check(request, options, access, requester, control, Arc::clone(&self.places))
    }
}

/// Links it.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    // Two of the WASI side's functions keep texts of any length on the host's side, one for each handle: they are replaced by ones that do not.
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.2.12")?;
    types.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut store, (request, authority): (Resource<HostOutgoingRequest>, Option<String>)| {
            if authority.as_ref().is_some_and(|authority| authority.len() > MAX_AUTHORITY_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_authority(request, authority)?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-request.set-method",
        |mut store, (request, method): (Resource<HostOutgoingRequest>, types::Method)| {
            if matches!(&method, types::Method::Other(name) if name.len() > MAX_METHOD_BYTES) {
                return Ok((Err(()),));
            }
            Ok((store.data_mut().http().set_method(request, method)?,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
