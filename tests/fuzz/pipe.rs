//! A host's standard input and output, on which many messages are under way at once.

use std::{collections::BTreeMap, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{
    doors::PATIENCE,
    judge::{Checked, Outcome, answer_in, broken},
    messages::{Case, Expected},
};

/// A host's standard input and output.
#[derive(Debug)]
pub struct Pipe {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Requests of before that may still be answered, or go on: each gets the next batch's first cancellations.
    open: Awaited,
}

/// How many answers an id may have, at least and at most.
pub type Awaited = BTreeMap<String, (usize, usize)>;

impl Pipe {
    pub fn start(mcpp: &Path, folder: &Path, name: &str, more: &[&str]) -> Self {
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
        let mut child = Command::new(mcpp)
            .args(["serve", "--stdio", "--config", "mcpp.toml", "--tools", "tools", "--data", name])
            .args(more)
            .current_dir(folder)
            .env_remove("RUST_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, output, open: Awaited::new() }
    }

    /// Sends those cases that may be sent here, a line each; what each came to whose id is its own. The plain call goes last.
    pub async fn run(
        &mut self,
        cases: &[Case],
        may: impl Fn(&Case) -> bool,
        plain: &Value,
    ) -> Checked<Vec<Option<Outcome>>> {
        let sent: Vec<&Case> = cases.iter().filter(|case| !case.body.contains(&b'\n') && may(case)).collect();
        let cancelled: Vec<Value> = sent.iter().filter_map(|case| case.cancels()).collect();
        let (mut awaited, mut without_id) = (Awaited::new(), 0);
        for case in &sent {
            let (id, least) = match case.expected() {
                Expected::Answer(id) => (id.clone(), usize::from(!cancelled.contains(&id))),
                Expected::AnswerOrNone(id) => (id, 0),
                Expected::ErrorWithoutId => {
                    // An empty line is none.
                    without_id += usize::from(!case.body.trim_ascii().is_empty());
                    continue;
                }
                Expected::Nothing => continue,
            };
            let (at_least, at_most) = awaited.entry(id.to_string()).or_default();
            (*at_least, *at_most) = (*at_least + least, *at_most + 1);
        }
        let plain_id = plain["id"].to_string();
        awaited.insert(plain_id.clone(), (1, 1));
        let mut lines: Vec<Vec<u8>> = self.open.keys().map(|id| cancellation(id)).collect();
        lines.extend(sent.iter().map(|case| case.body.clone()));
        lines.push(plain.to_string().into_bytes());
        let alone = |id: &str| awaited.get(id) == Some(&(1, 1)) && !self.open.contains_key(id);
        let alone: Vec<Option<String>> = cases
            .iter()
            .map(|case| match case.expected() {
                Expected::Answer(id) => Some(id.to_string()).filter(|id| alone(id)),
                _ => None,
            })
            .collect();
        let mut said = timeout(PATIENCE, self.exchange(&lines, &mut awaited, without_id))
            .await
            .unwrap_or_else(|_| broken(None, format!("these are not answered: {awaited:?}")))?;
        self.open = awaited.into_iter().filter(|(_, (_, at_most))| *at_most > 0).collect();
        let plain = said.remove(&plain_id);
        if !matches!(&plain, Some(Outcome::Answered(result)) if result["structuredContent"]["result"] == 42) {
            return broken(None, format!("a plain call came to {plain:?}"));
        }
        Ok(alone.into_iter().map(|id| said.get(&id?).cloned()).collect())
    }

    /// Writes lines, and reads until all is answered that must be.
    pub async fn exchange(
        &mut self,
        lines: &[Vec<u8>],
        awaited: &mut Awaited,
        mut without_id: usize,
    ) -> Checked<BTreeMap<String, Outcome>> {
        let (input, output, open) = (&mut self.input, &mut self.output, &mut self.open);
        let text = [lines.join(&b'\n'), b"\n".to_vec()].concat();
        let write =
            async { input.write_all(&text).await.or_else(|error| broken(None, format!("the host is gone: {error}"))) };
        let read = async {
            let mut said = BTreeMap::new();
            while without_id > 0 || awaited.values().any(|(at_least, _)| *at_least > 0) {
                let Ok(Some(line)) = output.next_line().await else { return broken(None, "the host has gone") };
                let message: Value = match serde_json::from_str(&line) {
                    Ok(message) => message,
                    Err(error) => return broken(None, format!("a line that is no message ({error}): {line}")),
                };
                let answer = answer_in(&message).or_else(|why| broken(None, format!("{why}: {line}")))?;
                let Some((id, outcome)) = answer else { continue };
                let Some(id) = id.map(|id| id.to_string()) else {
                    let Some(less) = without_id.checked_sub(1) else {
                        return broken(None, format!("one error without an id too many: {line}"));
                    };
                    without_id = less;
                    continue;
                };
                if let Some((at_least, at_most)) = awaited.get_mut(&id).filter(|(_, at_most)| *at_most > 0) {
                    (*at_least, *at_most) = (at_least.saturating_sub(1), *at_most - 1);
                } else if let Some((_, at_most)) = open.get_mut(&id).filter(|(_, at_most)| *at_most > 0) {
                    *at_most -= 1;
                    continue;
                } else {
                    return broken(None, format!("an answer that nobody waits for: {line}"));
                }
                said.insert(id, outcome);
            }
            Ok(said)
        };
        let (written, said) = tokio::join!(write, read);
        written?;
        said
    }

    /// Closes the client's end; the host must end by itself, and well.
    pub async fn close(mut self) {
        drop(self.input);
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it ends");
        assert!(status.success(), "{status}");
    }
}

/// Ends a request that is open.
fn cancellation(id: &str) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#).into_bytes()
}
