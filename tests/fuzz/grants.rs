//! Operators' files, at random: grants, tenants' settings, tokens and the configuration.
//!
//! A file is taken or refused, and a refusal has a reason. A file that is taken and written back is the same when it is read again. Of grants, more is never less:
//! every wider grant allows all that a grant allows, and no narrower one allows anything else.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use mcpp::{
    auth::tokens::TokenFile,
    config::Config,
    grants::{ComponentGrant, edit::extend_grant, http::UrlOrigin},
    names::{ComponentName, TenantId, ToolName, ToolPattern, Topic},
    secrets::SecretName,
    tenant::home::Homes,
};
use toml::{Table, Value};

use super::{
    json::mutated_bytes,
    operator_files::{self, Kind},
    random::Random,
};

/// A file of an operator.
#[derive(Debug)]
pub struct Case {
    pub kind: Kind,
    pub text: Vec<u8>,
}

/// The outcome of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It says something.
    Taken,
    /// It is not valid.
    Refused,
}

/// A folder in which the files are as the host wants them.
#[derive(Debug)]
pub struct Target(tempfile::TempDir);

impl Target {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(folder.path().join("tenants/team")).expect("a tenant");
        Self(folder)
    }

    fn path(&self, kind: Kind) -> PathBuf {
        self.0.path().join(match kind {
            Kind::Grant => "grant.toml",
            Kind::Tenant => "tenants/team/tenant.toml",
            Kind::Tokens => "tokens.toml",
            Kind::Config => "mcpp.toml",
        })
    }

    /// How long it takes to read a file.
    pub fn time(&self, case: &Case) -> Duration {
        let path = self.path(case.kind);
        std::fs::write(&path, &case.text).expect("written");
        let started = Instant::now();
        let _either = match case.kind {
            Kind::Grant => ComponentGrant::load(&path).is_ok_and(|grant| grant.has_lost(&grant)),
            Kind::Tenant => Homes::new(self.0.path().into()).of(&team()).settings().is_ok(),
            Kind::Tokens => TokenFile::new(path).read().is_ok(),
            Kind::Config => Config::load(Some(&path), |_| None).is_ok_and(|config| config.check().is_ok()),
        };
        started.elapsed()
    }

    pub fn run(&self, case: &Case, random: &mut Random) -> Outcome {
        std::fs::write(self.path(case.kind), &case.text).expect("written");
        let said = match case.kind {
            Kind::Grant => self.grant(&case.text, random),
            Kind::Tenant => self.tenant(),
            Kind::Tokens => self.tokens(),
            Kind::Config => self.config(),
        };
        match said {
            Ok(()) => Outcome::Taken,
            Err(reason) => {
                assert!(!reason.is_empty(), "a refusal without a reason: {case:?}");
                Outcome::Refused
            }
        }
    }

    fn grant(&self, text: &[u8], random: &mut Random) -> Result<(), String> {
        let path = self.path(Kind::Grant);
        let grant = ComponentGrant::load(&path).map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(text).expect("what is taken is text");
        let table: Table = toml::from_str(text).expect("what is taken is TOML");
        let read = |table: &Table| parse(&toml::to_string(table).expect("TOML"));
        assert_eq!(read(&table).as_ref(), Ok(&grant), "written in another way it means the same: {text}");
        let folders: String = grant.files.iter().map(|folder| format!("{folder}\n")).collect();
        let again = parse(&format!("version = 1\n{folders}")).expect("as directories are written");
        assert_eq!(again.files, grant.files, "{text}");
        for pattern in grant.call.iter().chain(grant.expose.iter().flatten()) {
            assert_eq!(ToolPattern::try_from(String::from(pattern.clone())).as_ref(), Ok(pattern));
        }
        assert!(!grant.has_lost(&grant), "{text}");
        let allowed = allowed(&grant);
        if let Some(narrower) = without_one(&table, random).and_then(|table| read(&table).ok()) {
            let less = self::allowed(&narrower);
            assert!(less.is_subset(&allowed), "{text}\nnarrowed allows {:?}", less.difference(&allowed));
            hold_order(&grant, &narrower);
            hold_order(&narrower, &grant);
        }
        let other = operator_files::random(Kind::Grant, random);
        if let Ok(other_grant) = read(&other) {
            hold_order(&grant, &other_grant);
        }
        added(text, &grant, other);
        advised(&table, &grant, random);
        Ok(())
    }

    fn tenant(&self) -> Result<(), String> {
        let home = Homes::new(self.0.path().into()).of(&team());
        let settings = home.settings().map_err(|error| error.to_string())?;
        assert_eq!(home.change(|_| {}).expect("written"), settings);
        assert_eq!(home.settings().expect("read again"), settings);
        Ok(())
    }

    fn tokens(&self) -> Result<(), String> {
        let file = TokenFile::new(self.path(Kind::Tokens));
        let tokens = file.read().map_err(|error| error.to_string())?.expect("the file is there");
        let nobody = TenantId::new("nobody-at-all").expect("legal");
        assert_eq!(file.revoke_all(&nobody).expect("written"), 0);
        assert_eq!(file.read().expect("read again"), Some(tokens));
        Ok(())
    }

    fn config(&self) -> Result<(), String> {
        let path = self.path(Kind::Config);
        let load = || Config::load(Some(&path), |_| None);
        let config = load().map_err(|error| error.to_string())?;
        let checked = config.check().map_err(|error| error.to_string());
        // A setting may be a number that no table of the library holds: it ends at i64.
        let Ok(mut table) = toml::from_str::<Table>(&std::fs::read_to_string(&path).expect("text")) else {
            return checked;
        };
        let mut write = |key: &str, section: Result<Value, toml::ser::Error>| {
            table.insert(key.to_owned(), section.expect("it can be written"));
        };
        write("server", Value::try_from(&config.server));
        write("sessions", Value::try_from(&config.sessions));
        write("tools", Value::try_from(&config.tools));
        write("store", Value::try_from(&config.store));
        write("memory", Value::try_from(&config.memory));
        write("engine", Value::try_from(&config.engine));
        write("outbound", Value::try_from(&config.outbound));
        write("log", Value::try_from(&config.log));
        write("limits", Value::try_from(config.limits));
        write("tenant_limits", Value::try_from(config.tenant_limits));
        std::fs::write(&path, toml::to_string(&table).expect("TOML")).expect("written");
        assert_eq!(load().expect("read again"), config);
        checked
    }
}

