//! A client of our own, for the commands: any MCP server over Streamable HTTP, either era.
//!
//! A request is repeated, with exponential back-off and jitter, only where it cannot have run: the connection was refused, or the server said that it is busy.

mod error;
mod failure;
mod task;
mod transport;

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use rmcp::{
    ClientHandler, RoleClient,
    model::{
        CallToolRequestParams, ClientInfo, ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationCapability,
        ErrorCode, ErrorData, FormElicitationCapability, GetPromptRequestParams, Implementation, JsonObject,
        PaginatedRequestParams, ProgressNotificationParam, ProtocolVersion, ReadResourceRequestParams, ServerPeerInfo,
        TASKS_EXTENSION_ID, UrlElicitationCapability,
    },
    service::{
        ClientInitializeError, ClientLifecycleMode, NotificationContext, RequestContext, RunningService, ServiceError,
        serve_client_with_lifecycle,
    },
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

pub use self::error::{ClientError, Repeat};
use self::transport::SessionHttp;
use super::straight::MODERN;
use crate::{
    call::inputs::{CallClock, InputQuestion, Reply},
    schema::Schema,
};

/// The first wait before a request is repeated; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// No wait is longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Pages of a list that are looked through for one tool.
const MAX_PAGES: usize = 100;

/// Where to connect, and how patiently.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The MCP endpoint.
    pub url: String,
    /// A bearer token.
    pub token: Option<String>,
    /// Time for one request.
    pub timeout: Duration,
    /// How often a request that cannot have run is repeated.
    pub retries: u32,
}

/// A tool's answer.
#[derive(Debug)]
pub struct Answer {
    /// Whether the tool says that it did not succeed.
    pub is_error: bool,
    /// Its text blocks.
    pub texts: Vec<String>,
    /// All of it, as it came.
    pub json: Value,
}

/// The client's handler of the progress of its call.
pub type OnProgress = Arc<dyn Fn(f64, Option<f64>, Option<&str>) + Send + Sync>;

/// The client's user: answers a form or a page.
pub type OnQuestion = Arc<dyn Fn(InputQuestion) -> BoxFuture<'static, Reply> + Send + Sync>;

#[derive(Clone)]
struct ProgressHandler {
    on_progress: OnProgress,
    on_question: Option<OnQuestion>,
    /// Stands still while the user thinks.
    clock: Arc<CallClock>,
}

impl ClientHandler for ProgressHandler {
    fn get_info(&self) -> ClientInfo {
        let mut info = ClientInfo::default();
        info.client_info = Implementation::new("mcpp", env!("CARGO_PKG_VERSION"));
        info.capabilities.extensions.get_or_insert_default().insert(TASKS_EXTENSION_ID.to_owned(), JsonObject::new());
        if self.on_question.is_some() {
            info.capabilities.elicitation = Some(
                ElicitationCapability::new()
                    .with_form(FormElicitationCapability::new())
                    .with_url(UrlElicitationCapability::new()),
            );
        }
        info
    }

    async fn create_elicitation(
        &self,
        asked: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        elicit(asked, self.on_question.as_ref(), &self.clock).await
    }

    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        (self.on_progress)(progress.progress, progress.total, progress.message.as_deref());
    }
}

/// Asks the user; declines where there is none. The clock stands still meanwhile.
async fn elicit(
    asked: ElicitRequestParams,
    user: Option<&OnQuestion>,
    clock: &Arc<CallClock>,
) -> Result<ElicitResult, ErrorData> {
    let question = match asked {
        ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } => {
            let invalid = |error: String| ErrorData::invalid_params(format!("the form's schema: {error}"), None);
            let schema = serde_json::to_value(requested_schema).map_err(|error| invalid(error.to_string()))?;
            let schema = Schema::compile(schema).map_err(|error| invalid(error.to_string()))?;
            InputQuestion::Form { message, schema }
        }
        ElicitRequestParams::UrlElicitationParams { message, url, .. } => InputQuestion::Url { message, url },
        _ => return Ok(ElicitResult::new(ElicitationAction::Decline)),
    };
    let Some(user) = user else { return Ok(ElicitResult::new(ElicitationAction::Decline)) };
    let _stands_still = clock.stop();
    Ok(match user(question).await {
        Reply::Accepted(Some(values)) => ElicitResult::new(ElicitationAction::Accept).with_content(values),
        Reply::Accepted(None) => ElicitResult::new(ElicitationAction::Accept),
        Reply::Cancelled => ElicitResult::new(ElicitationAction::Cancel),
        Reply::Declined | Reply::Sampled { .. } | Reply::Roots(_) => ElicitResult::new(ElicitationAction::Decline),
    })
}

