//! A container engine for tests: it speaks the engine's API over HTTP/1.1 on a Unix socket as the real one does, and runs little scripts instead of programs.
//!
//! The first word of a container's command says what its program does:
//! `say` writes its words, `fail` writes to its standard error and ends with a number, `work` writes a line and runs until it is killed, `flood` writes without end,
//! `drip` writes bytes one by one, `big` is killed by the kernel for its memory, `fill` has files of so many bytes, `break` has the engine break off.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use super::speech::{Request, head, read_request, refuse, respond};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// An image that a build's story names, and the bytes of the layer that the build made.
const LAYERED: &str = "1a2b3c4d5e6f";
const LAYER_BYTES: u64 = 3 << 20;
/// The container of a build's step, and the bytes of its files.
const STEP: &str = "f6e5d4c3b2a1";
const STEP_BYTES: u64 = 5 << 30;

/// How the engine behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    #[default]
    Well,
    /// It takes connections and says nothing.
    Silent,
    /// It hangs up.
    Away,
    /// It answers with what is no JSON.
    Garbage,
    /// It answers without end.
    Endless,
    /// Its frames say that they have four gigabytes.
    Giant,
    /// It refuses to remove anything.
    Stubborn,
}

#[derive(Debug, Clone)]
pub struct Container {
    /// What the host asked for.
    pub body: Value,
    /// The code, once it has ended.
    ended: watch::Sender<Option<i64>>,
    started: watch::Sender<bool>,
    is_out_of_memory: bool,
}

#[derive(Debug, Default)]
pub struct State {
    pub mood: Mood,
    /// The images that are there, and those that a registry has.
    pub images: Vec<String>,
    pub registry: Vec<String>,
    pub containers: BTreeMap<String, Container>,
    /// Labels of images.
    pub labels: BTreeMap<String, Value>,
    /// Every request: method and target.
    pub seen: Vec<String>,
    /// The bodies of all containers that were ever made.
    pub made: Vec<Value>,
}

#[derive(Clone)]
pub struct Engine {
    state: Arc<Mutex<State>>,
    socket: PathBuf,
}

