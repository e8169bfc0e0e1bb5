//! From a save to the new build's answer, under `mcpp dev`.
//!
//! The steps come from the program's own output; the whole is from the end of the save to the whole answer, on this side. Time outside the steps is a row of its own.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    client::{Client, Era},
    print_row,
    project::{Language, Project},
};

/// Saves of texts that were never compiled before; then as many of texts that were.
const ROUNDS: usize = 10;
/// How long it is left alone after its first build.
const REST: Duration = Duration::from_secs(2);
/// A first build may install and compile a great deal.
const PATIENCE: Duration = Duration::from_secs(600);
/// Lines that may wait until somebody looks.
const LINES: usize = 1_000;
/// The steps that the program tells, in order; one of the two that compile is there.
const STEPS: [&str; 6] = ["noticed", "built", BASELINE, CACHED, "tools listed", "swapped"];
const BASELINE: &str = "compiled without optimization";
const CACHED: &str = "compiled before, read";
/// The program's line once optimized code serves.
const OPTIMIZED: &str = "optimized code serves now";

/// `mcpp dev`, and what it says.
struct Dev {
    child: Child,
    said: Receiver<String>,
}

impl Dev {
    fn start(project: &Project) -> Self {
        let mut command = project.command();
        command.arg("dev").arg(&project.folder).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("started");
        let (tell, said) = sync_channel(LINES);
        let stderr = child.stderr.take().expect("piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _nobody_may_listen_any_more = tell.send(line);
            }
        });
        Self { child, said }
    }

    /// Waits for the line that says that the newest build is live; why there is none.
    fn live(&self) -> Result<String, String> {
        self.hear(" is live on ")
    }

    /// Waits for a line with this in it.
    fn hear(&self, what: &str) -> Result<String, String> {
        let started = Instant::now();
        loop {
            match self.said.recv_timeout(PATIENCE.saturating_sub(started.elapsed())) {
                Ok(line) if line.contains(what) => return Ok(line),
                Ok(line) if line.starts_with("error: ") || line.starts_with("not live") => return Err(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err("it took too long".into()),
                Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
            }
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _it_may_have_ended = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT);
        let _it_may_have_ended = self.child.wait();
    }
}

/// A step's duration in the line that says that a build is live, in milliseconds.
fn step(line: &str, step: &str) -> Option<f64> {
    let (_, rest) = line.split_once(&format!("{step} in "))?;
    let mut words = rest.split([' ', ',', ')']);
    let number: f64 = words.next()?.parse().ok()?;
    Some(if words.next()? == "s" { number * 1e3 } else { number })
}

pub(crate) async fn save_to_serving(language: &Language) {
    let name = language.name;
    let project = Project::new(language);
    let dev = Dev::start(&project);
    let first = match dev.live() {
        Ok(line) => line,
        Err(reason) => return print_row(&format!("{name}: save → serving"), Err(&reason), "ms"),
    };
    let url = first.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL").to_owned();
    let client = Client::connect(url, Era::Modern).await;
    dev.hear(OPTIMIZED).unwrap_or_else(|reason| panic!("{name}: {reason}"));
    tokio::time::sleep(REST).await;
    for kind in ["a new text", "a text of before"] {
        let mut rows = Rows::default();
        for round in 0..ROUNDS {
            // An author does not save before the work of the save before has come to rest.
            tokio::time::sleep(Duration::from_millis(300)).await;
            let greeting = format!("Greeting number {round}: ");
            project.save(&greeting);
            let saved = Instant::now();
            let line = dev.live().unwrap_or_else(|reason| panic!("{name}: {reason}"));
            let asked = Instant::now();
            let answer = client.call(project.tool(), &json!({ "name": "World" })).await;
            let (answered, whole) = (millis(asked), millis(saved));
            assert!(answer.to_string().contains(&greeting), "{name}: {line}\n{answer}");
            let mut told = 0.0;
            for name in STEPS
                .into_iter()
                .filter(|name| (*name == CACHED) == line.contains(CACHED) || !name.starts_with("compiled"))
            {
                let took = step(&line, name).unwrap_or_else(|| panic!("no {name:?} in {line:?}"));
                rows.add(name, took);
                told += took;
            }
            rows.add("first answer", answered);
            rows.add("between the steps", whole - told - answered);
            rows.add("whole", whole);
            if line.contains(BASELINE) {
                let line = dev.hear(OPTIMIZED).unwrap_or_else(|reason| panic!("{name}: {reason}"));
                rows.add("optimized behind it", step(&line, "compiled").expect("a time"));
                rows.add("from the save to optimized code", millis(saved));
            }
        }
        for (step, mut times) in rows.0 {
            print_row(&format!("{name}, {kind}: {step}"), Ok(&mut times), "ms");
        }
    }
}

/// Times by what they are of, in the order in which that came.
#[derive(Default)]
struct Rows(Vec<(&'static str, Vec<f64>)>);

impl Rows {
    fn add(&mut self, what: &'static str, took: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, times)) => times.push(took),
            None => self.0.push((what, vec![took])),
        }
    }
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
