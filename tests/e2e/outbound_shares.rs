//! Outbound connections and look-ups: one tenant's slow upstream, or slow names, leave the others theirs.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use futures::future::BoxFuture;
use mcpp::{
    capability::http::{Resolve, Resolver},
    config::Config,
    names::TenantId,
    tenant::home::Homes,
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    support::{TestHost, folder, guest},
    tenants::{User, team},
    upstream::{Answer, Upstream, ok},
};

/// A resolver that knows `api.test` at once and `slow.test` when it is told so.
#[derive(Debug, Default)]
struct Slow {
    asked: AtomicUsize,
    answered: AtomicUsize,
    now: Notify,
}

impl Resolve for Slow {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            if name == "slow.test" {
                self.asked.fetch_add(1, SeqCst);
                self.now.notified().await;
                self.answered.fetch_add(1, SeqCst);
            }
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        })
    }
}

fn id(name: &str) -> TenantId {
    TenantId::new(name).expect("legal")
}

/// A host with two tenants that each have the component `web`, and may ask these ports as any name.
async fn two_tenants(ports: &[u16], names: Arc<Slow>, change: impl FnOnce(&mut Config)) -> (TestHost, [User; 2]) {
    let files = folder(&[]);
    let data = files.path().join("data");
    let tokens = ["greedy", "modest"].map(|name| team(&data, name, &[("web", &guest("web"))]));
    let rules: String = ports
        .iter()
        .flat_map(|port| {
            ["api", "slow"]
                .map(|name| format!("[[http]]\nurl = 'http://{name}.test:{port}'\naddresses = ['127.0.0.1/32']\n"))
        })
        .collect();
    for name in ["greedy", "modest"] {
        let home = Homes::new(data.clone()).of(&id(name));
        std::fs::create_dir_all(home.grants()).expect("made");
        std::fs::write(home.grants().join("web.toml"), format!("version = 1\nstore = {{}}\n{rules}")).expect("written");
    }
    let host = TestHost::start_with(files, |config| {
        config.outbound.resolver = Resolver::new(names);
        config.engine.max_running = 64;
        config.engine.max_waiting = 64;
        change(config);
    })
    .await;
    let users = [&tokens[0], &tokens[1]].map(|token| User::new(&host, token));
    (host, users)
}

/// Calls `web_fetch` so many times at once.
fn fetch(user: &User, url: &str, times: usize) -> Vec<tokio::task::JoinHandle<String>> {
    let one = || {
        let (user, url) = (user.clone(), url.to_owned());
        tokio::spawn(async move { user.text("web_fetch", json!({ "method": "GET", "url": url })).await })
    };
    (0..times).map(|_| one()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upstream_of_one_tenant_does_not_take_the_connections_of_the_others() {
    let silent = Upstream::start(|_| Answer::Silence(Vec::new())).await;
    let good = Upstream::start(|_| ok("hello")).await;
    let names = Arc::new(Slow::default());
    let (host, [greedy, modest]) =
        two_tenants(&[silent.port, good.port], names, |config| config.outbound.max_connections = 8).await;
    let slow = fetch(&greedy, &format!("http://api.test:{}/", silent.port), 20);
    let admission = host.host.registry().admission();
    host.until("all wait", async |_| admission.of(&id("greedy")).1 == 20).await;
    let taken = |name: &str| host.host.registry().outbound().taken(&id(name)).0;
    host.until("it has half", async |_| silent.connections() == 4).await;
    assert_eq!(taken("greedy"), 4, "half of them, and sixteen calls in its own line");
    for _ in 0..10 {
        let url = format!("http://api.test:{}/", good.port);
        let text = modest.text("web_fetch", json!({ "method": "GET", "url": url })).await;
        assert!(text.contains("hello"), "{text}");
    }
    assert_eq!(silent.connections(), 4);
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    host.until("all is given back", async |_| taken("greedy") == 0 && taken("modest") == 0).await;
    let url = format!("http://api.test:{}/", good.port);
    assert!(greedy.text("web_fetch", json!({ "method": "GET", "url": url })).await.contains("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_names_of_one_tenant_do_not_take_the_look_ups_of_the_others() {
    let good = Upstream::start(|_| ok("hello")).await;
    let names = Arc::new(Slow::default());
    let (host, [greedy, modest]) =
        two_tenants(&[good.port], Arc::clone(&names), |config| config.outbound.max_lookups = 4).await;
    let slow = fetch(&greedy, &format!("http://slow.test:{}/", good.port), 12);
    let admission = host.host.registry().admission();
    host.until("all wait", async |_| admission.of(&id("greedy")).1 == 12).await;
    host.until("it has half", async |_| names.asked.load(SeqCst) == 2).await;
    let url = format!("http://api.test:{}/", good.port);
    for _ in 0..10 {
        let text = modest.text("web_fetch", json!({ "method": "GET", "url": url })).await;
        assert!(text.contains("hello"), "{text}");
    }
    assert_eq!(names.asked.load(SeqCst), 2, "ten are in the tenant's own line");
    // Calls that go away leave their look-ups, which nobody can stop; these count until they end.
    slow.iter().for_each(tokio::task::JoinHandle::abort);
    host.until("the calls are over", async |_| admission.of(&id("greedy")) == (0, 0, 0)).await;
    let taken = || host.host.registry().outbound().taken(&id("greedy"));
    assert_eq!(taken(), (0, 2));
    host.until("they end", async |_| {
        names.now.notify_waiters();
        taken() == (0, 0)
    })
    .await;
    assert_eq!((names.asked.load(SeqCst), names.answered.load(SeqCst)), (2, 2));
}
