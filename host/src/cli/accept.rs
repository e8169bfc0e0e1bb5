//! `mcpp accept`: an operator looks at the news of a build and lets it serve.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;

use super::{Operator, clean, print, print_json, remote::tell};
use crate::{
    admin::Acceptance,
    reload::{
        Report,
        accept::{Waiting, text::escaped},
    },
};

/// Bytes of one page: a few screens.
const PAGE_BYTES: usize = 16 << 10;

#[derive(Debug, Clone, Args)]
pub(super) struct Accept {
    /// The component, or with --mount the mount; without it, the command shows everything that waits
    component: Option<String>,
    /// Accept what peers of a mount offer
    #[arg(long)]
    mount: bool,
    /// Accept only this build, by its digest or the beginning of it
    #[arg(long, value_name = "DIGEST")]
    revision: Option<String>,
    /// Show what is new, and accept nothing
    #[arg(long)]
    show: bool,
    /// Show the whole of every text, not the part around its first difference
    #[arg(long)]
    full: bool,
    /// Which page to show, if there is more than one; all of them with 0
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    page: usize,
    #[command(flatten)]
    operator: Operator,
}

impl Accept {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let path = if self.mount { "/mounts/waiting" } else { "/waiting" };
        let mut waiting: Vec<Waiting> = self.operator.ask(Method::GET, path).await?;
        let Some(component) = &self.component else { return self.show(&waiting) };
        waiting.retain(|build| build.component == *component);
        let nothing = || format!("nothing of {component:?} waits to be accepted");
        let newest = waiting.first().with_context(nothing)?.digest.clone();
        waiting.retain(|build| self.revision.as_ref().is_none_or(|wanted| build.digest.starts_with(wanted)));
        let Some(build) = waiting.first() else { bail!("the build that waits is {newest}") };
        if self.show {
            return self.show(&waiting);
        }
        if std::io::stdin().is_terminal() && self.revision.is_none() {
            // The operator sees every page before accepting the build.
            let all = Self { page: 0, ..self.clone() };
            all.show(&waiting)?;
            tell(&format!("accept {component}? Type yes to go on:"));
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer)?;
            if answer.trim() != "yes" {
                bail!("nothing was accepted");
            }
        }
        // Exactly the build that was shown: the file may have changed meanwhile.
        let acceptance = Acceptance { component: component.clone(), digest: build.digest.clone() };
        if self.mount {
            self.operator.tell("/mounts/accept", &acceptance).await?;
        } else {
            let report: Report = self.operator.tell("/accept", &acceptance).await?.json().await?;
            if let Some(error) = report.failed.get(component) {
                bail!("accepted, but it does not load: {}", clean(error));
            }
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
        let mut lines = Vec::new();
        for build in waiting {
            lines.push(format!("{} {}", escaped(&build.component), build.digest));
            if self.full {
                lines.extend(build.changes.iter().map(|change| format!("  {}", change.full())));
            } else {
                lines.extend(build.difference.iter().map(|line| format!("  {line}")));
            }
        }
        let pages = pages(lines);
        let shown = pages.iter().enumerate().filter(|(at, _)| self.page == 0 || at.saturating_add(1) == self.page);
        for (at, page) in shown {
            page.iter().try_for_each(|line| print(line))?;
            if self.page != 0 && pages.len() > 1 {
                let (at, all) = (at.saturating_add(1), pages.len());
                tell(&format!("page {at} of {all}; --page NUMBER shows another, --page 0 all"));
            }
        }
        Ok(0)
    }
}

/// Lines in pages of a bounded size; a longer line is cut into several, and no character is left out.
fn pages(lines: Vec<String>) -> Vec<Vec<String>> {
    let mut pages: Vec<Vec<String>> = vec![Vec::new()];
    let mut left = PAGE_BYTES;
    for line in lines {
        let mut rest = line.as_str();
        loop {
            if left == 0 {
                pages.push(Vec::new());
                left = PAGE_BYTES;
            }
            let cut = rest.floor_char_boundary(left.min(rest.len()));
            if cut == 0 && !rest.is_empty() {
                // Not even one character fits: the next page has room.
                left = 0;
                continue;
            }
            let (now, later) = rest.split_at(cut);
            if let Some(page) = pages.last_mut() {
                page.push(now.to_owned());
            }
            left = left.saturating_sub(now.len().max(1));
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_bounded_and_leave_nothing_out() {
        let lines = vec!["é".repeat(PAGE_BYTES), "short".to_owned(), "x".repeat(3)];
        let pages = pages(lines.clone());
        assert!(pages.len() == 3 && pages.iter().all(|page| page.iter().map(String::len).sum::<usize>() <= PAGE_BYTES));
        assert_eq!(pages.concat().concat(), lines.concat());
        assert_eq!(super::pages(vec!["a".into(), "b".into()]), [["a", "b"]]);
    }
}