impl Engine {
    /// An engine on a socket in `folder`, with one image there and one more in its registry.
    pub fn start(folder: &Path) -> Self {
        let socket = folder.join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = State {
            images: vec!["here:1".into()],
            registry: vec!["far:1".into(), "python:latest".into()],
            ..State::default()
        };
        let engine = Self { state: Arc::new(Mutex::new(state)), socket };
        let serving = engine.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let engine = serving.clone();
                tokio::spawn(async move { engine.serve(stream).await });
            }
        });
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    /// How many requests began so.
    pub fn count(&self, start: &str) -> usize {
        self.state().seen.iter().filter(|request| request.starts_with(start)).count()
    }

    /// Puts a container there that another program, or a killed host, has made.
    pub fn add_container(&self, name: &str, labels: Value) {
        let container = Container {
            body: json!({ "Labels": labels }),
            ended: watch::Sender::new(None),
            started: watch::Sender::new(true),
            is_out_of_memory: false,
        };
        self.state().containers.insert(name.to_owned(), container);
    }

    async fn serve(&self, mut stream: UnixStream) -> Option<()> {
        let request = read_request(&mut stream).await?;
        let mood = {
            let mut state = self.state();
            let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            state.seen.push(format!("{} {}?{}", request.method, request.path, query.join("&")));
            state.mood
        };
        match mood {
            Mood::Silent => std::future::pending::<()>().await,
            Mood::Away => return None,
            Mood::Garbage => return respond(&mut stream, 200, "{\"Id\": nonsense").await,
            Mood::Endless => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n[\"")
                    .await
                    .ok()?;
                while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
                return None;
            }
            Mood::Well | Mood::Giant | Mood::Stubborn => {}
        }
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["images", "json"]) => {
                let listed: Vec<Value> = self.labelled_images(&request);
                respond(&mut stream, 200, &json!(listed).to_string()).await
            }
            ("GET", ["images", LAYERED, "history"]) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
                let layer = |created: u64, size: u64| json!({ "Id": "<missing>", "Created": created, "CreatedBy": "RUN", "Tags": null, "Size": size, "Comment": "" });
                let history = json!([layer(now + 1, LAYER_BYTES), layer(1_000_000_000, 1 << 40)]);
                respond(&mut stream, 200, &history.to_string()).await
            }
            ("GET", ["containers", STEP, "json"]) => {
                respond(&mut stream, 200, &json!({ "Id": STEP, "SizeRw": STEP_BYTES }).to_string()).await
            }
            ("GET", ["images", name @ .., "json"]) => {
                let (name, there) = (name.join("/"), self.has_image(&name.join("/")));
                match there {
                    true => {
                        let image = json!({ "Id": format!("sha256:{name}"), "Config": { "Volumes": { "/data": {}, "/own": {} } } });
                        respond(&mut stream, 200, &image.to_string()).await
                    }
                    false => refuse(&mut stream, 404, &format!("No such image: {name}")).await,
                }
            }
            ("POST", ["images", "create"]) => self.pull(&mut stream, &request).await,
            ("DELETE", ["images", name]) => {
                let there = {
                    let mut state = self.state();
                    state.labels.remove(*name);
                    let before = state.images.len();
                    state.images.retain(|known| known != name);
                    state.images.len() < before
                };
                if there {
                    respond(&mut stream, 200, "[]").await
                } else {
                    refuse(&mut stream, 404, "No such image").await
                }
            }
            ("POST", ["build"]) => self.build(&mut stream, &request).await,
            ("GET", ["containers", "json"]) => {
                let listed = self.labelled(&request);
                respond(&mut stream, 200, &json!(listed).to_string()).await
            }
            ("POST", ["containers", "create"]) => self.create(&mut stream, &request).await,
            (method, ["containers", name, rest @ ..]) => {
                let (name, container) = ((*name).to_owned(), self.state().containers.get(*name).cloned());
                let Some(container) = container else {
                    return refuse(&mut stream, 404, &format!("No such container: {name}")).await;
                };
                match (method, rest) {
                    ("POST", ["attach"]) => attach(stream, container, mood).await,
                    ("POST", ["start"]) => {
                        self.begin(&name, &container);
                        respond(&mut stream, 204, "").await
                    }
                    ("POST", ["wait"]) => {
                        head(&mut stream, 200).await?;
                        let code = (*container.ended.subscribe().wait_for(Option::is_some).await.ok()?)?;
                        stream.write_all(json!({ "StatusCode": code }).to_string().as_bytes()).await.ok()
                    }
                    ("GET", ["json"]) => {
                        let killed = self.state().containers.get(&name).is_some_and(|now| now.is_out_of_memory);
                        let mut seen = json!({ "State": { "OOMKilled": killed } });
                        if request.query.get("size").is_some_and(|size| size == "true") && word(&container, 0) == "fill"
                        {
                            seen["SizeRw"] = json!(word(&container, 1).parse::<u64>().unwrap_or_default());
                        }
                        respond(&mut stream, 200, &seen.to_string()).await
                    }
                    ("POST", ["kill"]) if container.ended.borrow().is_some() => {
                        refuse(&mut stream, 409, "container is not running").await
                    }
                    ("POST", ["kill"]) => {
                        container.ended.send_replace(Some(137));
                        respond(&mut stream, 204, "").await
                    }
                    ("DELETE", []) if mood == Mood::Stubborn => refuse(&mut stream, 500, "device is busy").await,
                    ("DELETE", []) => {
                        container.ended.send_if_modified(|code| code.is_none() && code.replace(137).is_none());
                        self.state().containers.remove(&name);
                        respond(&mut stream, 204, "").await
                    }
                    _ => refuse(&mut stream, 404, "page not found").await,
                }
            }
            _ => refuse(&mut stream, 404, "page not found").await,
        }
    }

    fn has_image(&self, name: &str) -> bool {
        self.state().images.iter().any(|known| known == name)
    }

    /// The containers with the label that a request asks for.
    fn labelled(&self, request: &Request) -> Vec<Value> {
        let wanted = wanted_label(request);
        let state = self.state();
        let has = |labels: &Value| wanted.as_ref().is_none_or(|(name, value)| labels[name] == json!(value));
        let found = state.containers.iter().filter(|(_, container)| has(&container.body["Labels"]));
        found.map(|(name, _)| json!({ "Id": name, "Names": [format!("/{name}")] })).collect()
    }

    fn labelled_images(&self, request: &Request) -> Vec<Value> {
        let wanted = wanted_label(request);
        let state = self.state();
        let has = |labels: &Value| wanted.as_ref().is_none_or(|(name, value)| labels[name] == json!(value));
        let image = |name: &String| {
            json!({
                "Id": name, "ParentId": "", "RepoTags": [format!("{name}:latest")], "RepoDigests": [], "Created": 0, "Size": 1,
                "SharedSize": -1, "Labels": {}, "Containers": -1,
            })
        };
        state.labels.iter().filter(|(_, labels)| has(labels)).map(|(name, _)| image(name)).collect()
    }

    async fn pull(&self, stream: &mut UnixStream, request: &Request) -> Option<()> {
        let name = request.query.get("fromImage").cloned().unwrap_or_default();
        let known = self.state().registry.contains(&name);
        head(stream, 200).await?;
        let steps = match known {
            true => vec![
                json!({ "status": "Pulling from library", "id": "1" }),
                json!({ "status": "Downloading", "progressDetail": { "current": 1, "total": 2 }, "id": "layer" }),
                json!({ "status": format!("Status: Downloaded newer image for {name}") }),
            ],
            false => vec![json!({ "errorDetail": { "message": "manifest unknown" }, "error": "manifest unknown" })],
        };
        for step in steps {
            stream.write_all(format!("{step}\r\n").as_bytes()).await.ok()?;
        }
        if known {
            self.state().images.push(name);
        }
        Some(())
    }

    async fn build(&self, stream: &mut UnixStream, request: &Request) -> Option<()> {
        let field = |name: &str| request.query.get(name).cloned().unwrap_or_default();
        head(stream, 200).await?;
        stream.write_all(format!("{}\r\n", json!({ "stream": "Step 1/1 : FROM here\n" })).as_bytes()).await.ok()?;
        if field("dockerfile").contains("broken") {
            let error = json!({ "errorDetail": { "code": 1, "message": "RUN returned 1" }, "error": "RUN returned 1" });
            return stream.write_all(format!("{error}\r\n").as_bytes()).await.ok();
        }
        let says = match field("dockerfile") {
            file if file.contains("layers") => format!(" ---> {LAYERED}\n"),
            file if file.contains("fills") => format!(" ---> Running in {STEP}\n"),
            _ => String::new(),
        };
        stream.write_all(format!("{}\r\n", json!({ "stream": says })).as_bytes()).await.ok()?;
        if says.contains(STEP) {
            // It runs until the host goes.
            return stream.read_u8().await.ok().map(drop);
        }
        let mut state = self.state();
        state.labels.insert(field("t"), serde_json::from_str(&field("labels")).unwrap_or_default());
        state.images.push(field("t"));
        Some(())
    }

    async fn create(&self, stream: &mut UnixStream, request: &Request) -> Option<()> {
        let name = request.query.get("name").cloned().unwrap_or_default();
        let image = request.body["Image"].as_str().unwrap_or_default().to_owned();
        if !self.has_image(&image) {
            return refuse(stream, 404, &format!("No such image: {image}")).await;
        }
        let container = Container {
            body: request.body.clone(),
            ended: watch::Sender::new(None),
            started: watch::Sender::new(false),
            is_out_of_memory: false,
        };
        {
            let mut state = self.state();
            state.made.push(request.body.clone());
            state.containers.insert(name.clone(), container);
        }
        respond(stream, 201, &json!({ "Id": name, "Warnings": [] }).to_string()).await
    }

    fn begin(&self, name: &str, container: &Container) {
        container.started.send_replace(true);
        if word(container, 0) == "big" {
            self.state().containers.entry(name.to_owned()).and_modify(|now| now.is_out_of_memory = true);
        }
    }
}