impl Case {
    /// A file of the corpus, whose name begins with what it is.
    pub fn parse(name: &str, text: Vec<u8>) -> Self {
        let kind = name.split('-').next().and_then(Kind::named).unwrap_or_else(|| panic!("{name} says no kind"));
        Self { kind, text }
    }

    pub fn random(random: &mut Random) -> Self {
        let kind = Kind::ALL[random.below(Kind::ALL.len())];
        let mut text = match random.below(100) {
            0 => operator_files::large(kind, random),
            _ => toml::to_string(&operator_files::random(kind, random)).expect("TOML"),
        }
        .into_bytes();
        if random.below(4) == 0 {
            text = mutated_bytes(&text, 0, random);
        }
        Self { kind, text }
    }
}

fn team() -> TenantId {
    TenantId::new("team").expect("legal")
}

fn parse(text: &str) -> Result<ComponentGrant, String> {
    ComponentGrant::parse(std::path::Path::new("grant.toml"), text).map_err(|error| error.to_string())
}

/// If `before` has lost nothing, `now` allows whatever it allows.
fn hold_order(before: &ComponentGrant, now: &ComponentGrant) {
    if !before.has_lost(now) {
        let (was, is) = (allowed(before), allowed(now));
        assert!(was.is_subset(&is), "{before:?}\nhas lost nothing, but {:?}, in\n{now:?}", was.difference(&is));
    }
}

/// `mcpp grant` adds: everything that was allowed stays so, and everything that is added is allowed.
fn added(text: &str, grant: &ComponentGrant, mut piece: Table) {
    // These say something instead of what was said.
    for replaced in ["expose", "config", "version"] {
        piece.remove(replaced);
    }
    let piece = toml::to_string(&piece).expect("TOML");
    let Ok(more) = parse(&format!("version = 1\n{piece}")) else { return };
    let after = extend_grant(text.parse().expect("TOML"), [piece.clone()]).expect("both are TOML").to_string();
    // Two directories may be in each other's way.
    let Ok(after) = parse(&after) else { return };
    let (was, more, is) = (allowed(grant), allowed(&more), allowed(&after));
    assert!(was.is_subset(&is), "{text}\nand\n{piece}\nlost {:?}", was.difference(&is));
    let unsaid: BTreeSet<_> = more.difference(&is).filter(|what| !what.starts_with("expose")).collect();
    assert!(unsaid.is_empty(), "{text}\nand\n{piece}\ndo not allow {unsaid:?}");
}

/// An operator who follows the host's advice allows the request that the host denied.
fn advised(table: &Table, grant: &ComponentGrant, random: &mut Random) {
    let (method, origin, path) = (pick(&METHODS, random), pick(&ORIGINS, random), pick(&PATHS, random));
    let (origin, address) = (parse_origin(origin), parse_address(pick(&ADDRESSES, random)));
    let denied = |grant: &ComponentGrant| match check(grant, method, &origin, path) {
        Ok(()) => grant.http.allows_address(method, &origin, path, address).err(),
        Err(denied) => Some(denied),
    };
    let Some(advice) = denied(grant).and_then(|denied| denied.advice()) else { return };
    let advice: Table = toml::from_str(&advice).expect("the advice is TOML");
    let mut table = table.clone();
    let rules = table.entry("http").or_insert_with(|| Value::Array(Vec::new())).as_array_mut().expect("rules");
    rules.extend(advice["http"].as_array().expect("rules").clone());
    let Ok(grant) = parse(&toml::to_string(&table).expect("TOML")) else { return };
    // The advice for a name may be followed by one for its address, and no further.
    assert!(check(&grant, method, &origin, path).is_ok(), "{table} still denies {method} {origin}{path}");
}

