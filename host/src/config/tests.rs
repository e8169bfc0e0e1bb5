//! The configuration against its example, its environment and its errors.

use super::*;

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = include_str!("../../mcpp.example.toml");
    // Every setting is a comment `#key = value`; prose is `# ` and a space.
    let active: String = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n");
    let mut parsed = Config::parse(&active).expect("the example is valid with every key switched on");
    assert_eq!(Config::parse(example).expect("the example is valid"), Config::default());
    // Fuel is counted only where it is set.
    assert_eq!(parsed.limits.fuel.take().map(u64::from), Some(1_000_000_000));
    assert_eq!(parsed.limits(), Limits::default());
    parsed.limits = LimitsPatch::default();
    // Unless they are set, they are half of the host's.
    let own = &mut parsed.tenant_limits;
    let own = [own.guest_bytes.take().is_some(), own.code_bytes.take().is_some(), own.message_bytes.take().is_some()];
    assert_eq!(own, [true; 3]);
    assert_eq!(parsed.tenant_limits(), TenantLimits::default());
    parsed.tenant_limits = TenantLimitsPatch::default();
    parsed.data.dir = None;
    parsed.tools.grants = None;
    parsed.outbound.ca_file = None;
    parsed.containers.socket = None;
    parsed.mesh.bootstrap_file = None;
    parsed.mesh.announce_file = None;
    assert_eq!(parsed, Config::default());
    let table: toml::Table = toml::from_str(&active).expect("valid");
    let count = |section: &str| table.get(section).and_then(toml::Value::as_table).map_or(0, toml::Table::len);
    let sections = [
        "server",
        "sessions",
        "mesh_door",
        "tools",
        "store",
        "memory",
        "engine",
        "compile",
        "limits",
        "tenant_limits",
        "outbound",
        "containers",
        "mesh",
        "log",
    ];
    assert_eq!(
        sections.map(count),
        [17, 4, 12, 7, 3, 3, 6, 5, 20, 16, 3, 12, 24, 2],
        "a key is missing from the example"
    );
}

#[test]
fn what_is_wrong_is_said() {
    for (text, says) in [
        ("[server]\nlisten = '0.0.0.0:8000'", "allow_unauthenticated"),
        ("[server]\nmount_path = 'mcp'", "is not a path"),
        ("[server]\nmount_path = '/health'", "is taken"),
        ("[server]\nallowed_origins = ['example.com']", "has no scheme"),
        ("[server]\nmount_path = '/:id'", "is not a path such as"),
        ("[server]\npage_size = 0", "at least 1"),
        ("[engine]\nmax_running = 0", "engine.max_running = 0 is not between"),
        ("[compile]\ncpu_ms = 1", "compile.cpu_ms = 1 is not between"),
        ("[server]\nlistn = 1", "unknown field `listn`"),
        ("[servers]\n", "unknown field `servers`"),
        ("[limits]\nmemory_bytes = 1", "1 is not between 65536"),
        ("[server]\nlisten = 'here'", "invalid socket address"),
        ("[mesh]\nlisten = ['localhost:1']", "mesh.listen: \"localhost:1\" is no address"),
        ("[containers]\nmemory_bytes = 1", "containers.memory_bytes = 1 is not between"),
        ("[containers]\nsocket = 'docker.sock'", "is not absolute"),
        ("[containers]\nimages = ['python*']", "is no image"),
        ("[mesh]\npeers = ['/ip4/192.0.2.1/tcp/1']", "does not end in /p2p/PEER-ID"),
        ("[mesh]\nmax_strangers = 0", "mesh.max_strangers must be at least 1"),
        ("[log]\nlevel = 'wran'", "log.level = \"wran\""),
        ("[log]\nlevel = ''", "it is empty"),
        ("[log]\nlevel = 'mcpp=loud'", "log.level = \"mcpp=loud\""),
        ("[mesh]\ncallers = 'nobody'", "unknown variant `nobody`"),
        ("[server", "expected"),
    ] {
        let error = match Config::parse(text) {
            Err(error) => error.to_string(),
            Ok(config) => config.check().expect_err(text).to_string(),
        };
        assert!(error.contains(says), "{text:?} gave {error:?}, which does not say {says:?}");
    }
}

#[test]
fn the_environment_is_heard() {
    let variables = [
        ("MCP_HOST", "::1"),
        ("MCP_PORT", "9000"),
        ("MCP_MOUNT_PATH", "/m"),
        ("MCP_DEBUG", "1"),
        ("MCP_SERVER_NAME", "n"),
        ("MCP_CORS_ORIGINS", "https://a, https://b"),
        ("MCP_DISABLE_P2P", "yes"),
    ];
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let config = Config::load(Some(Path::new("/dev/null")), find).expect("valid");
    assert_eq!(config.server.listen.to_string(), "[::1]:9000");
    assert_eq!(
        (config.server.mount_path.as_str(), config.server.name.as_str(), config.log.level.as_str()),
        ("/m", "n", "debug")
    );
    assert!(!config.mesh.enabled && Config::default().mesh.enabled);
    assert_eq!(config.server.allowed_origins, ["https://a", "https://b"]);
    let error = Config::load(Some(Path::new("/dev/null")), |name| (name == "MCP_PORT").then(|| "x".into()))
        .expect_err("not a port");
    assert!(error.to_string().contains("MCP_PORT=\"x\""), "{error}");
}

#[test]
fn files_and_folders_that_the_host_cannot_use_are_refused() {
    for (text, says) in [
        ("[tools]\nfolders = ['/nope']", "the tools folder /nope does not exist"),
        ("[tools]\nfolders = ['/proc/version']", "the tools folder /proc/version is a file"),
        ("[outbound]\nca_file = '/nope.pem'", "outbound.ca_file /nope.pem cannot be used"),
    ] {
        let error = Config::parse(text).expect("valid").check_files().expect_err(text).to_string();
        assert!(error.contains(says), "{text:?} gave {error:?}, which does not say {says:?}");
    }
    assert!(Config::default().check_files().is_ok());
}

#[test]
fn a_container_engine_that_is_not_there_yet_is_a_warning() {
    let config = Config::parse("[containers]\nsocket = '/nope.sock'").expect("valid");
    assert_eq!(config.warnings(), ["containers.socket: no container engine listens at /nope.sock"]);
    assert!(config.check().is_ok() && Config::default().warnings().is_empty());
}
