//! The commands. Data goes to standard output, everything else to standard error; an exit code of 0 means success, 1 that the command failed, 2 that it was typed wrong.

mod accept;
mod build;
mod data;
mod dev;
mod document;
mod fetch;
mod id;
mod inspect;
mod mounts;
mod new;
mod operate;
mod peers;
mod pinned;
mod policy;
mod primitives;
mod question;
mod remote;
mod secret;
mod serve;
mod style;
mod tasks;
mod tenant;
mod token;
mod wit;
mod workflow;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::{config::Config, engine::compile::child, names::TenantId, telemetry, tenant::home::Homes, threads};

/// The whole program: reads the command line and does what it says.
pub fn main() -> ExitCode {
    if let Some(code) = child::run_if_asked() {
        return code;
    }
    let cli = Cli::parse();
    // What another command starts, such as a compiler, would have small pages too.
    if matches!(cli.command, Command::Serve(_)) {
        spare_memory();
    }
    // One TLS implementation for every connection the program makes; a second installation is not possible here.
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = match threads::ordinary() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let code = match runtime.block_on(cli.run()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    };
    telemetry::flush();
    runtime.shutdown_background();
    code
}

/// Has the kernel give this program memory in small pages. Of large ones, which the kernel may give unasked, the allocator uses a part: a host with a hundred tenants had more than twice as much memory.
fn spare_memory() {
    #[cfg(target_os = "linux")]
    let _pages_stay_large = rustix::thread::disable_transparent_huge_pages(true);
}

fn fail(error: &anyhow::Error) -> ExitCode {
    telemetry::last_word(format!("error: {error:#}\n"));
    ExitCode::FAILURE
}

/// A WebAssembly-extensible tool host for the Model Context Protocol.
#[derive(Debug, Parser)]
#[command(name = "mcpp", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host: load the tools, serve MCP clients, swap tools as they change.
    Serve(serve::Serve),
    /// Make a project for a tool, in one of six languages, that builds and runs as it is.
    New(new::New),
    /// Build the component of a project, by its language's own tools.
    Build(build::Build),
    /// Serve one project while you write it: build at every save, swap, and show what changed.
    Dev(dev::Dev),
    /// List the tools of a host, with the older builds that unfinished work still calls; or the problems of its components.
    Tools(remote::Tools),
    /// Call a tool.
    Call(remote::CallArgs),
    /// List a server's resources and their templates.
    Resources(primitives::ResourcesArgs),
    /// Read a resource.
    Read(primitives::ReadArgs),
    /// List a server's prompts.
    Prompts(primitives::PromptsArgs),
    /// Fill a prompt with arguments.
    Prompt(primitives::PromptArgs),
    /// Watch the task queue: list its tasks, show one, follow some.
    Tasks(tasks::TasksArgs),
    /// Watch workflows: list runs, show one as a table or a graph, follow one, find those that are stuck.
    Workflow(workflow::WorkflowArgs),
    /// Show a running host: components, limits, instances, problems.
    Info(operate::InfoArgs),
    /// Explain a component file: its powers if you load it, and its tools.
    Inspect(inspect::Inspect),
    /// Make a running host look at its tools and grants again.
    Reload(operate::Reload),
    /// Print the id that peers know this host by; make its key if there is none.
    Id(id::IdArgs),
    /// Add tenants, show, limit, suspend, resume and remove them.
    Tenant(tenant::TenantArgs),
    /// Make, list and revoke bearer tokens.
    Token(token::TokenArgs),
    /// Invite another host to call tools of this one: print a ticket for `mcpp join` there.
    Invite(peers::Invite),
    /// Join a host by the ticket that it printed: its tools can be called from here.
    Join(peers::Join),
    /// List the hosts that this one knows: the path to each, and what they and this one let each other do.
    Peers(peers::Peers),
    /// Show tools of other hosts in a tenant's catalog, as `NAME_TOOL`: print what a model will read of them, and accept it.
    Mount(mounts::MountArgs),
    /// List the mounts of a tenant: their peers, how these do, and what waits to be accepted.
    Mounts(mounts::MountsArgs),
    /// Take a mount away.
    Unmount(mounts::Unmount),
    /// Fetch a component that other hosts offer, in verified chunks from all of them; it waits for `mcpp accept`. Without a component: list what they offer.
    Fetch(fetch::Fetch),
    /// Take away what a peer may do.
    Peer(peers::PeerArgs),
    /// Let a component do more: add to its grant, or show it.
    Grant(policy::GrantArgs),
    /// Let a component do less: take keys out of its grant, or all of it.
    Revoke(policy::Revoke),
    /// Ask whether a component's grant allows something; exit code 1 if not.
    Test(policy::Test),
    /// Say why a component is not live and which of its calls were denied, with the grant that would allow them.
    Explain(policy::Explain),
    /// Print the least grant that allows everything a component did and wanted to do.
    Learn(policy::Learn),
    /// Accept a build in a pinned folder that is new, asks for more or shows clients something else; with --mount, what peers of a mount offer.
    Accept(accept::Accept),
    /// Show events and timers that wait, and deliveries that were given up. Retry or drop those.
    Events(data::EventsArgs),
    /// Set, list and remove the secrets that the host puts into components' requests.
    Secret(secret::Secret),
    /// Copy the components' data of a running host into a file.
    Backup(data::BackupArgs),
    /// Put the doc comments of a WIT package into a component, so that its tools and their schemas are described.
    Document(document::Document),
    /// Print the WIT packages that this host speaks, or write them to a folder.
    Wit(wit::Wit),
}

