//! What a tool chain left in a component besides what its world exports, such as the function that once started an engine: it would be shown as a tool.

use std::collections::BTreeSet;

use wasm_encoder::Encode as _;
use wasmparser::{BinaryReader, ComponentExportSectionReader, Result};

/// Bytes before the first section.
const PREAMBLE_BYTES: usize = 8;
/// The id of a component's sections of exports.
const EXPORTS: u8 = 11;

/// The component with only these exports; none if it has no others, or needs them itself.
pub(super) fn without(component: &[u8], exports: &BTreeSet<String>) -> Option<Vec<u8>> {
    let (kept, dropped) = keep(component, exports).ok()?;
    // An export is a name for later sections too, so that what is left need not be valid.
    (dropped && wit_component::decode(&kept).is_ok()).then_some(kept)
}

fn keep(component: &[u8], exports: &BTreeSet<String>) -> Result<(Vec<u8>, bool)> {
    let mut reader = BinaryReader::new(component, 0);
    let mut kept = reader.read_bytes(PREAMBLE_BYTES)?.to_vec();
    let mut dropped = false;
    while !reader.eof() {
        let id = reader.read_u8()?;
        let size = reader.read_var_u32()?;
        let content = reader.read_bytes(usize::try_from(size).unwrap_or(usize::MAX))?;
        kept.push(id);
        if id != EXPORTS {
            content.encode(&mut kept);
            continue;
        }
        let (section, others) = keep_of(content, exports)?;
        section.as_slice().encode(&mut kept);
        dropped |= others;
    }
    Ok((kept, dropped))
}

/// A section of exports with only these; whether it had others.
fn keep_of(content: &[u8], exports: &BTreeSet<String>) -> Result<(Vec<u8>, bool)> {
    let entries = ComponentExportSectionReader::new(BinaryReader::new(content, 0))?;
    let entries = entries.into_iter_with_offsets().collect::<Result<Vec<_>>>()?;
    let starts = entries.iter().map(|(start, _)| *start);
    let ends = starts.skip(1).chain([content.len()]);
    let kept = entries.iter().zip(ends).filter(|((_, entry), _)| exports.contains(entry.name.name));
    let kept: Vec<&[u8]> = kept.filter_map(|((start, _), end)| content.get(*start..end)).collect();
    let mut section = Vec::new();
    kept.len().encode(&mut section);
    section.extend(kept.concat());
    Ok((section, kept.len() < entries.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPONENT: &str = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 7))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (export "init" (func $f))
        (export "greet" (func $f)))"#;

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
        assert!(without(&component, &world(&["greet", "init"])).is_none());
        assert!(without(b"no", &world(&[])).is_none());
    }
}
