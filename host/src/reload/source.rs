//! Where components come from: files of a tools folder, and this program itself, whose components each tenant has.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::OnceCell;

use crate::{
    engine::{Engine, compile::Builds, features::Code},
    grants::ComponentGrant,
    guest::component::{self, Compiled, Origin},
    limits::{Fuel, Limits},
    names::ComponentName,
    reload::error::LoadError,
};

/// A component built into this program.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its bytes.
    pub wasm: &'static [u8],
    /// Its grant unless the operator's grants name it: a grant without its version.
    pub grant: &'static str,
}

impl BuiltIn {
    /// The grant that it is shipped with. A test parses the text; if it were not valid, the component would have nothing and say so.
    pub fn shipped_grant(&self) -> ComponentGrant {
        toml::from_str(self.grant).unwrap_or_default()
    }
}

/// Where to load a component from.
#[derive(Debug, Clone)]
pub enum Source {
    /// This program.
    BuiltIn(BuiltIn),
    /// A file, which may be gone.
    File(PathBuf),
}

/// One source among a tenant's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SourceKey {
    BuiltIn(&'static str),
    File(PathBuf),
}

impl Source {
    /// The component's name, as far as the source tells.
    pub fn component(&self) -> String {
        match self {
            Self::BuiltIn(built_in) => built_in.name.to_owned(),
            Self::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }

    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::BuiltIn(_) => Origin::BuiltIn,
            Self::File(path) => Origin::File(path.clone()),
        }
    }

    /// How many bytes it has now; none if it is gone.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::BuiltIn(built_in) => u64::try_from(built_in.wasm.len()).unwrap_or(u64::MAX),
            Self::File(path) => std::fs::metadata(path).map_or(0, |meta| meta.len()),
        }
    }

    pub(super) fn key(&self) -> SourceKey {
        match self {
            Self::BuiltIn(built_in) => SourceKey::BuiltIn(built_in.name),
            Self::File(path) => SourceKey::File(path.clone()),
        }
    }
}

impl SourceKey {
    /// The component's name, as far as the source tells.
    pub(super) fn component(&self) -> String {
        match self {
            Self::BuiltIn(name) => (*name).to_owned(),
            Self::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        }
    }
}

/// The components built into this program, each compiled once for all tenants: the code that every tenant has tells no tenant anything.
#[derive(Debug)]
pub struct BuiltIns {
    pub(super) list: &'static [BuiltIn],
    builds: Arc<Builds>,
    compiled: BTreeMap<(&'static str, Fuel), OnceCell<Compiled>>,
}

impl BuiltIns {
    /// Nothing is compiled yet.
    pub fn new(list: &'static [BuiltIn], builds: Arc<Builds>) -> Self {
        let each = |built_in: &BuiltIn| [Fuel::Uncounted, Fuel::Counted].map(|fuel| (built_in.name, fuel));
        let compiled = list.iter().flat_map(each).map(|key| (key, OnceCell::new())).collect();
        Self { list, builds, compiled }
    }

    /// Compiles all, as many at once as the host has processes for it. A tenant that needs one waits for that one alone.
    pub async fn compile_all(self: Arc<Self>, engine: Engine, defaults: Limits) {
        let compile = |built_in: &BuiltIn| {
            let (built_ins, engine, built_in) = (Arc::clone(&self), engine.clone(), *built_in);
            let fuel = built_in.shipped_grant().fuel(&defaults);
            async move {
                let name = ComponentName::new(built_in.name)?;
                built_ins.compiled(&engine, built_in, name, fuel).await.map(drop)
            }
        };
        // The loads report what fails.
        let _outcomes: Vec<Result<(), LoadError>> = join_all(self.list.iter().map(compile)).await;
    }

    pub(super) async fn compiled(
        &self,
        engine: &Engine,
        built_in: BuiltIn,
        name: ComponentName,
        fuel: Fuel,
    ) -> Result<Compiled, LoadError> {
        let source = component::ComponentSource {
            name,
            wasm: Bytes::from_static(built_in.wasm),
            fuel,
            code: Code::Optimized,
            memory_bytes: u64::MAX,
            account: None,
        };
        let compile = || component::compile(engine, &self.builds, source);
        match self.compiled.get(&(built_in.name, fuel)) {
            Some(cell) => Ok(cell.get_or_try_init(compile).await.cloned()?),
            None => Ok(compile().await?),
        }
    }
}
