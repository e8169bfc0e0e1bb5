//! A component's world in WIT, as its types have it. The names that its author gave to the world and to its own package are not in a component.

use std::{thread, time::Duration};

use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};
use wit_component::{DecodedWasm, Output, WitPrinter};
use wit_parser::{Resolve, WorldId};

/// Longest WIT that is kept, in bytes; types can be written in fewer bytes than their text has, so it is bounded while it is printed.
const MAX_WIT_BYTES: usize = 4 << 20;
/// How long a component's types may take to be read and printed.
const MAX_TIME: Duration = Duration::from_secs(10);

/// A component's world.
#[derive(Debug, Serialize)]
pub struct ComponentWorld {
    /// The names of what it imports.
    pub imports: Vec<String>,
    /// The names of what it exports.
    pub exports: Vec<String>,
    /// All of its WIT.
    pub wit: String,
    /// The world alone, without the interfaces that it names.
    #[serde(skip)]
    pub own: String,
    /// Whether the WIT is longer than what is kept of it.
    pub cut: bool,
}

/// Reads a component's world; why not, if it has none that can be shown.
pub async fn read(wasm: Vec<u8>) -> Result<ComponentWorld, String> {
    let (tell, told) = oneshot::channel();
    // A thread of its own, that nobody waits for at the end: the component may be made to take for ever.
    let decode = move || drop(tell.send(decode(&wasm)));
    thread::Builder::new().name("wit".into()).spawn(decode).map_err(|error| error.to_string())?;
    match timeout(MAX_TIME, told).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err("its types cannot be read".into()),
        Err(_) => Err(format!("its types take more than {} s to read", MAX_TIME.as_secs())),
    }
}

fn decode(wasm: &[u8]) -> Result<ComponentWorld, String> {
    let decoded = wit_component::decode(wasm).map_err(|error| format!("{error:#}"))?;
    let DecodedWasm::Component(resolve, id) = decoded else { return Err("it is a WIT package".into()) };
    let world = resolve.worlds.get(id).ok_or("it has no world")?;
    let names =
        |keys: &mut dyn Iterator<Item = &wit_parser::WorldKey>| keys.map(|key| resolve.name_world_key(key)).collect();
    let (imports, exports) = (names(&mut world.imports.keys()), names(&mut world.exports.keys()));
    let (own, _) = print(&resolve, id, false)?;
    let (wit, cut) = print(&resolve, id, true)?;
    Ok(ComponentWorld { imports, exports, wit, own, cut })
}

/// The WIT of the world's own package, and of all others if wanted; whether it is cut off.
fn print(resolve: &Resolve, world: WorldId, others: bool) -> Result<(String, bool), String> {
    let own = resolve.worlds.get(world).and_then(|world| world.package).ok_or("its world has no package")?;
    let others: Vec<_> = resolve.packages.iter().map(|(id, _)| id).filter(|id| others && *id != own).collect();
    let mut printer = WitPrinter::new(BoundedText::default());
    printer.print(resolve, own, &others).map_err(|error| format!("{error:#}"))?;
    let BoundedText { text, cut, .. } = printer.output;
    Ok((text, cut))
}

/// Text up to a bound; what is past it is dropped.
#[derive(Default)]
struct BoundedText {
    text: String,
    indent: usize,
    begins_line: bool,
    cut: bool,
}

impl Output for BoundedText {
    fn push_str(&mut self, text: &str) {
        self.cut |= self.text.len().saturating_add(text.len()) > MAX_WIT_BYTES;
        if !self.cut {
            self.text.push_str(text);
        }
    }

    fn indent_if_needed(&mut self) -> bool {
        let begins = std::mem::take(&mut self.begins_line);
        if begins {
            self.push_str(&"  ".repeat(self.indent));
        }
        begins
    }

    fn indent_start(&mut self) {
        self.push_str(" {");
        self.indent = self.indent.saturating_add(1);
        self.newline();
    }

    fn indent_end(&mut self) {
        self.indent = self.indent.saturating_sub(1);
        self.indent_if_needed();
        self.push_str("}");
        self.newline();
    }

    fn newline(&mut self) {
        self.push_str("\n");
        self.begins_line = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_world_is_told_in_wit() {
        let text = r#"(component
            (import "a:b/c@1.0.0" (instance (export "go" (func (param "n" u8)))))
            (core module $m (func (export "f") (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "add") (result s32) (canon lift (core func $i "f"))))"#;
        let world = read(wat::parse_str(text).expect("a component")).await.expect("a world");
        assert_eq!((world.imports, world.exports), (vec!["a:b/c@1.0.0".to_owned()], vec!["add".to_owned()]));
        assert!(world.own.contains("import a:b/c@1.0.0;\n") && world.own.contains("export add: func() -> s32;"));
        assert!(!world.own.contains("go: func") && world.wit.contains("go: func(n: u8);"), "{}", world.wit);
        assert!(read(b"\0asm\x0d\0\x01\0\xff".to_vec()).await.is_err());
    }

    #[tokio::test]
    async fn types_that_are_longer_than_their_bytes_are_cut_off() {
        // Each tuple has twice what the one before has, and every function has the last.
        let doubled = |n: u32| format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1);
        let types: String = (1..15).map(doubled).collect();
        let functions: String = (0..13).map(|n| format!("(export \"f{n}\" (func (param \"x\" $u)))")).collect();
        let text = format!(
            "(component (type $t0 (tuple string string)) {types} (import \"x:y/z\" (instance (alias outer 1 $t14 (type $u)) {functions})))"
        );
        let world = read(wat::parse_str(text).expect("a component")).await.expect("a world");
        assert!(world.cut && (MAX_WIT_BYTES / 2..=MAX_WIT_BYTES).contains(&world.wit.len()), "{}", world.wit.len());
    }
}
