//! Orders against settings and grants.

use super::*;

fn config() -> ContainersConfig {
    ContainersConfig {
        images: vec!["python:*".to_owned(), "job:1".to_owned()].try_into().expect("images"),
        repositories: vec!["https://github.com/*".to_owned()].try_into().expect("repositories"),
        memory_bytes: 64 << 20,
        cpu_millis: 500,
        processes: 7,
        run_ms: 60_000,
        ..ContainersConfig::default()
    }
}

fn grant() -> ContainerGrant {
    toml::from_str(
        "images = ['python:*', 'node:*']\nrepositories = ['https://github.com/org/*', 'https://example.com/a/b']\n\
         volumes = [{ path = '/srv/in' }, { path = '/srv/out', mode = 'read-write' }]\nnetworks = ['web']",
    )
    .expect("a grant")
}

fn order() -> Order {
    Order {
        source: Source::Image("python".into()),
        command: Vec::new(),
        entrypoint: Vec::new(),
        environment: Vec::new(),
        volumes: Vec::new(),
        network: "none".into(),
        gpus: None,
        memory_bytes: None,
        cpu_millis: None,
        timeout_ms: 1_000,
        working_dir: None,
        user: None,
        read_only: false,
    }
}

fn repository(url: &str, branch: &str, context: &str, dockerfile: &str) -> Order {
    let from = Repository {
        url: url.into(),
        branch: branch.into(),
        context: context.into(),
        dockerfile: dockerfile.into(),
        build_args: vec![("A".into(), "b".into())],
    };
    Order { source: Source::Repository(from), ..order() }
}

fn planned(order: Order) -> Result<ContainerPlan, OrderError> {
    plan(order, &grant(), &config())
}

fn host(order: Order) -> HostConfig {
    planned(order).expect("planned").body.host_config.expect("a host's part")
}

#[test]
fn every_container_has_the_safe_settings_and_the_operators_bounds() {
    let host = host(order());
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!((host.memory, host.memory_swap, host.nano_cpus), (Some(64 << 20), Some(64 << 20), Some(500_000_000)));
    assert_eq!((host.pids_limit, host.privileged, host.readonly_rootfs), (Some(7), Some(false), Some(false)));
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert!(host.cap_add.is_some_and(|kept| kept.len() == 5 && kept.iter().all(|name| !name.contains("SYS"))));
    assert_eq!(host.log_config.and_then(|log| log.typ).as_deref(), Some("none"));
    assert_eq!((host.binds, host.devices, host.device_requests, host.pid_mode), (None, None, None, None));
    let body = planned(order()).expect("planned").body;
    assert_eq!((body.tty, body.open_stdin, body.cmd, body.entrypoint), (Some(false), Some(false), None, None));
    assert!(self::host(Order { read_only: true, ..order() }).readonly_rootfs == Some(true));
}

#[test]
fn an_image_needs_the_settings_and_the_grant() {
    let image = |name: &str| planned(Order { source: Source::Image(name.into()), ..order() }).map(|plan| plan.image);
    assert_eq!(image("python"), Ok(PlannedImage::Named("python:latest".into())), "never all tags");
    assert_eq!(
        image("node:22"),
        Err(OrderError::NotAllowed("this host does not allow the image \"node:22\"".into(), None))
    );
    let line = Some("container.images = [\"job:1\"]".to_owned());
    assert_eq!(image("job:1"), Err(OrderError::NotAllowed("the image \"job:1\"".into(), line)));
    assert!(matches!(image("python; rm"), Err(OrderError::Invalid(_))));
}

#[test]
fn a_build_stays_in_its_repository() {
    let built = |url: &str, branch: &str, context: &str, dockerfile: &str| {
        planned(repository(url, branch, context, dockerfile)).map(|plan| match plan.image {
            PlannedImage::Built { remote, dockerfile, arguments } => (remote, dockerfile, arguments.len()),
            PlannedImage::Named(name) => panic!("{name}"),
        })
    };
    let url = "https://github.com/org/name";
    let answer = |remote: &str, dockerfile: &str| Ok((format!("{url}.git#{remote}"), dockerfile.to_owned(), 1));
    assert_eq!(built(url, "main", ".", "Dockerfile"), answer("main", "Dockerfile"));
    assert_eq!(built(url, "v1/x", "a/./b/", "a/b/docker/File"), answer("v1/x:a/b", "docker/File"));
    for (branch, context, dockerfile) in [
        ("main:evil", ".", "Dockerfile"),
        ("main#evil", ".", "Dockerfile"),
        ("-main", ".", "Dockerfile"),
        ("a..b", ".", "Dockerfile"),
        ("main", "..", "Dockerfile"),
        ("main", "/etc", "Dockerfile"),
        ("main", "a", "Dockerfile"),
        ("main", "a", "ab/Dockerfile"),
        ("main", ".", "../Dockerfile"),
        ("main", ".", ""),
        ("main", "a:b", "a:b/Dockerfile"),
    ] {
        let refused = built(url, branch, context, dockerfile);
        assert!(matches!(refused, Err(OrderError::Invalid(_))), "{branch} {context} {dockerfile}: {refused:?}");
    }
    for url in ["https://github.com/other/name", "https://example.com/a/b"] {
        assert!(matches!(built(url, "main", ".", "D"), Err(OrderError::NotAllowed(..))), "{url}");
    }
}