fn check(
    grant: &ComponentGrant,
    method: &str,
    origin: &UrlOrigin,
    path: &str,
) -> Result<(), mcpp::grants::http::DeniedRequest> {
    let host = origin.host.to_string();
    grant.http.check(method, origin.scheme.as_str(), &host, Some(origin.port), path).map(drop)
}

pub const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
pub const ORIGINS: [&str; 8] = [
    "https://a.com",
    "http://a.com",
    "https://x.a.com",
    "https://y.x.a.com",
    "https://a.com:8443",
    "https://b.org",
    "http://127.0.0.1:8080",
    "http://[::1]:8080",
];
pub const PATHS: [&str; 8] = ["/", "/v1", "/v1/", "/v1/a", "/v1/../v2", "/v1/%2e%2e/v2", "/v2", "/v10"];
pub const ADDRESSES: [&str; 6] = ["1.1.1.1", "10.1.2.3", "127.0.0.1", "::1", "169.254.169.254", "2606:4700::1111"];
pub const TOOLS: [&str; 6] = ["a", "text_hash", "text_", "text", "b-c", "x"];
pub const TOPICS: [&str; 4] = ["orders/ordered", "orders/paid", "queue/done", "a/b"];
pub const SECRETS: [&str; 3] = ["API_KEY", "B", "C_1"];

fn pick<'a>(of: &[&'a str], random: &mut Random) -> &'a str {
    of[random.below(of.len())]
}

fn parse_origin(text: &str) -> UrlOrigin {
    UrlOrigin::try_from(text.to_owned()).expect("an origin")
}

fn parse_address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// All that a grant allows, of many things that one may ask.
fn allowed(grant: &ComponentGrant) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut note = |is_allowed: bool, what: String| is_allowed.then(|| all.insert(what));
    for tool in TOOLS {
        let name = ToolName::new(tool).expect("legal");
        let one_of = |patterns: &[ToolPattern]| patterns.iter().any(|pattern| pattern.matches(&name));
        note(one_of(&grant.call), format!("call {tool}"));
        note(grant.expose.as_ref().is_none_or(|expose| one_of(expose)), format!("expose {tool}"));
    }
    let own = ComponentName::new("own").expect("legal");
    for topic in TOPICS {
        let is_told = grant.subscribe.iter().any(|pattern| pattern.matches(&Topic::parse(topic, &own).expect("legal")));
        note(is_told, format!("topic {topic}"));
    }
    for origin in ORIGINS.map(parse_origin) {
        for name in SECRETS {
            note(grant.secrets.allow(&SecretName::new(name).expect("legal"), &origin), format!("{name} to {origin}"));
        }
        for (method, path) in METHODS.iter().flat_map(|method| PATHS.map(|path| (method, path))) {
            let request = check(grant, method, &origin, path).is_ok();
            note(request, format!("{method} {origin}{path}"));
            for address in ADDRESSES {
                let reached = grant.http.allows_address(method, &origin, path, parse_address(address)).is_ok();
                assert!(request || !reached, "an address of a request that is denied");
                note(reached, format!("{method} {origin}{path} at {address}"));
            }
        }
    }
    for folder in grant.files.iter() {
        note(true, format!("{:?} at {:?}, {}", folder.path, folder.at, folder.mode));
    }
    for (key, value) in &grant.config {
        note(true, format!("config {key} {value}"));
    }
    note(grant.store.is_some(), "store".to_owned());
    all
}

/// The grant with one thing less in it.
fn without_one(table: &Table, random: &mut Random) -> Option<Table> {
    let mut table = table.clone();
    let keys = ["expose", "call", "subscribe", "http", "files", "config", "secrets", "store"];
    let there: Vec<&str> = keys.into_iter().filter(|key| table.contains_key(*key)).collect();
    let key = *there.get(random.below(there.len()))?;
    match (key, table.get_mut(key)?) {
        (_, Value::Array(items)) if !items.is_empty() => drop(items.remove(random.below(items.len()))),
        ("config" | "secrets", Value::Table(of)) if !of.is_empty() => {
            let name = of.keys().nth(random.below(of.len()))?.clone();
            of.remove(&name);
        }
        ("store", _) => drop(table.remove("store")),
        _ => return None,
    }
    Some(table)
}
