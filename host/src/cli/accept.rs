//! `mcpp accept`: an operator looks at what is new in a build and lets it serve.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;

use super::{Operator, clean, print, print_json, remote::tell};
use crate::{
    admin::Acceptance,
    reload::{Report, accept::Waiting},
};

#[derive(Debug, Args)]
pub(super) struct Accept {
    /// The component; without it, all that waits is shown
    component: Option<String>,
    /// Accept only this build, by its digest or the beginning of it
    #[arg(long, value_name = "DIGEST")]
    revision: Option<String>,
    /// Show what is new, and accept nothing
    #[arg(long)]
    show: bool,
    #[command(flatten)]
    operator: Operator,
}

impl Accept {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let mut waiting: Vec<Waiting> = self.operator.ask(Method::GET, "/waiting").await?;
        let Some(component) = &self.component else { return self.show(&waiting) };
        waiting.retain(|build| build.component == *component);
        let build = waiting.first().with_context(|| format!("no build of {component:?} waits to be accepted"))?;
        if self.revision.as_ref().is_some_and(|wanted| !build.digest.starts_with(wanted)) {
            bail!("the build that waits is {}", build.digest);
        }
        if self.show {
            return self.show(&waiting);
        }
        if std::io::stdin().is_terminal() && self.revision.is_none() {
            self.show(&waiting)?;
            tell(&format!("accept {component}? Type yes to go on:"));
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer)?;
            if answer.trim() != "yes" {
                bail!("nothing was accepted");
            }
        }
        // What was looked at, and nothing else: the file may have changed meanwhile.
        let acceptance = Acceptance { component: component.clone(), digest: build.digest.clone() };
        let report: Report = self.operator.tell("/accept", &acceptance).await?.json().await?;
        if let Some(error) = report.failed.get(component) {
            bail!("accepted, but it does not load: {}", clean(error));
        }
        if self.operator.json {
            print_json(build)?
        } else {
            print(&format!("accepted {component} {}", build.digest))?
        }
        Ok(0)
    }

    fn show(&self, waiting: &[Waiting]) -> anyhow::Result<u8> {
        if self.operator.json {
            print_json(&waiting)?;
            return Ok(0);
        }
        for build in waiting {
            print(&format!("{} {}", clean(&build.component), build.digest))?;
            for line in &build.difference {
                print(&format!("  {}", clean(line)))?;
            }
        }
        Ok(0)
    }
}
