//! A guest's order, held to the operator's settings and to the grant, as a request to the engine. Pure: it asks nobody.
//!
//! The host writes every field of the request that gives a container power. A guest chooses among what is granted.

use std::{collections::HashMap, time::Duration};

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HostConfig, HostConfigLogConfig, Mount, MountBindOptions, MountType,
    ResourcesUlimits,
};

use super::config::ContainersConfig;
use crate::{
    capability::bindings::mcpp::container::containers::{Order, Repository, Source, Volume},
    grants::{
        container::{ContainerGrant, full_image, image_line, is_repository, repository_line},
        files::FolderMode,
    },
};

/// Most variables of an environment.
const MAX_VARIABLES: usize = 256;
/// Most arguments of a build.
const MAX_BUILD_ARGUMENTS: usize = 128;
/// Most directories of the machine.
const MAX_VOLUMES: usize = 16;
/// Most bytes of all texts of an order.
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Longest branch, tag or commit, in bytes.
const MAX_BRANCH_BYTES: usize = 200;
/// The least memory that an engine gives a container, in bytes.
const LEAST_MEMORY_BYTES: u64 = 6 << 20;
/// The capabilities of the kernel that a container keeps: those of an owner of files, which programs that run as root in their own files expect.
const KEPT_CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"];

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OrderError {
    /// A part is not of its form.
    Invalid(String),
    /// The operator does not allow it: what, and the line of a grant that would, if the grant is what lacks.
    NotAllowed(String, Option<String>),
}

/// Where the image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PlannedImage {
    /// By its full name.
    Named(String),
    /// Built of a repository: the engine's form of its address, the Dockerfile within, and the arguments.
    Built { remote: String, dockerfile: String, arguments: HashMap<String, String> },
}

/// An order that may be carried out.
#[derive(Debug, Clone)]
pub(super) struct ContainerPlan {
    /// The image.
    pub(super) image: PlannedImage,
    /// The container, without its image and labels.
    pub(super) body: ContainerCreateBody,
    /// The network of a build.
    pub(super) network: String,
    /// The memory, in bytes.
    pub(super) memory_bytes: u64,
    /// How long it may run.
    pub(super) time: Duration,
    /// The line of the grant that allows its image.
    pub(super) grant_line: String,
}

/// Holds an order to the settings and the grant.
pub(super) fn plan(
    order: Order,
    grant: &ContainerGrant,
    config: &ContainersConfig,
) -> Result<ContainerPlan, OrderError> {
    check_size(&order)?;
    let (image, grant_line) = match order.source {
        Source::Image(name) => named(&name, grant, config)?,
        Source::Repository(repository) => built(repository, grant, config)?,
    };
    if !grant.networks.allow(&order.network) {
        let name = &order.network;
        return Err(lacks(format!("the network {name:?}"), format!("container.networks = [{name:?}]")));
    }
    let mounts = order.volumes.into_iter().map(|volume| mount(volume, grant)).collect::<Result<Vec<_>, _>>()?;
    let devices = order.gpus.map(|gpus| graphics(&gpus, grant)).transpose()?;
    let memory_bytes = order.memory_bytes.unwrap_or(config.memory_bytes);
    let cpu_millis = order.cpu_millis.unwrap_or(config.cpu_millis);
    for (what, value, least, most) in [
        ("memory-bytes", memory_bytes, LEAST_MEMORY_BYTES, config.memory_bytes),
        ("cpu-millis", cpu_millis.into(), 10, config.cpu_millis.into()),
        ("timeout-ms", order.timeout_ms, 1, config.run_ms),
    ] {
        if !(least..=most).contains(&value) {
            return Err(OrderError::Invalid(format!("`{what}` is {value}; {least} to {most} are allowed here")));
        }
    }
    let environment = order.environment.into_iter().map(|(name, value)| variable(&name, &value));
    let environment = environment.collect::<Result<Vec<_>, _>>()?;
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let host = HostConfig {
        memory: Some(whole(memory_bytes)),
        // As much as the memory: no swap.
        memory_swap: Some(whole(memory_bytes)),
        nano_cpus: Some(i64::from(cpu_millis).saturating_mul(1_000_000)),
        pids_limit: Some(config.processes.into()),
        // The kernel holds a single file to what all of them may have; `life` adds them up.
        ulimits: Some(vec![ulimit("fsize", whole(config.disk_bytes)), ulimit("core", 0)]),
        network_mode: Some(order.network.clone()),
        // Its output is read as it comes, and kept nowhere.
        log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
        mounts: (!mounts.is_empty()).then_some(mounts),
        device_requests: devices.map(|device| vec![device]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(KEPT_CAPABILITIES.map(str::to_owned).into()),
        security_opt: Some(vec!["no-new-privileges:true".into()]),
        privileged: Some(false),
        publish_all_ports: Some(false),
        readonly_rootfs: Some(order.read_only),
        ipc_mode: Some("private".into()),
        init: Some(true),
        ..HostConfig::default()
    };
    let some = |words: Vec<String>| (!words.is_empty()).then_some(words);
    let body = ContainerCreateBody {
        cmd: some(order.command),
        entrypoint: some(order.entrypoint),
        env: some(environment),
        working_dir: order.working_dir,
        user: order.user,
        tty: Some(false),
        open_stdin: Some(false),
        attach_stdin: Some(false),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    let time = Duration::from_millis(order.timeout_ms);
    Ok(ContainerPlan { image, body, network: order.network, memory_bytes, time, grant_line })
}

/// A bound of the kernel, which the container cannot raise.
fn ulimit(name: &str, most: i64) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.to_owned()), soft: Some(most), hard: Some(most) }
}

