//! The yardsticks for mcpp: the protocol engine's own server with a native tool, and a bare handler that only reads and writes JSON.

use std::sync::Arc;

use axum::{Json, Router, routing::post, serve::ListenerExt as _};
use rmcp::{
    RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData, ListToolsResult, PaginatedRequestParams,
        ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

struct Adder;

impl ServerHandler for Adder {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let schema = json!({ "type": "object" }).as_object().cloned().unwrap_or_default();
        Ok(ListToolsResult::with_all_items(vec![Tool::new("add", "Adds", Arc::new(schema))]))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        Ok(CallToolResponse::Complete(CallToolResult::structured(sum(&Value::Object(arguments)))))
    }
}

fn sum(arguments: &Value) -> Value {
    let number = |name: &str| arguments.get(name).and_then(Value::as_i64).unwrap_or_default();
    json!({ "result": number("a") + number("b") })
}

pub(crate) async fn serve_rmcp() {
    let config = StreamableHttpServerConfig::default().with_json_response(true);
    let service = StreamableHttpService::new(|| Ok(Adder), Arc::new(LocalSessionManager::default()), config);
    serve(Router::new().route_service("/mcp", service)).await;
}

pub(crate) async fn serve_axum() {
    let handler = async |Json(message): Json<Value>| {
        let structured = sum(&message["params"]["arguments"]);
        let text = structured.to_string();
        let result = json!({ "resultType": "complete", "content": [{ "type": "text", "text": text }], "structuredContent": structured });
        Json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))
    };
    serve(Router::new().route("/mcp", post(handler))).await;
}

async fn serve(router: Router) {
    let port: u16 = std::env::var("PORT").expect("PORT").parse().expect("a port");
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("a socket"));
    axum::serve(listener, router).await.expect("served");
}
