//! `mcpp serve`.

use std::{io::IsTerminal as _, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

use super::remote::tell;
use crate::{config::Config, host::Host, telemetry};

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Configuration file [default: ./mcpp.toml if it is there]
    #[arg(long, env = "MCPP_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where the host keeps its own files [default: ~/.local/share/mcpp; on macOS ~/Library/Application Support/mcpp]
    #[arg(long, env = "MCPP_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of components to load and watch; may be repeated
    #[arg(long, value_name = "DIR")]
    tools: Vec<PathBuf>,
    /// Serve one client on standard input and output too, and stop when it leaves
    #[arg(long)]
    stdio: bool,
    /// Listen beyond loopback although no authentication is configured
    #[arg(long)]
    allow_unauthenticated: bool,
    /// Check the configuration and stop; a good one prints nothing but warnings
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let (stdio, check) = (self.stdio, self.check);
        let config = self.configure()?;
        config.check()?;
        if check {
            config.check_files()?;
            config.warnings().iter().for_each(|warning| tell(&format!("warning: {warning}")));
            return Ok(0);
        }
        telemetry::start_logging(&config.log.level, config.log.format).map_err(anyhow::Error::msg)?;
        tracing::info!(configuration = summary(&config), "configuration");
        config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        let hooks = config.server.hooks.clone();
        let bar = progress_bar();
        let loading = bar.clone();
        // Boxed, as what is below it is deep.
        let host = Box::pin(Host::start(config, Arc::new(move || loading.inc(1)))).await?;
        let outcome = tokio::select! {
            outcome = run_until_told(&host, stdio) => outcome,
            // The bar goes when everything is loaded; the host serves on.
            never = async {
                host.loaded().await;
                bar.finish_and_clear();
                warn_of_hooks(&host, &hooks);
                std::future::pending().await
            } => never,
        };
        bar.finish_and_clear();
        tokio::select! {
            () = host.stop() => {}
            _ = tokio::signal::ctrl_c() => anyhow::bail!("stopped at once; calls that ran were cut off"),
        }
        outcome?;
        Ok(0)
    }

    fn configure(self) -> anyhow::Result<Config> {
        let mut config =
            Config::load(self.config.as_deref(), |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if self.data.is_some() {
            config.data.dir = self.data;
        }
        config.tools.folders.extend(self.tools);
        config.server.allow_unauthenticated |= self.allow_unauthenticated;
        // Several clients may each start a host of their own, and none of them asked for a port.
        config.server.http &= !self.stdio || self.listen.is_some();
        Ok(config)
    }
}

/// Warns of each component of `server.hooks` that no tenant has.
fn warn_of_hooks(host: &Host, hooks: &[String]) {
    let tenants = host.registry().tenants();
    for component in hooks {
        if !tenants.iter().any(|tenant| host.registry().catalog(tenant).component(component).is_some()) {
            tracing::warn!(component, "server.hooks names a component that no tenant has");
        }
    }
}

/// Everything that is in force, as JSON. No part of the configuration is secret.
fn summary(config: &Config) -> String {
    serde_json::json!({
        "server": config.server,
        "sessions": config.sessions,
        "mesh_door": config.mesh_door,
        "tools": config.tools,
        "store": config.store,
        "memory": config.memory,
        "engine": config.engine,
        "limits": config.limits(),
        "tenant_limits": config.tenant_limits(),
        "outbound": config.outbound,
        "containers": config.containers,
        "log": config.log,
    })
    .to_string()
}

/// Serves until the client on standard input leaves, or a signal says to stop; reloads at `SIGHUP`.
async fn run_until_told(host: &Host, stdio: bool) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut reload = signal(SignalKind::hangup())?;
    let mut client =
        std::pin::pin!(async { if stdio { host.serve_stdio().await } else { std::future::pending().await } });
    loop {
        tokio::select! {
            left = &mut client => return left,
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            () = host.broken() => return Err(std::io::Error::other("a door broke; the log says which and why")),
            _ = reload.recv() => {
                if let Err(error) = host.tenants().reload_all().await {
                    tracing::warn!(error = crate::error::chain(&error), "not reloaded");
                }
            }
        }
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} loading components: {pos} {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