fn lacks(what: String, line: String) -> OrderError {
    OrderError::NotAllowed(what, Some(line))
}

fn check_size(order: &Order) -> Result<(), OrderError> {
    let pairs = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| name.len().saturating_add(value.len())).fold(0, usize::saturating_add)
    };
    let words = |words: &[String]| words.iter().map(|word| word.len().saturating_add(1)).fold(0, usize::saturating_add);
    let (source, build_arguments) = match &order.source {
        Source::Image(name) => (name.len(), &[][..]),
        Source::Repository(from) => {
            (from.url.len() + from.branch.len() + from.context.len() + from.dockerfile.len(), &from.build_args[..])
        }
    };
    let volumes = order.volumes.iter().map(|volume| volume.host.len().saturating_add(volume.container.len()));
    let options = [&order.gpus, &order.working_dir, &order.user].map(|text| text.as_ref().map_or(0, String::len));
    let bytes = [source, pairs(build_arguments), words(&order.command), words(&order.entrypoint)]
        .into_iter()
        .chain([pairs(&order.environment), order.network.len()])
        .chain(volumes)
        .chain(options)
        .fold(0, usize::saturating_add);
    for (what, many, most) in [
        ("bytes of text", bytes, MAX_TEXT_BYTES),
        ("variables", order.environment.len(), MAX_VARIABLES),
        ("build arguments", build_arguments.len(), MAX_BUILD_ARGUMENTS),
        ("volumes", order.volumes.len(), MAX_VOLUMES),
    ] {
        if many > most {
            return Err(OrderError::Invalid(format!("{many} {what}; at most {most} are allowed")));
        }
    }
    let texts = order.command.iter().chain(&order.entrypoint).chain(&order.working_dir).chain(&order.user);
    match texts.into_iter().any(|text| text.contains('\0')) {
        true => Err(OrderError::Invalid("a text has a zero byte".into())),
        false => Ok(()),
    }
}

fn named(name: &str, grant: &ContainerGrant, config: &ContainersConfig) -> Result<(PlannedImage, String), OrderError> {
    let image = full_image(name).ok_or_else(|| OrderError::Invalid(format!("{name:?} is no image's name")))?;
    let line = image_line(&image);
    if !config.images.allow(&image) {
        return Err(OrderError::NotAllowed(format!("this host does not allow the image {image:?}"), None));
    }
    if !grant.images.allow(&image) {
        return Err(lacks(format!("the image {image:?}"), line));
    }
    Ok((PlannedImage::Named(image), line))
}

