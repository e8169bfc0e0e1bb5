//! The host's configuration: one TOML file in which every key is optional, then the environment, then flags.
//!
//! An unknown key is an error. The effective configuration is logged at start; `host/mcpp.example.toml` shows every key with its default, and a test holds it to that.

mod mesh_door;
mod mount_path;
#[cfg(test)]
mod tests;
mod tools;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{mesh_door::MeshDoorConfig, tools::ToolsConfig};
use crate::{
    auth::tokens::TokenFile,
    capability::{
        container::ContainersConfig,
        http::{Outbound, OutboundConfig},
    },
    engine::{EngineConfig, compile::CompileConfig},
    limits::{Limits, LimitsPatch, TenantLimits, TenantLimitsPatch},
    memory::MemoryConfig,
    mesh::NetworkConfig,
    store::embedded::EmbeddedConfig,
    telemetry::{self, LogFormat},
    tenant::home::Homes,
};

/// The file that is read when none is named and it is there.
pub const DEFAULT_FILE: &str = "mcpp.toml";

/// Everything an operator can set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The HTTP door.
    pub server: ServerConfig,
    /// Legacy sessions.
    pub sessions: SessionConfig,
    /// The mesh's door.
    pub mesh_door: MeshDoorConfig,
    /// Where components come from.
    pub tools: ToolsConfig,
    /// Where the host keeps its own files.
    pub data: DataConfig,
    /// The components' data.
    pub store: EmbeddedConfig,
    /// Memory that is spent for others.
    pub memory: MemoryConfig,
    /// How many instances there may be.
    pub engine: EngineConfig,
    /// How components are compiled.
    pub compile: CompileConfig,
    /// Limits of one call, unless a grant says otherwise.
    pub limits: LimitsPatch,
    /// Limits of one tenant, unless its settings say otherwise.
    pub tenant_limits: TenantLimitsPatch,
    /// Requests of components.
    pub outbound: OutboundConfig,
    /// Containers of components.
    pub containers: ContainersConfig,
    /// The mesh with other hosts.
    pub mesh: NetworkConfig,
    /// The host's log.
    pub log: LogConfig,
}

/// The HTTP door.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Whether the HTTP door is open; a host that a client starts with `--stdio` opens none unless told where.
    pub http: bool,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The path of the MCP endpoint.
    pub mount_path: String,
    /// The name that clients are told.
    pub name: String,
    /// Names in `Host` that are answered, besides loopback's.
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call, such as `https://app.example.com`; `http://localhost:*` for any port.
    pub allowed_origins: Vec<String>,
    /// The components whose tools others may call by `POST /hooks/TOKEN`, with tokens that the component gives out.
    pub hooks: Vec<String>,
    /// Listen beyond loopback although no authentication is configured.
    pub allow_unauthenticated: bool,
    /// Open connections: a quarter for clients that have not shown who they are, the rest for tenants.
    pub max_connections: usize,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Deepest nesting of a request body.
    pub max_body_depth: usize,
    /// Time for a request's head, and for an idle connection, in milliseconds.
    pub header_timeout_ms: u64,
    /// Time for a request's body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Time for a client that does not read what is written for it, in milliseconds; below a least rate it runs out too.
    pub write_timeout_ms: u64,
    /// Time for a connection's first authenticated request, in milliseconds.
    pub stranger_timeout_ms: u64,
    /// Tools on one page of a list.
    pub page_size: usize,
    /// Time for running calls to end when the host stops, in milliseconds.
    pub drain_ms: u64,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            http: true,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            mount_path: "/mcp".into(),
            name: "mcpp".into(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            hooks: Vec::new(),
            allow_unauthenticated: false,
            max_connections: 1_024,
            max_body_bytes: 4 << 20,
            max_body_depth: 64,
            header_timeout_ms: 75_000,
            body_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
            stranger_timeout_ms: 10_000,
            page_size: 200,
            drain_ms: 10_000,
        }
    }
}

/// Legacy sessions (protocol versions up to 2025-11-25).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// Sessions in all.
    pub max: usize,
    /// Sessions of one principal.
    pub max_per_principal: usize,
    /// After this long without traffic a session is kept as a small record only, in milliseconds.
    pub park_ms: u64,
    /// After this long without traffic a session ends, in milliseconds.
    pub expire_ms: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { max: 100_000, max_per_principal: 20_000, park_ms: 2_000, expire_ms: 3_600_000 }
    }
}

/// Where the host keeps its own files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The directory; the user's data directory if not set.
    pub dir: Option<PathBuf>,
}