#[test]
fn volumes_networks_and_processors_need_the_grant() {
    let volume =
        |host: &str, container: &str, read_only| Volume { host: host.into(), container: container.into(), read_only };
    let mounts = host(Order {
        volumes: vec![
            volume("/srv/in", "/in", false),
            volume("/srv/out", "/out", false),
            volume("/srv/out", "/r", true),
        ],
        network: "web".into(),
        ..order()
    });
    let seen: Vec<_> = mounts.mounts.into_iter().flatten().map(|mount| (mount.target, mount.read_only)).collect();
    let wanted = [("/in", true), ("/out", false), ("/r", true)];
    assert_eq!(seen, wanted.map(|(path, read_only)| (Some(path.to_owned()), Some(read_only))));
    assert_eq!(mounts.network_mode.as_deref(), Some("web"));
    for wrong in [
        Order { volumes: vec![volume("/etc", "/etc", true)], ..order() },
        Order { volumes: vec![volume("/srv/in/../../etc", "/in", true)], ..order() },
        Order { network: "host".into(), ..order() },
        Order { network: "bridge".into(), ..order() },
        Order { gpus: Some("all".into()), ..order() },
    ] {
        assert!(matches!(planned(wrong.clone()), Err(OrderError::NotAllowed(_, Some(_)))), "{wrong:?}");
    }
}

#[test]
fn every_bound_holds_at_its_edge() {
    let fits = |order: Order| planned(order).is_ok();
    let order_of = |bytes: usize| Order { command: vec!["x".repeat(bytes)], ..order() };
    // The image, the network and the end of the word count too.
    let rest = "python".len() + "none".len() + 1;
    assert!(fits(order_of(MAX_TEXT_BYTES - rest)) && !fits(order_of(MAX_TEXT_BYTES - rest + 1)));
    let variables = |many: usize| (0..many).map(|n| (format!("V{n}"), String::new())).collect();
    assert!(fits(Order { environment: variables(256), ..order() }));
    assert!(!fits(Order { environment: variables(257), ..order() }));
    for (memory, cpu, time, allowed) in [
        (Some(64 << 20), Some(500), 60_000, true),
        (Some((64 << 20) + 1), None, 1, false),
        (Some(1), None, 1, false),
        (None, Some(501), 1, false),
        (None, Some(0), 1, false),
        (None, None, 60_001, false),
        (None, None, 0, false),
    ] {
        let order = Order { memory_bytes: memory, cpu_millis: cpu, timeout_ms: time, ..order() };
        assert_eq!(fits(order), allowed, "{memory:?} {cpu:?} {time}");
    }
    for wrong in [
        Order { environment: vec![("A=B".into(), "c".into())], ..order() },
        Order { environment: vec![(String::new(), "c".into())], ..order() },
        Order { command: vec!["a\0b".into()], ..order() },
        Order { gpus: Some("0".into()), ..order() },
    ] {
        assert!(matches!(planned(wrong.clone()), Err(OrderError::Invalid(_))), "{wrong:?}");
    }
}

#[test]
fn containers_need_their_grant() {
    let refused = crate::capability::check(
        "job",
        ["mcpp:container/containers@0.1.0".to_owned()],
        &crate::grants::ComponentGrant::default(),
    );
    let error = refused.expect_err("no grant").to_string();
    assert!(error.contains("add `container = { images = [\"IMAGE\"] }` to `grants/job.toml`"), "{error}");
    let granted = crate::grants::ComponentGrant {
        container: Some(Default::default()),
        ..crate::grants::ComponentGrant::default()
    };
    assert_eq!(crate::capability::check("job", ["mcpp:container/containers@0.1.0".to_owned()], &granted), Ok(()));
}