fn built(
    from: Repository,
    grant: &ContainerGrant,
    config: &ContainersConfig,
) -> Result<(PlannedImage, String), OrderError> {
    let Repository { url, branch, context, dockerfile, build_args } = from;
    if !is_repository(&url) {
        return Err(OrderError::Invalid(format!("{url:?} is no `https:` URL of a repository")));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let is_branch = (1..=MAX_BRANCH_BYTES).contains(&branch.len())
        && branch.chars().all(legal)
        && branch.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !branch.contains("..");
    if !is_branch {
        return Err(OrderError::Invalid(format!("{branch:?} is no branch")));
    }
    let (Some(context), Some(dockerfile)) = (inner_path(&context), inner_path(&dockerfile)) else {
        return Err(OrderError::Invalid("a path does not stay in the repository".into()));
    };
    // The engine looks for the Dockerfile in what is built.
    let dockerfile = match context.as_str() {
        "" => Some(dockerfile),
        context => dockerfile.strip_prefix(context).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned),
    };
    let Some(dockerfile) = dockerfile.filter(|path| !path.is_empty()) else {
        return Err(OrderError::Invalid("the Dockerfile is not within the directory that is built".into()));
    };
    let line = repository_line(&url);
    if !config.repositories.allow(&url) {
        return Err(OrderError::NotAllowed(format!("this host does not allow the repository {url:?}"), None));
    }
    if !grant.repositories.allow(&url) {
        return Err(lacks(format!("the repository {url:?}"), line));
    }
    // The engine takes an address for a repository's by its end.
    let address = if url.ends_with(".git") { url } else { format!("{url}.git") };
    let remote =
        if context.is_empty() { format!("{address}#{branch}") } else { format!("{address}#{branch}:{context}") };
    let pairs = build_args.into_iter().map(|(name, value)| variable(&name, &value).map(|_| (name, value)));
    let arguments = pairs.collect::<Result<_, _>>()?;
    Ok((PlannedImage::Built { remote, dockerfile, arguments }, line))
}

/// A path within a repository, without its needless parts; empty for all of it.
fn inner_path(path: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '+');
    if path.starts_with('/') || !path.chars().all(legal) {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let stays = parts.iter().all(|part| *part != ".." && !part.starts_with('-'));
    stays.then(|| parts.join("/"))
}

fn variable(name: &str, value: &str) -> Result<String, OrderError> {
    let legal = |c: char| c.is_ascii_graphic() && c != '=';
    if name.is_empty() || !name.chars().all(legal) || value.contains('\0') {
        return Err(OrderError::Invalid(format!("{name:?} is no variable, or its value has a zero byte")));
    }
    Ok(format!("{name}={value}"))
}

fn mount(volume: Volume, grant: &ContainerGrant) -> Result<Mount, OrderError> {
    let Volume { host, container, read_only } = volume;
    let Some(mode) = grant.volumes.mode(&host) else {
        return Err(lacks(format!("the directory {host:?}"), format!("container.volumes = [{{ path = {host:?} }}]")));
    };
    let is_path = container.starts_with('/')
        && container != "/"
        && !container.contains('\0')
        && container.split('/').all(|part| part != "..");
    if !is_path {
        return Err(OrderError::Invalid(format!("{container:?} is no absolute path in a container")));
    }
    Ok(Mount {
        typ: Some(MountType::BIND),
        source: Some(host),
        target: Some(container),
        read_only: Some(read_only || mode == FolderMode::Read),
        // A directory that is not there is an error, and is not made.
        bind_options: Some(MountBindOptions { create_mountpoint: Some(false), ..MountBindOptions::default() }),
        ..Mount::default()
    })
}

fn graphics(gpus: &str, grant: &ContainerGrant) -> Result<DeviceRequest, OrderError> {
    let count = match gpus {
        "all" => -1,
        number => match number.parse::<u8>() {
            Ok(count) if count > 0 => i64::from(count),
            _ => return Err(OrderError::Invalid(format!("`gpus` is {gpus:?}; a number or `all` is allowed"))),
        },
    };
    if !grant.gpus {
        return Err(lacks("the graphics processors".into(), "container.gpus = true".into()));
    }
    Ok(DeviceRequest { count: Some(count), capabilities: Some(vec![vec!["gpu".into()]]), ..DeviceRequest::default() })
}

#[cfg(test)]
mod tests;