/// The host's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,guest=debug`.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {path} is not valid")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A variable of the environment does not fit.
    #[error("the environment variable {name}={value:?} is not valid: {reason}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// The error in it.
        reason: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads `file`, or [`DEFAULT_FILE`] in the working directory if it is there, then applies `variables`.
    pub fn load(file: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let mut config = match file {
            Some(path) => Self::read(path)?,
            None if default.is_file() => Self::read(default)?,
            None => Self::default(),
        };
        config.apply_environment(variable)?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
    }

    /// Parses a configuration file's text.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// The variables that the MCP++ servers know.
    fn apply_environment(&mut self, variable: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        let refuse = |name, value: &str, reason: &dyn std::fmt::Display| ConfigError::Variable {
            name,
            value: value.to_owned(),
            reason: reason.to_string(),
        };
        if let Some(name) = variable("MCP_SERVER_NAME") {
            self.server.name = name;
        }
        if let Some(host) = variable("MCP_HOST") {
            let address = if host == "localhost" { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { host.parse() };
            self.server.listen.set_ip(address.map_err(|error| refuse("MCP_HOST", &host, &error))?);
        }
        if let Some(port) = variable("MCP_PORT") {
            self.server.listen.set_port(port.parse().map_err(|error| refuse("MCP_PORT", &port, &error))?);
        }
        if let Some(path) = variable("MCP_MOUNT_PATH") {
            self.server.mount_path = path;
        }
        if let Some(origins) = variable("MCP_CORS_ORIGINS") {
            let origins = origins.split(',').map(str::trim).filter(|origin| !origin.is_empty());
            self.server.allowed_origins.extend(origins.map(str::to_owned));
        }
        let is_on = |name| match variable(name) {
            None => Ok(false),
            Some(value) => match value.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" | "" => Ok(false),
                _ => Err(refuse(name, &value, &"say 1 or 0")),
            },
        };
        if is_on("MCP_DEBUG")? {
            self.log.level = "debug".into();
        }
        if is_on("MCP_DISABLE_P2P")? {
            self.mesh.enabled = false;
        }
        Ok(())
    }

    /// Refuses values that do not work or do not go together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |reason: String| Err(ConfigError::Invalid(reason));
        let server = &self.server;
        if !mount_path::is_plain(&server.mount_path) {
            return invalid(format!(
                "server.mount_path = {:?} is not a path such as \"/mcp\": parts of letters, digits and `-._~` after single slashes",
                server.mount_path
            ));
        }
        if ["/health", "/live", "/ready", "/metrics"].contains(&server.mount_path.as_str()) {
            return invalid(format!("server.mount_path = {:?} is taken by the host itself", server.mount_path));
        }
        for origin in &server.allowed_origins {
            if !origin.contains("://") {
                return invalid(format!(
                    "server.allowed_origins has {origin:?}, which has no scheme; write for example \"https://{origin}\""
                ));
            }
        }
        for (name, value) in [
            ("server.max_connections", server.max_connections),
            ("server.max_body_bytes", server.max_body_bytes),
            ("server.max_body_depth", server.max_body_depth),
            ("server.page_size", server.page_size),
            ("sessions.max", self.sessions.max),
            ("sessions.max_per_principal", self.sessions.max_per_principal),
        ] {
            if value == 0 {
                return invalid(format!("{name} must be at least 1"));
            }
        }
        if server.max_body_depth > 100 {
            return invalid("server.max_body_depth is at most 100".into());
        }
        self.mesh_door.check().map_err(ConfigError::Invalid)?;
        self.engine.check().map_err(ConfigError::Invalid)?;
        self.compile.check().map_err(ConfigError::Invalid)?;
        self.outbound.check().map_err(ConfigError::Invalid)?;
        self.containers.check().map_err(ConfigError::Invalid)?;
        self.mesh.check().map_err(ConfigError::Invalid)?;
        telemetry::check_level(&self.log.level).map_err(ConfigError::Invalid)?;
        let tokens = TokenFile::new(Homes::new(self.data_dir()?).tokens());
        if server.http && !server.listen.ip().is_loopback() && !server.allow_unauthenticated && !tokens.exists() {
            return invalid(format!(
                "refusing to listen on {}: anyone who reaches it could call every tool, as there is no token; make one with `mcpp token create`, \
                 listen on 127.0.0.1, or set server.allow_unauthenticated = true (flag --allow-unauthenticated) if the network in front of it \
                 does the checking",
                server.listen
            ));
        }
        Ok(())
    }

    /// Refuses files and folders that the host needs and cannot use.
    pub fn check_files(&self) -> Result<(), ConfigError> {
        self.tools.check().map_err(ConfigError::Invalid)?;
        if self.outbound.ca_file.is_some() {
            let outbound = Outbound::new(&self.outbound, &Homes::new(self.data_dir()?), |_| None);
            outbound.map_err(|error| ConfigError::Invalid(error.to_string()))?;
        }
        Ok(())
    }

    /// Settings that name something which is not there now, and with which the host serves all the same.
    pub fn warnings(&self) -> Vec<String> {
        let absent = self.containers.socket.as_ref().filter(|socket| !socket.exists());
        absent
            .map(|socket| format!("containers.socket: no container engine listens at {}", socket.display()))
            .into_iter()
            .collect()
    }

    /// Limits of one call.
    pub fn limits(&self) -> Limits {
        Limits::default().patched(&self.limits)
    }

    /// Where the host keeps its own files.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        match &self.data.dir {
            Some(dir) => Ok(dir.clone()),
            None => dirs::data_dir().map(|dir| dir.join("mcpp")).ok_or_else(|| {
                ConfigError::Invalid("this user has no data directory; name one with --data or data.dir".into())
            }),
        }
    }

    /// The folder of the grants of `local`.
    pub fn grants(&self) -> Result<PathBuf, ConfigError> {
        match &self.tools.grants {
            Some(folder) => Ok(folder.clone()),
            None => Ok(self.data_dir()?.join("grants")),
        }
    }

    /// Limits of a tenant, unless its settings say otherwise.
    pub fn tenant_limits(&self) -> TenantLimits {
        TenantLimits::default().patched(&self.tenant_limits)
    }
}

impl ServerConfig {
    /// The URL of the MCP endpoint of a host that listens on `address`; `stdio` for one without an HTTP door.
    pub fn url(&self, address: SocketAddr) -> String {
        if self.http { format!("http://{address}{}", self.mount_path) } else { "stdio".into() }
    }

    /// Time for running calls to end when the host stops.
    pub fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}