/// A connection to a server.
pub struct Client {
    config: ClientConfig,
    clock: Arc<CallClock>,
    on_progress: OnProgress,
    on_question: Option<OnQuestion>,
    service: RunningService<RoleClient, ProgressHandler>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects; the server's era decides the protocol. Without a user the client declares no elicitation.
    pub async fn connect(
        config: ClientConfig,
        on_progress: OnProgress,
        on_question: Option<OnQuestion>,
    ) -> Result<Self, ClientError> {
        let legal = url::Url::parse(&config.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !legal {
            return Err(ClientError::Url { url: config.url });
        }
        let mut waits = Waits::new(config.retries);
        loop {
            let clock = Arc::new(CallClock::default());
            let handler = ProgressHandler {
                on_progress: Arc::clone(&on_progress),
                on_question: on_question.clone(),
                clock: Arc::clone(&clock),
            };
            match Self::try_connect(&config, handler).await {
                Err(error @ ClientError::Connect { .. }) => waits.next(error).await?,
                Ok(service) => return Ok(Self { config, clock, on_progress, on_question, service }),
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_connect(
        config: &ClientConfig,
        handler: ProgressHandler,
    ) -> Result<RunningService<RoleClient, ProgressHandler>, ClientError> {
        let http = reqwest::Client::builder()
            .connect_timeout(config.timeout)
            .build()
            .map_err(|error| ClientError::Connect { url: config.url.clone(), reason: crate::error::chain(&error) })?;
        let mut transport = StreamableHttpClientTransportConfig::with_uri(config.url.clone());
        transport.auth_header.clone_from(&config.token);
        let serve = |lifecycle| {
            let transport =
                StreamableHttpClientTransport::with_client(SessionHttp::new(http.clone()), transport.clone());
            serve_client_with_lifecycle(handler.clone(), transport, lifecycle)
        };
        let connected = async {
            let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
            match serve(ClientLifecycleMode::Auto { preferred_versions, legacy_version: None }).await {
                // A server of the legacy era that answers a method which it does not know with a result.
                Err(ClientInitializeError::ExpectedInitResult(Some(_))) => serve(ClientLifecycleMode::Initialize).await,
                connected => connected,
            }
        };
        match tokio::time::timeout(config.timeout, connected).await {
            Err(_) => Err(ClientError::Timeout(config.timeout)),
            Ok(Ok(service)) => Ok(service),
            Ok(Err(error)) => Err(failure::of_connection(&config.url, error)),
        }
    }

    /// All tools of the server, as it lists them.
    pub async fn tools(&self) -> Result<Vec<Value>, ClientError> {
        let tools = self.bounded(self.service.list_all_tools()).await?;
        tools
            .iter()
            .map(|tool| serde_json::to_value(tool).map_err(|error| ClientError::Broken(error.to_string())))
            .collect()
    }

    /// Calls a tool, and follows it to its end if the server makes it a task. Each single request has its time.
    pub async fn call(&self, tool: &str, arguments: JsonObject) -> Result<Answer, ClientError> {
        let mut params = CallToolRequestParams::new(Cow::Owned(tool.to_owned()));
        params.arguments = Some(arguments);
        self.learn_headers(tool).await;
        let result = self.call_to_end(params).await?;
        let json = serde_json::to_value(&result).map_err(|error| ClientError::Broken(error.to_string()))?;
        let texts = result.content.iter().filter_map(|block| Some(block.as_text()?.text.clone())).collect();
        Ok(Answer { is_error: result.is_error == Some(true), texts, json })
    }

    /// Lists the tools of a modern server up to this one: its schema tells the transport which arguments go into headers too. Without the list the call goes out as it is.
    async fn learn_headers(&self, tool: &str) {
        let is_modern = |server: &ServerPeerInfo| server.protocol_version.as_str() >= MODERN;
        if !self.service.peer_info().is_some_and(|server| is_modern(&server)) {
            return;
        }
        let mut cursor = None;
        for _ in 0..MAX_PAGES {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            let Ok(page) = self.bounded(self.service.list_tools(Some(params))).await else { return };
            cursor = page.next_cursor;
            if cursor.is_none() || page.tools.iter().any(|listed| listed.name == tool) {
                return;
            }
        }
    }

    /// All resources of the server, as it lists them; none if it has none.
    pub async fn resources(&self) -> Result<Vec<Value>, ClientError> {
        listed(self.bounded(self.service.list_all_resources()).await)
    }

    /// All templates of resources.
    pub async fn templates(&self) -> Result<Vec<Value>, ClientError> {
        listed(self.bounded(self.service.list_all_resource_templates()).await)
    }

    /// All prompts.
    pub async fn prompts(&self) -> Result<Vec<Value>, ClientError> {
        listed(self.bounded(self.service.list_all_prompts()).await)
    }

    /// Reads a resource.
    pub async fn read(&self, uri: &str) -> Result<Value, ClientError> {
        let read = || self.bounded(self.service.read_resource(ReadResourceRequestParams::new(uri)));
        as_json(self.repeated(read).await.map_err(|error| error.or_none("resources"))?)
    }

    /// Fills a prompt.
    pub async fn prompt(&self, name: &str, arguments: JsonObject) -> Result<Value, ClientError> {
        let mut params = GetPromptRequestParams::new(name);
        params.arguments = Some(arguments);
        let filled = self.repeated(|| self.bounded(self.service.get_prompt(params.clone()))).await;
        as_json(filled.map_err(|error| error.or_none("prompts"))?)
    }

    /// Makes a request again where it cannot have run.
    async fn repeated<T, R>(&self, mut request: impl FnMut() -> R) -> Result<T, ClientError>
    where
        R: Future<Output = Result<T, ClientError>>,
    {
        let mut waits = Waits::new(self.config.retries);
        loop {
            match request().await {
                Err(error @ ClientError::Refused { repeat: Repeat::HasNotRun, .. }) => waits.next(error).await?,
                result => return result,
            }
        }
    }

    async fn bounded<T>(&self, request: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ClientError> {
        let now = Instant::now();
        let until = now.checked_add(self.config.timeout).unwrap_or(now);
        let before = self.clock.stood_still();
        let answer = tokio::select! {
            biased;
            answer = request => answer,
            () = self.clock.reach(until, before) => return Err(ClientError::Timeout(self.config.timeout)),
        };
        answer.map_err(|error| failure::of_request(&self.config.url, error))
    }

    /// Says goodbye.
    pub async fn close(self) {
        let _the_server_may_be_gone = self.service.cancel().await;
    }
}

fn as_json<T: Serialize>(value: T) -> Result<Value, ClientError> {
    serde_json::to_value(value).map_err(|error| ClientError::Broken(error.to_string()))
}

/// A list as it came. A server without such things does not know the method.
fn listed<T: Serialize>(items: Result<Vec<T>, ClientError>) -> Result<Vec<Value>, ClientError> {
    match items {
        Ok(items) => items.into_iter().map(as_json).collect(),
        Err(ClientError::Refused { code, .. }) if code == ErrorCode::METHOD_NOT_FOUND.0 => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The waits between repetitions.
struct Waits {
    left: u32,
    next: Duration,
}

impl Waits {
    fn new(retries: u32) -> Self {
        Self { left: retries, next: FIRST_WAIT }
    }

    /// Waits, or gives up with `error`.
    async fn next<E>(&mut self, error: E) -> Result<(), E> {
        let Some(left) = self.left.checked_sub(1) else { return Err(error) };
        self.left = left;
        let mut random = [0_u8; 1];
        let _without_jitter_if_it_fails = getrandom::fill(&mut random);
        let [random] = random;
        tokio::time::sleep(self.next.mul_f64(0.5 + f64::from(random) / 510.0)).await;
        self.next = self.next.saturating_mul(2).min(LONGEST_WAIT);
        Ok(())
    }
}
