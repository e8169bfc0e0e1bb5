//! `mcpp new`: a project that works, to change into one's own.

use std::path::PathBuf;

use clap::Args;

use super::{print, print_json, remote::tell};
use crate::author::{
    language::Language,
    template::{self, ProjectName},
};

#[derive(Debug, Args)]
pub(super) struct New {
    /// Its name, which is the component's: lower-case words joined by `-`
    name: String,
    /// The language to write it in
    #[arg(long, value_enum, default_value_t = Language::Rust, value_name = "LANGUAGE")]
    lang: Language,
    /// The folder in which to make its folder
    #[arg(long = "in", default_value = ".", value_name = "DIR")]
    parent: PathBuf,
    /// The SDK for Rust: the folder tool-sdk of a checkout of mcpp [default: that of the checkout that this program or the working directory is in, or the one in this program]
    #[arg(long, env = "MCPP_SDK", value_name = "DIR")]
    sdk: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl New {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let name = ProjectName::new(&self.name)?;
        let sdk = match (self.lang, &self.sdk) {
            (Language::Rust, Some(folder)) => Some(template::named_sdk(folder)?),
            (Language::Rust, None) => template::find_sdk(),
            _ => None,
        };
        let folder =
            if self.parent.as_os_str() == "." { PathBuf::from(name.as_str()) } else { self.parent.join(name.as_str()) };
        template::create(&name, self.lang, &folder, sdk.as_deref())?;
        if self.json {
            print_json(&serde_json::json!({ "folder": folder, "language": self.lang }))?;
        } else {
            print(&folder.display().to_string())?;
            let tool =
                if self.lang == Language::Rust { "greet".to_owned() } else { format!("{}_greet", name.as_str()) };
            tell(&format!("next:\n  mcpp dev {}\n  mcpp call {tool} name=World", folder.display()));
        }
        Ok(0)
    }
}
