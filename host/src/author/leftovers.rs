//! Exports that a tool chain left in a component and that its world does not have. The function that once started an engine would be shown as a tool.

use std::collections::BTreeSet;

use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ComponentExportSectionReader, ComponentExternalKind, Result};

/// Bytes before the first section.
const PREAMBLE_BYTES: usize = 8;
/// The id of a component's sections of exports.
const EXPORTS: u8 = 11;

/// The id of a component's sections of aliases.
const ALIASES: u8 = 6;

/// A section with one component instance, which exports nothing.
const EMPTY_INSTANCE: (u8, &[u8]) = (5, &[1, 1, 0]);

/// The component with only these exports; none if it has no others, or none that can be taken out.
///
/// An export is a name for later sections too, which count what was defined before them. So one is taken out only where its section holds nothing else, and
/// something that is seen by nobody counts in its place: an empty instance, or, for a function, the alias that it exports a second time.
pub(super) fn without(component: &[u8], exports: &BTreeSet<String>) -> Option<Vec<u8>> {
    let kept = keep(component, exports).ok().filter(|kept| kept != component)?;
    wit_component::decode(&kept).is_ok().then_some(kept)
}

fn keep(component: &[u8], exports: &BTreeSet<String>) -> Result<Vec<u8>> {
    let mut reader = BinaryReader::new(component, 0);
    let mut kept = reader.read_bytes(PREAMBLE_BYTES)?.to_vec();
    let mut before: (u8, &[u8]) = (0, &[]);
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()?;
        let mut section = (id, reader.read_bytes(usize::try_from(size).unwrap_or(usize::MAX))?);
        // Sections begin with the number of things in them.
        let one_alias = before.0 == ALIASES && before.1.first() == Some(&1);
        if id == EXPORTS {
            match one_other(section.1, exports)? {
                Some(ComponentExternalKind::Instance) => section = EMPTY_INSTANCE,
                Some(ComponentExternalKind::Func) if one_alias => section = before,
                _ => {}
            }
        }
        kept.push(section.0);
        section.1.encode(&mut kept);
        before = section;
    }
    Ok(kept)
}

/// The kind of a section's only export, if it has one only and that is none of these.
fn one_other(section: &[u8], exports: &BTreeSet<String>) -> Result<Option<ComponentExternalKind>> {
    let found = ComponentExportSectionReader::new(BinaryReader::new(section, 0))?;
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(match found.as_slice() {
        [only] if !exports.contains(only.name.name) => Some(only.kind),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // As componentize-qjs and componentize-py make them: a later export counts the items before it.
    const COMPONENT: &str = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 7))
        (core instance $i (instantiate $m))
        (component $c
            (alias outer 1 $m (core module $m))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (export "init" (func $f))
            (export "greet" (func $f)))
        (instance $c (instantiate $c))
        (alias export $c "init" (func $init))
        (export "init" (func $init))
        (instance $start (export "init" (func $init)))
        (export "exports" (instance $start))
        (alias export $c "greet" (func $greet))
        (export "greet" (func $greet)))"#;

    #[test]
    fn only_the_exports_of_the_world_stay() {
        let component = wat::parse_str(COMPONENT).expect("text");
        let world = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let kept = without(&component, &world(&["greet"])).expect("something is left out");
        assert!(without(&kept, &world(&["greet"])).is_none(), "nothing more to leave out");
        let wit_component::DecodedWasm::Component(resolve, id) = wit_component::decode(&kept).expect("valid") else {
            panic!("no component")
        };
        let names: Vec<String> = resolve.worlds[id].exports.keys().map(|name| resolve.name_world_key(name)).collect();
        assert_eq!(names, ["greet"]);
        assert!(without(&component, &world(&["greet", "init", "exports"])).is_none());
        assert!(without(b"no", &world(&[])).is_none());
    }
}