fn wanted_label(request: &Request) -> Option<(String, String)> {
    let filters: Value = serde_json::from_str(request.query.get("filters")?).ok()?;
    let (name, value) = filters["label"][0].as_str()?.split_once('=')?;
    Some((name.to_owned(), value.to_owned()))
}

fn word(container: &Container, at: usize) -> &str {
    container.body["Cmd"][at].as_str().unwrap_or_default()
}

fn frame(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("small").to_be_bytes();
    [&[stream, 0, 0, 0], &length[..], bytes].concat()
}

/// The program of a container: what it writes, on the connection of the one who listens.
async fn attach(mut stream: UnixStream, container: Container, mood: Mood) -> Option<()> {
    let upgrade = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).await.ok()?;
    container.started.subscribe().wait_for(|started| *started).await.ok()?;
    if mood == Mood::Giant {
        stream.write_all(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).await.ok()?;
        while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
        return None;
    }
    let mut ended = container.ended.subscribe();
    let program = async {
        match word(&container, 0) {
            "fail" => {
                stream.write_all(&frame(2, b"it went wrong\n")).await.ok()?;
                word(&container, 1).parse().ok()
            }
            "work" | "fill" => {
                stream.write_all(&frame(1, b"working\n")).await.ok()?;
                std::future::pending().await
            }
            "flood" => {
                while stream.write_all(&frame(1, &[b'x'; 8 << 10])).await.is_ok() {}
                std::future::pending().await
            }
            "drip" => {
                let many: usize = word(&container, 1).parse().ok()?;
                for _ in 0..many {
                    stream.write_all(&frame(1, b".")).await.ok()?;
                }
                Some(0)
            }
            "big" => Some(137),
            "break" => {
                stream.write_all(&[1, 0, 0]).await.ok()?;
                None
            }
            _ => {
                let words: Vec<&str> =
                    (1..).map(|at| word(&container, at)).take_while(|word| !word.is_empty()).collect();
                // In two frames, as a program that writes twice.
                stream.write_all(&frame(1, words.join(" ").as_bytes())).await.ok()?;
                stream.write_all(&frame(1, b"\n")).await.ok()?;
                Some(0)
            }
        }
    };
    tokio::select! {
        code = program => { container.ended.send_if_modified(|ended| code.is_some() && { *ended = code; true }); }
        _ = ended.wait_for(Option::is_some) => {}
    }
    stream.shutdown().await.ok()
}
