//! `wasi:http/outgoing-handler`: requests that the grant's rules allow, to addresses that they allow, with secrets that the guest never sees.
//!
//! The WASI side (handles, bodies, fields) is wasmtime's. This module sends, from the check of the rules to the socket. A guest sees a refusal as
//! `HTTP-request-denied`; the host's log records the reason and the rule that would allow the request. Redirects are answers like any other.

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
    call::effect::Effects,
    capability::state::State,
    control::Control,
    grants::{
        http::{HttpRules, MAX_METHOD_BYTES},
        ledger::Witness,
        secrets::SecretGrants,
    },
    names::TenantId,
    secrets::Secrets,
};

/// Bytes of the host's memory that one set of fields may take: fewer than 1,000 fields.
const MAX_FIELD_MEMORY_BYTES: usize = 64 << 10;
/// Most fields of a request's head, and of an answer's.
const MAX_FIELDS: usize = 256;
/// Most bytes that a guest writes to a body at once, and most that wait to be sent.
const BODY_CHUNK_BYTES: usize = 64 << 10;
/// Longest `host:port`, in bytes.
const MAX_AUTHORITY_BYTES: usize = 300;
/// Requests of one call that are under way at once; more wait.
const MAX_AT_ONCE: usize = 8;

/// Requests that a component may make.
#[derive(Debug)]
pub struct HttpGrant {
    /// Rules of allowed requests.
    pub rules: HttpRules,
    /// Secrets that the host may put into requests.
    pub secrets: SecretGrants,
}

/// A running call's way out.
#[derive(Debug, Clone)]
pub struct HttpAccess {
    /// The host's connections.
    pub outbound: Arc<Outbound>,
    /// Requests that the component may make.
    pub grant: Arc<HttpGrant>,
    /// Secrets of the component's tenant.
    pub secrets: Arc<Secrets>,
}

/// Maker of requests, for the host's log.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The tenant.
    pub tenant: TenantId,
    /// The component.
    pub component: Arc<str>,
    /// The tool.
    pub tool: Arc<str>,
    /// Notes its requests and refusals.
    pub witness: Witness,
    /// The keys of its effects.
    pub effects: Arc<Effects>,
}

/// HTTP state of one instance.
pub struct HttpUse {
    /// The WASI side's settings.
    pub ctx: WasiHttpCtx,
    /// Hooks that send requests.
    pub hooks: Hooks,
}

impl std::fmt::Debug for HttpUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpUse").field("hooks", &self.hooks).finish_non_exhaustive()
    }
}

impl HttpUse {
    /// State for an instance; without `access` the host denies every request.
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
    /// Whether the instance has a transaction open: then the host begins no operation that may take long.
    pub transaction_open: bool,
}

/// Answer for the WASI side: the answer itself, and the work that goes on while the guest reads its body.
type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Hooks {
    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(|name: &HeaderName| DEFAULT_FORBIDDEN_HEADERS.contains(name))
    }

    /// The host sets `Host` itself, in the one form that the rules checked, and never takes it from the guest.
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
    /// Counts a request and makes every check that needs no look-up.
    fn prepare(
        &self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<exchange::Exchange, Error> {
        if self.control.charge_http_request().is_err() {
            // The host has stopped the call; the guest meets that at its next step.
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

/// Links the interfaces.
pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    // Two functions of the WASI side keep texts of any length in the host's memory, one for each handle. The host replaces them by functions that do not.
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
