//! `mcpp secret`: a tenant's secrets, on the files themselves. A running host sees a change at the next use.

use std::io::{IsTerminal as _, Read as _, Write as _};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Operator, print, print_json};
use crate::{
    secrets::{KeySource, MAX_VALUE_BYTES, SecretName, Secrets},
    tenant::home::Homes,
};

#[derive(Debug, Args)]
pub(super) struct Secret {
    #[command(subcommand)]
    action: SecretAction,
}

impl Operator {
    fn secrets(&self) -> anyhow::Result<Secrets> {
        let homes = Homes::new(self.data_dir()?);
        let key = KeySource::new(homes.data(), |name| std::env::var(name).ok());
        Ok(Secrets::new(&homes.find(&self.tenant)?, key))
    }
}

#[derive(Debug, Subcommand)]
enum SecretAction {
    /// Set a secret. Its value comes from standard input, or is typed without echo
    Set {
        /// Its name, such as API_KEY
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// List the names of the secrets
    List {
        #[command(flatten)]
        operator: Operator,
    },
    /// Remove a secret
    Remove {
        /// Its name
        name: String,
        #[command(flatten)]
        operator: Operator,
    },
}

impl Secret {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self.action {
            SecretAction::Set { name, operator } => {
                let name = SecretName::new(&name)?;
                operator.secrets()?.set(&name, &value(&name)?)?;
                Ok(0)
            }
            SecretAction::List { operator } => {
                let names = operator.secrets()?.list()?;
                let names: Vec<&str> = names.iter().map(SecretName::as_str).collect();
                if operator.json {
                    print_json(&names)?;
                } else if !names.is_empty() {
                    print(&names.join("\n"))?;
                }
                Ok(0)
            }
            SecretAction::Remove { name, operator } => {
                let name = SecretName::new(&name)?;
                anyhow::ensure!(operator.secrets()?.remove(&name)?, "there is no secret {name}");
                Ok(0)
            }
        }
    }
}

/// The value: never from the command line, where every other program could read it.
fn value(name: &SecretName) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let stdin = std::io::stdin();
    // All the room at once: a buffer that grows leaves copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(MAX_VALUE_BYTES.saturating_add(16)));
    if !stdin.is_terminal() {
        let most = u64::try_from(MAX_VALUE_BYTES).unwrap_or(u64::MAX).saturating_add(8);
        stdin.lock().take(most).read_to_end(&mut value).context("cannot read standard input")?;
        return Ok(value);
    }
    let _until_dropped = Silence::begin().context("cannot switch off the terminal's echo")?;
    eprint!("{name}: ");
    std::io::stderr().flush()?;
    for byte in stdin.lock().bytes() {
        let byte = byte?;
        if byte == b'\n' || value.len() > MAX_VALUE_BYTES {
            break;
        }
        value.push(byte);
    }
    eprintln!();
    Ok(value)
}

/// A terminal that does not show what is typed.
struct Silence(Termios);

impl Silence {
    fn begin() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Now, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _nothing_else_to_do = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
