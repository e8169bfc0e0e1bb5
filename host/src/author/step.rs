//! One run of a tool of some language's, its words kept to be shown whole.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

use super::{build::ProjectBuildError, location::first_error};

/// The most that is kept of a tool's words. The rest is dropped, as the first error matters.
const MAX_SAID_BYTES: usize = 1 << 20;
/// The most that is kept of the data that a tool gives to a program.
const MAX_DATA_BYTES: usize = 64 << 20;

/// A tool to run.
#[derive(Debug)]
pub(super) struct BuildStep {
    program: OsString,
    arguments: Vec<OsString>,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
    /// The advice where the program is missing.
    needs: &'static str,
    output: StepOutput,
    /// A name for it other than its program's.
    name: Option<&'static str>,
}

/// The use of a tool's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepOutput {
    /// Words for the author, like its standard error.
    Words,
    /// Data for us.
    Data,
}

/// The output of a tool.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Its words.
    pub(super) said: String,
    /// Its data.
    pub(super) data: String,
}

impl BuildStep {
    /// `program` in `folder`; `needs` says what to install if there is none.
    pub(super) fn new(program: impl AsRef<OsStr>, folder: &Path, needs: &'static str) -> Self {
        let program = program.as_ref().to_owned();
        Self {
            program,
            arguments: Vec::new(),
            folder: folder.to_owned(),
            environment: Vec::new(),
            needs,
            output: StepOutput::Words,
            name: None,
        }
    }

    pub(super) fn arguments(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub(super) fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Calls it this where it fails: what an author would type, where we need more than that.
    pub(super) fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Keeps its standard output as data.
    pub(super) fn with_data(mut self) -> Self {
        self.output = StepOutput::Data;
        self
    }

    /// Runs it to its end. It is killed if the future is dropped.
    pub(super) async fn run(self) -> Result<Done, ProjectBuildError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(&self.folder).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let program = self.program.to_string_lossy().into_owned();
        let failed = |source| ProjectBuildError::Run { program: program.clone(), source };
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ProjectBuildError::Missing { program: program.clone(), needs: self.needs },
            _ => failed(source),
        })?;
        let (said, data) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (kept, room) = match self.output {
            StepOutput::Words => (&said, MAX_SAID_BYTES),
            StepOutput::Data => (&data, MAX_DATA_BYTES),
        };
        let (out, err, status) = tokio::join!(read(out, kept, room), read(err, &said, MAX_SAID_BYTES), child.wait());
        out.and(err).map_err(failed)?;
        let done = Done { said: text(said), data: text(data) };
        if status.map_err(failed)?.success() {
            return Ok(done);
        }
        let first = first_error(&done.said, &self.folder);
        Err(ProjectBuildError::Failed { command: self.command(), first, said: done.said })
    }

    /// The command, short enough for a line.
    fn command(&self) -> String {
        if let Some(name) = self.name {
            return name.to_owned();
        }
        let name = Path::new(&self.program).file_name().unwrap_or(&self.program);
        let words = [name].into_iter().chain(self.arguments.iter().map(OsString::as_os_str).take(3));
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &Mutex<Vec<u8>>, room: usize) -> std::io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut chunk = vec![0; 8 << 10];
    loop {
        let length = pipe.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = length.min(room.saturating_sub(kept.len()));
        kept.extend_from_slice(chunk.get(..fits).unwrap_or_default());
    }
}

fn text(bytes: Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.into_inner().unwrap_or_else(PoisonError::into_inner)).into_owned()
}
