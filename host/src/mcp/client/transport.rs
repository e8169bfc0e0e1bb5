//! The way of the client's messages: HTTP, with the session's stream opened before the first request goes out.
//!
//! A server of the legacy era says some things on that stream alone, such as a question in the middle of a call. A request that comes before the stream is lost to such a server, or waits for an answer that goes nowhere.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::stream::BoxStream;
use reqwest::header::{HeaderName, HeaderValue};
use rmcp::{
    model::{ClientJsonRpcMessage, JsonRpcMessage},
    transport::streamable_http_client::{StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse},
};
use sse_stream::{Error as SseError, Sse};
use tokio::sync::watch;

/// How long a request waits for the stream. Some servers answer its GET only with their first message.
const STREAM_WAIT: Duration = Duration::from_secs(1);

type HttpResult<T> = Result<T, StreamableHttpError<reqwest::Error>>;

/// HTTP of one client, which has one session at a time.
#[derive(Clone)]
pub(super) struct SessionHttp {
    http: reqwest::Client,
    /// Whether the server has answered the GET of the session's stream, with a stream or without.
    is_open: Arc<watch::Sender<bool>>,
}

impl SessionHttp {
    /// A session that is not open yet.
    pub(super) fn new(http: reqwest::Client) -> Self {
        Self { http, is_open: Arc::new(watch::Sender::new(false)) }
    }

    async fn wait_for_stream(&self, session_id: Option<&str>, message: &ClientJsonRpcMessage) {
        if session_id.is_none() || !matches!(message, JsonRpcMessage::Request(_)) {
            return;
        }
        let mut is_open = self.is_open.subscribe();
        let _ = tokio::time::timeout(STREAM_WAIT, is_open.wait_for(|is_open| *is_open)).await;
        // One request waits in vain, and none after it.
        self.is_open.send_replace(true);
    }
}

impl StreamableHttpClient for SessionHttp {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> HttpResult<StreamableHttpPostResponse> {
        self.wait_for_stream(session_id.as_deref(), &message).await;
        self.http.post_message(uri, message, session_id, auth_header, custom_headers).await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        max_sse_event_size: usize,
    ) -> HttpResult<StreamableHttpPostResponse> {
        self.wait_for_stream(session_id.as_deref(), &message).await;
        let (headers, most) = (custom_headers, max_sse_event_size);
        self.http.post_message_with_max_sse_event_size(uri, message, session_id, auth_header, headers, most).await
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> HttpResult<()> {
        self.http.delete_session(uri, session_id, auth_header, custom_headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> HttpResult<BoxStream<'static, Result<Sse, SseError>>> {
        let stream = self.http.get_stream(uri, session_id, last_event_id, auth_header, custom_headers).await;
        self.is_open.send_replace(true);
        stream
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
        max_sse_event_size: usize,
    ) -> HttpResult<BoxStream<'static, Result<Sse, SseError>>> {
        let (last, headers, most) = (last_event_id, custom_headers, max_sse_event_size);
        let stream =
            self.http.get_stream_with_max_sse_event_size(uri, session_id, last, auth_header, headers, most).await;
        self.is_open.send_replace(true);
        stream
    }
}
