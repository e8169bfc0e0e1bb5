//! Upstream servers for components that make requests, good and nasty ones, and a host whose resolver a test decides.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::Duration,
};

use futures::future::BoxFuture;
use mcpp::{
    capability::http::{Resolve, Resolver},
    config::Config,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::support::{TestHost, folder, grant, guest};

/// An upstream's answer to a request's head.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Writes the first, then the second again and again.
    Endless(Vec<u8>, Vec<u8>),
    /// Writes the first, then the second again and again, with pauses.
    Trickle(Vec<u8>, Vec<u8>, Duration),
    /// Writes this and then nothing, until the other side goes.
    Silence(Vec<u8>),
}

/// A whole answer with status 200.
pub fn ok(body: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// An answer as it is written.
pub fn raw(text: &str) -> Answer {
    Answer::Bytes(text.as_bytes().to_vec())
}

/// A server that a test knows from the inside.
#[derive(Debug, Clone)]
pub struct Upstream {
    pub port: u16,
    connections: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Upstream {
    /// On 127.0.0.1.
    pub async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::at("127.0.0.1", 0, answer).await
    }

    pub async fn at(address: &str, port: u16, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((address, port)).await.expect("a port");
        Self::serve(listener, None, answer)
    }

    /// One that answers before it is asked.
    pub async fn rude(bytes: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let upstream = Self { port, connections: Arc::default(), left: Arc::default(), requests: Arc::default() };
        let it = upstream.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                it.connections.fetch_add(1, SeqCst);
                let _it_may_have_gone = stream.write_all(bytes).await;
            }
        });
        upstream
    }

    /// With TLS.
    pub async fn secure(
        tls: tokio_rustls::TlsAcceptor,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::serve(listener, Some(tls), answer)
    }

    fn serve(
        listener: TcpListener,
        tls: Option<tokio_rustls::TlsAcceptor>,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().expect("an address").port();
        let upstream = Self { port, connections: Arc::default(), left: Arc::default(), requests: Arc::default() };
        let (it, answer) = (upstream.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                it.connections.fetch_add(1, SeqCst);
                let (it, answer, tls) = (it.clone(), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => it.converse(stream, &*answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                it.converse(stream, &*answer).await;
                            }
                        }
                    }
                    it.left.fetch_add(1, SeqCst);
                });
            }
        });
        upstream
    }

    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answer: &(impl Fn(&str) -> Answer + ?Sized),
    ) {
        let Some(request) = read_request(&mut stream).await else { return };
        let answer = answer(&request);
        self.requests.lock().unwrap().push(request);
        let _it_may_have_gone = match answer {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await,
            Answer::Endless(first, again) => repeat(&mut stream, &first, &again, Duration::ZERO).await,
            Answer::Trickle(first, again, pause) => repeat(&mut stream, &first, &again, pause).await,
            Answer::Silence(first) => {
                let written = stream.write_all(&first).await;
                let mut rest = Vec::new();
                let _until_it_goes = stream.read_to_end(&mut rest).await;
                written
            }
        };
        let _closed = stream.shutdown().await;
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    /// Connections that have ended.
    pub fn left(&self) -> usize {
        self.left.load(SeqCst)
    }

    /// The requests so far, as they came.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn repeat(stream: &mut (impl AsyncWrite + Unpin), first: &[u8], again: &[u8], pause: Duration) -> io::Result<()> {
    stream.write_all(first).await?;
    loop {
        stream.write_all(again).await?;
        stream.flush().await?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// The head, and the body if it says how long it is.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if bytes.len() >= end + 4 + length.unwrap_or_default() {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A resolver that says what a test wants, one answer after the other; the last one for ever.
#[derive(Debug, Default)]
pub struct Names {
    answers: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse =
            |addresses: &&[&str]| addresses.iter().map(|address| address.parse().expect("an address")).collect();
        self.answers.lock().unwrap().insert(name.to_owned(), answers.iter().map(parse).collect());
    }

    /// The names that were looked up.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(name.to_owned());
            let mut answers = self.answers.lock().unwrap();
            let known = answers.get_mut(name).ok_or_else(|| io::Error::other("no such name"))?;
            Ok(if known.len() > 1 { known.remove(0) } else { known[0].clone() })
        })
    }
}

/// A host with the component `web` and a resolver that knows `api.test` as 127.0.0.1.
pub struct WebHost {
    pub host: TestHost,
    pub names: Arc<Names>,
}

impl WebHost {
    /// With these grants below `[components.web]`.
    pub async fn start(grants: &str) -> Self {
        Self::start_with(grants, |_| {}).await
    }

    pub async fn start_with(grants: &str, change: impl FnOnce(&mut Config)) -> Self {
        log();
        let folder = folder(&[("web", &guest("web"))]);
        grant(&folder, &format!("[components.web]\nstore = {{}}\n{grants}"));
        let names = Arc::new(Names::default());
        names.set("api.test", &[&["127.0.0.1"]]);
        let resolver = Resolver::new(names.clone());
        let host = TestHost::start_with(folder, |config| {
            config.outbound.resolver = resolver;
            change(config);
        })
        .await;
        assert_eq!(host.problems(), "");
        Self { host, names }
    }

    /// Makes a request to `/` of an upstream as `api.test`.
    pub async fn get(&self, upstream: &Upstream) -> String {
        self.fetch("GET", &format!("http://api.test:{}/", upstream.port)).await
    }

    /// Makes one request; what the tool said.
    pub async fn fetch(&self, method: &str, url: &str) -> String {
        self.fetch_with(method, url, json!({})).await
    }

    pub async fn fetch_with(&self, method: &str, url: &str, more: Value) -> String {
        let mut arguments = json!({ "method": method, "url": url });
        for (name, value) in more.as_object().into_iter().flatten() {
            arguments[name] = value.clone();
        }
        self.host.text("web_fetch", arguments).await
    }
}

/// A host and an upstream for each of these answers.
pub async fn upstreams(answers: Vec<Answer>, change: impl FnOnce(&mut Config)) -> (Vec<Upstream>, WebHost) {
    let mut upstreams = Vec::new();
    for answer in answers {
        upstreams.push(Upstream::start(move |_| answer.clone()).await);
    }
    let grants: String = upstreams.iter().map(|upstream| rule(upstream.port)).collect();
    (upstreams, WebHost::start_with(&grants, change).await)
}

/// A rule for `api.test` on this port, and loopback for it.
pub fn rule(port: u16) -> String {
    format!(
        "[[components.web.http]]\nurl = 'http://api.test:{port}'\nmethods = ['GET', 'POST']\naddresses = ['127.0.0.1/32']\n"
    )
}

pub const DENIED: &str = "error: the request is denied: no grant allows it";

static LOG: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();

/// The host's log in this process.
pub fn log() -> String {
    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = LOG.get_or_init(|| {
        let lines = Lines(Arc::default());
        let writer = lines.clone();
        let _only_the_first = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_env_filter("debug,wasmtime=warn,wasmtime_internal_cranelift=warn,cranelift_codegen=warn")
            .with_writer(move || writer.clone())
            .try_init();
        lines.0
    });
    String::from_utf8_lossy(&log.lock().unwrap()).into_owned()
}
