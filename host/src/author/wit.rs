//! A plain component's WIT: its name, its bindings for languages whose tools write none, and the way from a core module to a component.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::{
    Files, WorldGenerator,
    wit_parser::{Resolve, WorldId, WorldItem},
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};

use super::{
    leftovers,
    project::{Project, WIT},
};

/// The world that a project implements.
pub(super) struct World {
    resolve: Resolve,
    id: WorldId,
    /// The name of the WIT package, which is the component's.
    pub(super) component: String,
    /// The world's own name.
    pub(super) name: String,
}

impl World {
    /// The one world of the project's WIT.
    pub(super) fn read(project: &Project) -> anyhow::Result<Self> {
        let path = project.folder.join(WIT);
        let mut resolve = Resolve::default();
        let (package, _) = match resolve.push_path(&path) {
            Ok(pushed) => pushed,
            Err(error) => return Err(place_first(&error, &resolve.render_error(&error), &project.folder)),
        };
        let id = resolve.select_world(&[package], None).with_context(|| format!("{WIT}/ does not have one world"))?;
        let component = resolve.packages.get(package).map(|package| package.name.name.clone());
        let name = resolve.worlds.get(id).map(|world| world.name.clone());
        let (component, name) = component.zip(name).context("the WIT has no package")?;
        Ok(Self { resolve, id, component, name })
    }

    /// Writes the bindings that `generator` makes, except what is the author's own; the files.
    pub(super) fn bindings(
        &self,
        mut generator: Box<dyn WorldGenerator>,
        folder: &Path,
        own: &[&str],
    ) -> anyhow::Result<Vec<PathBuf>> {
        let (mut resolve, mut files) = (self.resolve.clone(), Files::default());
        generator.generate(&mut resolve, self.id, &mut files)?;
        for file in own {
            files.remove(file);
        }
        files.iter().map(|(name, bytes)| write_changed(folder.join(name), bytes)).collect()
    }

    /// Takes out of a component what the world does not export.
    pub(super) fn tidy(&self, component: &Path) -> std::io::Result<()> {
        let exports = self.resolve.worlds.get(self.id).into_iter().flat_map(|world| world.exports.keys());
        let exports = exports.map(|export| self.resolve.name_world_key(export)).collect();
        match leftovers::without(&std::fs::read(component)?, &exports) {
            Some(tidy) => std::fs::write(component, tidy),
            None => Ok(()),
        }
    }

    /// Makes a component of the core module at `core`.
    pub(super) fn componentize(&self, core: &Path, component: &Path) -> anyhow::Result<()> {
        let mut module = std::fs::read(core).with_context(|| format!("cannot read {}", core.display()))?;
        embed_component_metadata(&mut module, &self.resolve, self.id, StringEncoding::UTF8)?;
        let adapter = (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER);
        let encoded = ComponentEncoder::default()
            .module(&module)
            .and_then(|encoder| encoder.adapter(adapter.0, adapter.1))
            .and_then(|encoder| encoder.validate(true).encode())
            .map_err(|error| anyhow!("the module does not fit the world `{}`: {error:#}", self.name))?;
        std::fs::write(component, encoded).with_context(|| format!("cannot write {}", component.display()))
    }
}

/// An error in the WIT, with the place of the fault on top where the parser names it. In its words that is `--> FILE:LINE:COLUMN`, in a line before the excerpt.
fn place_first(error: &anyhow::Error, words: &str, folder: &Path) -> anyhow::Error {
    let Some((_, after)) = words.split_once("\n     --> ") else {
        return anyhow!("the WIT in {WIT}/ is not valid: {words}");
    };
    let (place, excerpt) = after.split_once('\n').unwrap_or((after, ""));
    let place = place.strip_prefix(&format!("{}/", folder.display())).unwrap_or(place);
    anyhow!("{place}: {}; the WIT in {WIT}/ is not valid\n{excerpt}", error.root_cause())
}

/// Writes what a build makes among the sources; the file. One that stays as it is leaves compilers' caches good.
pub(super) fn write_changed(path: PathBuf, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    if std::fs::read(&path).ok().as_deref() != Some(bytes) {
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path)
}

/// The interfaces that a component imports.
pub fn imports(component: &[u8]) -> anyhow::Result<BTreeSet<String>> {
    let decoded = wit_component::decode(component).context("the build made no component")?;
    let wit_component::DecodedWasm::Component(resolve, world) = decoded else {
        anyhow::bail!("the build made a WIT package and no component")
    };
    // An interface of which only types are used gives no power.
    let calls = |item: &WorldItem| match item {
        WorldItem::Interface { id, .. } => resolve.interfaces.get(*id).is_none_or(|found| !found.functions.is_empty()),
        WorldItem::Type { .. } => false,
        WorldItem::Function(_) => true,
    };
    let imports = resolve.worlds.get(world).into_iter().flat_map(|world| &world.imports);
    let imports = imports.filter(|(_, item)| calls(item)).map(|(name, _)| resolve.name_world_key(name));
    Ok(imports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::language::Language;

    #[test]
    fn the_place_of_a_fault_stands_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let project = Project { folder: folder.path().to_owned(), language: Language::C };
        std::fs::create_dir(folder.path().join(WIT)).expect("made");
        for (text, says) in [
            ("package a:b;\nworld w {\n  export f: func(a: strng);\n}\n", "wit/world.wit:3:21: "),
            ("package a:b;\nworld w {\n  export f func();\n}\n", "wit/world.wit:3:"),
        ] {
            std::fs::write(folder.path().join("wit/world.wit"), text).expect("written");
            let error = World::read(&project).err().expect("not valid");
            assert!(format!("{error:#}").starts_with(says), "{error:#}");
        }
    }
}