/// Where a running host is found by its operator.
#[derive(Debug, Clone, Args)]
struct Operator {
    /// The host's data directory [default: ~/.local/share/mcpp; on macOS ~/Library/Application Support/mcpp]
    #[arg(long, env = "MCPP_DATA", value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// The host's configuration file, to find the data directory
    #[arg(long, env = "MCPP_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The tenant of the component
    #[arg(long, value_name = "TENANT", default_value = "local", global = true)]
    tenant: TenantId,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

impl Operator {
    /// The flags by which another command reaches the same tenant of the same host, each after a space.
    fn flags(&self) -> String {
        let tenant = (self.tenant != TenantId::local()).then(|| ("--tenant", self.tenant.to_string()));
        let path = |flag, path: &Option<PathBuf>| path.as_ref().map(|path| (flag, path.display().to_string()));
        let flags = [tenant, path("--data", &self.data), path("--config", &self.config)];
        flags.into_iter().flatten().map(|(flag, value)| format!(" {flag} {}", shell_word(&value))).collect()
    }
}

/// Where a host keeps its files, whether it runs or not.
#[derive(Debug, Clone, Args)]
struct Data {
    /// The host's data directory [default: ~/.local/share/mcpp; on macOS ~/Library/Application Support/mcpp]
    #[arg(long, env = "MCPP_DATA", value_name = "DIR", global = true)]
    data: Option<PathBuf>,
    /// The host's configuration file, to find the data directory
    #[arg(long, env = "MCPP_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

impl Data {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref(), |_| None)?;
        if self.data.is_some() {
            config.data.dir.clone_from(&self.data);
        }
        Ok(config)
    }

    fn homes(&self) -> anyhow::Result<Homes> {
        let data = self.config()?.data_dir()?;
        crate::files::private_folder(&data)
            .with_context(|| format!("cannot make the data directory {}", data.display()))?;
        Ok(Homes::new(data))
    }

    fn operator(&self) -> Operator {
        Operator { data: self.data.clone(), config: self.config.clone(), tenant: TenantId::local(), json: self.json }
    }
}

impl Cli {
    /// Runs the command; the exit code.
    async fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Serve(command) => Box::pin(command.run()).await,
            Command::New(command) => command.run(),
            Command::Build(command) => command.run().await,
            Command::Dev(command) => Box::pin(command.run()).await,
            Command::Tools(command) => command.run().await,
            Command::Call(command) => command.run().await,
            Command::Resources(command) => command.run().await,
            Command::Read(command) => command.run().await,
            Command::Prompts(command) => command.run().await,
            Command::Prompt(command) => command.run().await,
            Command::Tasks(command) => command.run().await,
            Command::Workflow(workflow) => workflow.run().await,
            Command::Info(command) => command.run().await,
            Command::Inspect(command) => command.run().await,
            Command::Reload(command) => command.run().await,
            Command::Id(command) => command.run(),
            Command::Events(command) => command.run().await,
            Command::Secret(command) => command.run(),
            Command::Backup(command) => command.run().await,
            Command::Document(command) => command.run(),
            Command::Wit(command) => command.run(),
            Command::Grant(command) => command.run().await,
            Command::Revoke(command) => command.run().await,
            Command::Test(command) => command.run(),
            Command::Explain(command) => command.run().await,
            Command::Learn(command) => command.run().await,
            Command::Accept(command) => command.run().await,
            Command::Tenant(command) => command.run().await,
            Command::Token(command) => command.run().await,
            Command::Invite(command) => command.run().await,
            Command::Join(command) => command.run().await,
            Command::Peers(command) => command.run().await,
            Command::Peer(command) => command.run().await,
            Command::Mount(command) => command.run().await,
            Command::Mounts(command) => command.run().await,
            Command::Unmount(command) => command.run().await,
            Command::Fetch(command) => command.run().await,
        }
    }
}

/// Writes data to standard output. A reader that has gone away is no error of ours.
fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n')) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// A table without lines, as other programs like to read it.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Text from a guest or a server, safe for a terminal: nothing in it moves the cursor, turns a line around or hides.
fn clean(text: &str) -> String {
    text.chars().map(|c| if deceives(c) && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A word of a command line as a shell reads it: in quotes if it has characters that mean something to a shell.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A field of a record as safe text; `-` if there is none.
fn field(record: &Value, name: &str) -> String {
    match record.get(name) {
        Some(Value::String(text)) => clean(text),
        None | Some(Value::Null) => "-".into(),
        Some(other) => clean(&other.to_string()),
    }
}

/// Control characters, what changes the direction of a line, other ends of lines, and what has no width and joins nothing.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_another_one_advises_reaches_the_same_tenant_of_the_same_host() {
        let operator = |tenant: &str, data: Option<&str>| Operator {
            data: data.map(PathBuf::from),
            config: None,
            tenant: TenantId::new(tenant).expect("legal"),
            json: true,
        };
        assert_eq!(operator("local", None).flags(), "");
        assert_eq!(operator("tr", Some("/srv/it's")).flags(), r" --tenant tr --data '/srv/it'\''s'");
        assert_eq!(shell_word("store = {}"), "'store = {}'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn text_from_elsewhere_neither_turns_nor_hides_on_a_terminal() {
        let evil = "a\u{1b}[2J\u{9b}31m\u{202e}b\u{2066}\u{200b}\u{2028}c\u{e0041}\r";
        assert_eq!(clean(evil), "a\u{fffd}[2J\u{fffd}31m\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c\u{fffd}\u{fffd}");
        let honest = "naïve, e\u{301}, हिन्दी, 👩\u{200d}🚀, two\nlines\tand a tab";
        assert_eq!(clean(honest), honest);
    }
}
