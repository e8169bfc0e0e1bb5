//! The parts of a component: its bytes by kind, and the languages and tools that its `producers` sections name.
//!
//! Those sections are the tool chain's word, and a component may be hostile: they are shown and decide nothing. A section that cannot be read counts as absent.

use std::collections::BTreeMap;

use serde::Serialize;
use wasmparser::{CustomSectionReader, KnownCustom, Parser, Payload, ProducersSectionReader};

/// Most languages, and most tools, that are kept.
const MAX_PRODUCERS: usize = 32;
/// Most custom sections that are shown by name; the others count together.
const MAX_CUSTOM: usize = 16;
/// Longest name of a section or a tool, in characters.
const MAX_NAME: usize = 80;

/// The parts of a component.
#[derive(Debug, Default, Serialize)]
pub struct Anatomy {
    pub size: Size,
    /// The languages that it names; if it names none, those of the modules in it, by name (a linker puts them in any order).
    pub language: Vec<String>,
    /// The tools that made it, with versions: `processed-by`.
    pub processed_by: Vec<String>,
    /// The SDKs that it was made with.
    pub sdk: Vec<String>,
}

/// Bytes, those of the modules within included.
#[derive(Debug, Default, Serialize)]
pub struct Size {
    pub total: usize,
    /// Function bodies.
    pub code: usize,
    /// The data with which memory begins.
    pub data: usize,
    /// Sections that nothing runs by: names, debug information, docs.
    pub custom: usize,
    /// Everything else: types, imports, exports and how the parts are put together.
    pub other: usize,
    /// Core modules within.
    pub modules: usize,
    /// The largest custom sections by name.
    pub custom_sections: BTreeMap<String, usize>,
}

/// The entries of `producers` sections.
#[derive(Default)]
struct Said {
    language: Vec<String>,
    processed_by: Vec<String>,
    sdk: Vec<String>,
}

impl Anatomy {
    /// Takes a component apart that was compiled before, and so is a valid one.
    pub fn of(wasm: &[u8]) -> Self {
        let mut size = Size { total: wasm.len(), ..Size::default() };
        let (mut own, mut within, mut depth) = (Said::default(), Said::default(), 0_usize);
        let mut custom: BTreeMap<String, usize> = BTreeMap::new();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::ModuleSection { .. } => {
                    size.modules = size.modules.saturating_add(1);
                    depth = depth.saturating_add(1);
                }
                Payload::ComponentSection { .. } => depth = depth.saturating_add(1),
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CodeSectionStart { range, .. } => size.code = size.code.saturating_add(range.len()),
                Payload::DataSection(data) => size.data = size.data.saturating_add(data.range().len()),
                Payload::CustomSection(section) => {
                    let bytes = section.range().len();
                    size.custom = size.custom.saturating_add(bytes);
                    let sum = custom.entry(cut(section.name())).or_default();
                    *sum = sum.saturating_add(bytes);
                    if depth == 0 { &mut own } else { &mut within }.add(&section);
                }
                _ => {}
            }
        }
        size.other = size.total.saturating_sub(size.code).saturating_sub(size.data).saturating_sub(size.custom);
        let mut largest: Vec<_> = custom.into_iter().collect();
        largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        size.custom_sections = largest.into_iter().take(MAX_CUSTOM).collect();
        within.language.sort();
        let language = if own.language.is_empty() { within.language } else { own.language };
        Self {
            size,
            language,
            processed_by: merged(own.processed_by, within.processed_by),
            sdk: merged(own.sdk, within.sdk),
        }
    }
}

impl Said {
    fn add(&mut self, section: &CustomSectionReader<'_>) {
        if let KnownCustom::Producers(producers) = section.as_known() {
            let _what_cannot_be_read_is_not_said = self.add_fields(producers);
        }
    }

    fn add_fields(&mut self, producers: ProducersSectionReader<'_>) -> wasmparser::Result<()> {
        for field in producers {
            let field = field?;
            let into = match field.name {
                "language" => &mut self.language,
                "processed-by" => &mut self.processed_by,
                _ => &mut self.sdk,
            };
            for value in field.values {
                let value = value?;
                let producer = cut(format!("{} {}", value.name, value.version).trim());
                if into.len() < MAX_PRODUCERS && !into.contains(&producer) {
                    into.push(producer);
                }
            }
        }
        Ok(())
    }
}

fn merged(mut first: Vec<String>, second: Vec<String>) -> Vec<String> {
    for producer in second {
        if first.len() < MAX_PRODUCERS && !first.contains(&producer) {
            first.push(producer);
        }
    }
    first
}

fn cut(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producers(fields: &[(&str, &str)]) -> String {
        let mut section = wasm_encoder::ProducersSection::new();
        for (field, value) in fields {
            let mut values = wasm_encoder::ProducersField::new();
            values.value(value, "1");
            section.field(field, &values);
        }
        let mut bytes = Vec::new();
        wasm_encoder::Encode::encode(&section, &mut bytes);
        // The first byte is the section's size, then the size of its name and the name.
        let text: String = bytes.iter().skip(11).map(|byte| format!("\\{byte:02x}")).collect();
        format!("(@custom \"producers\" \"{text}\")")
    }

    fn anatomy(text: &str) -> Anatomy {
        Anatomy::of(&wat::parse_str(text).expect("a component"))
    }

    #[test]
    fn every_byte_is_of_one_kind() {
        let found = anatomy(
            "(component (@custom \"notes\" \"0123456789\") (core module (memory 1) (data (i32.const 0) \"hello\") (func (drop (i32.const 1)))))",
        );
        let Size { total, code, data, custom, other, modules, .. } = found.size;
        assert_eq!((code + data + custom + other, modules), (total, 1));
        assert!(code > 0 && data >= 5 && custom >= 10 && other >= 16, "{:?}", found.size);
        assert_eq!(found.size.custom_sections.get("notes"), Some(&custom));
        assert!(found.language.is_empty());
    }

    #[test]
    fn the_component_speaks_before_its_modules() {
        let inner = producers(&[("language", "C"), ("processed-by", "cc")]);
        let outer = producers(&[("language", "Python"), ("sdk", "kit")]);
        let both = anatomy(&format!("(component {outer} (core module {inner}))"));
        assert_eq!((both.language, both.processed_by, both.sdk), (s("Python 1"), s("cc 1"), s("kit 1")));
        assert_eq!(anatomy(&format!("(component (core module {inner}))")).language, s("C 1"));
        let two = producers(&[("language", "Rust"), ("language", "C")]);
        assert_eq!(anatomy(&format!("(component (core module {two}))")).language, ["C 1", "Rust 1"]);
    }

    #[test]
    fn a_producers_section_that_lies_about_its_size_says_nothing() {
        let found = anatomy("(component (@custom \"producers\" \"\\ff\\ff\\ff\\ff\\0fx\"))");
        assert!(found.language.is_empty() && found.processed_by.is_empty());
        let long = producers(&[("language", &"x".repeat(30))]);
        assert_eq!(anatomy(&format!("(component {long})")).language, s(&format!("{} 1", "x".repeat(30))));
        assert_eq!(cut(&"x".repeat(1_000)).len(), MAX_NAME);
    }

    fn s(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }
}
