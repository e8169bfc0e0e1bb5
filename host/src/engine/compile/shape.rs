//! Contents of a component, counted before the host starts a process for it. The host refuses at once content that no compiler of a language makes, and content
//! that the limits could never allow.
//!
//! Nothing here is validated. The compiler reports unreadable content.

use wasmparser::{ConstExpr, Data, DataKind, FunctionBody, Operator, Parser, Payload};

/// Most functions of all modules of a component. Python with its libraries has 60,000.
const MAX_FUNCTIONS: u64 = 300_000;
/// Most imports, and most exports, of all modules and components in one.
const MAX_IMPORTS: u64 = 30_000;
const MAX_EXPORTS: u64 = 50_000;
/// Most types.
const MAX_TYPES: u64 = 200_000;
/// Most data segments: tool chains make a few, or some thousands where they leave out zeros.
const MAX_DATA_SEGMENTS: u64 = 100_000;
/// Locals times loops of one function: at the head of each loop the compiler looks at each local. The largest interpreters stay below a tenth of it.
const MAX_LOCALS_TIMES_LOOPS: u64 = 4_000_000;
/// Locals times blocks of all kinds of one function.
const MAX_LOCALS_TIMES_BLOCKS: u64 = 100_000_000;
/// Bytes of a page of memory.
const PAGE_BYTES: u64 = 64 << 10;

/// Reason for which the host does not compile a component at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// Too many items of one kind.
    #[error("it has {has} {of}; at most {most} are compiled")]
    TooMany {
        /// Kind of the items.
        of: &'static str,
        /// Items that the component has.
        has: u64,
        /// Items that it may have.
        most: u64,
    },
    /// A function that takes the compiler too long.
    #[error(
        "its function {function} has {locals} locals in {blocks} {of}; at most {most} for both multiplied are compiled"
    )]
    Function {
        /// Its number in its module.
        function: u64,
        /// Its locals.
        locals: u64,
        /// Its blocks.
        blocks: u64,
        /// Kind of these blocks.
        of: &'static str,
        /// Most of both, multiplied.
        most: u64,
    },
    /// Memory that its calls could never have.
    #[error("its memories begin with {bytes} bytes; `memory_bytes` allows a call {most}")]
    Memory {
        /// Bytes with which the memories of one module begin.
        bytes: u64,
        /// Bytes that a call may have.
        most: u64,
    },
}

/// Counts of a component's contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    functions: u64,
    imports: u64,
    exports: u64,
    types: u64,
    data_segments: u64,
    /// Bytes with which the memories begin, in the module with the largest ones.
    memory_bytes: u64,
    /// Bytes of the stretches of memory that data segments span: the most that images of memories have.
    image_bytes: u64,
}

/// Memories of the module that the reader is in.
#[derive(Default)]
struct Memories {
    bytes: u64,
    /// Start and end of its data; none without data.
    data: Option<(u64, u64)>,
}

impl Memories {
    fn span(&self) -> u64 {
        self.data.map_or(0, |(from, to)| to.saturating_sub(from)).min(self.bytes)
    }
}

impl Shape {
    /// Counts the component's contents, without looking into functions.
    pub fn of(wasm: &[u8]) -> Self {
        let mut shape = Self::default();
        let mut memories = Memories::default();
        for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
            match payload {
                Payload::Version { .. } => shape.end_module(&mut memories),
                Payload::TypeSection(types) => add(&mut shape.types, types.count()),
                Payload::ComponentTypeSection(types) => add(&mut shape.types, types.count()),
                Payload::ImportSection(imports) => add(&mut shape.imports, imports.count()),
                Payload::ComponentImportSection(imports) => add(&mut shape.imports, imports.count()),
                Payload::ExportSection(exports) => add(&mut shape.exports, exports.count()),
                Payload::ComponentExportSection(exports) => add(&mut shape.exports, exports.count()),
                Payload::FunctionSection(functions) => add(&mut shape.functions, functions.count()),
                Payload::ComponentCanonicalSection(functions) => add(&mut shape.functions, functions.count()),
                Payload::MemorySection(section) => {
                    for memory in section.into_iter().map_while(Result::ok) {
                        memories.bytes = memories.bytes.saturating_add(memory.initial.saturating_mul(PAGE_BYTES));
                    }
                }
                Payload::DataSection(data) => {
                    add(&mut shape.data_segments, data.count());
                    data.into_iter().map_while(Result::ok).for_each(|data| memories.add(&data));
                }
                _ => {}
            }
        }
        shape.end_module(&mut memories);
        shape
    }

    fn end_module(&mut self, memories: &mut Memories) {
        self.image_bytes = self.image_bytes.saturating_add(memories.span());
        self.memory_bytes = self.memory_bytes.max(memories.bytes);
        *memories = Memories::default();
    }

    /// Most bytes of the images of its memories.
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// Refuses memories that no call may have.
    pub fn check_memory(&self, most: u64) -> Result<(), ShapeError> {
        if self.memory_bytes > most {
            return Err(ShapeError::Memory { bytes: self.memory_bytes, most });
        }
        Ok(())
    }

    /// Refuses a component with too many items of a kind.
    pub fn check(&self) -> Result<(), ShapeError> {
        let bounds = [
            ("functions", self.functions, MAX_FUNCTIONS),
            ("imports", self.imports, MAX_IMPORTS),
            ("exports", self.exports, MAX_EXPORTS),
            ("types", self.types, MAX_TYPES),
            ("data segments", self.data_segments, MAX_DATA_SEGMENTS),
        ];
        match bounds.into_iter().find(|(_, has, most)| has > most) {
            Some((of, has, most)) => Err(ShapeError::TooMany { of, has, most }),
            None => Ok(()),
        }
    }
}

impl Memories {
    fn add(&mut self, data: &Data<'_>) {
        let DataKind::Active { offset_expr, .. } = &data.kind else { return };
        // Data at an offset that is known only at run time gets no image.
        let Some(from) = constant(offset_expr) else { return };
        let to = from.saturating_add(u64::try_from(data.data.len()).unwrap_or(u64::MAX));
        let (low, high) = self.data.unwrap_or((from, to));
        self.data = Some((low.min(from), high.max(to)));
    }
}

fn constant(offset: &ConstExpr<'_>) -> Option<u64> {
    match offset.get_operators_reader().read().ok()? {
        Operator::I32Const { value } => Some(u64::from(value.cast_unsigned())),
        _ => None,
    }
}

fn add(sum: &mut u64, count: u32) {
    *sum = sum.saturating_add(u64::from(count));
}

/// Looks into each function. This reads all of the code once, so it is only for components that the host will compile.
pub fn check_functions(wasm: &[u8]) -> Result<(), ShapeError> {
    let mut function = 0;
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::Version { .. } => function = 0,
            Payload::CodeSectionEntry(body) => {
                check_function(function, &body)?;
                function += 1;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_function(function: u64, body: &FunctionBody<'_>) -> Result<(), ShapeError> {
    let (Ok(groups), Ok(operators)) = (body.get_locals_reader(), body.get_operators_reader()) else { return Ok(()) };
    let locals: u64 =
        groups.into_iter().map_while(Result::ok).fold(0, |sum: u64, (count, _)| sum.saturating_add(u64::from(count)));
    // Fewer than ten locals cannot multiply to much: a function has at most seven million bytes.
    if locals < 10 {
        return Ok(());
    }
    let (mut loops, mut blocks) = (0_u64, 0_u64);
    for operator in operators.into_iter().map_while(Result::ok) {
        match operator {
            Operator::Loop { .. } => (loops, blocks) = (loops.saturating_add(1), blocks.saturating_add(1)),
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                blocks = blocks.saturating_add(1);
            }
            _ => {}
        }
    }
    for (blocks, of, most) in [(loops, "loops", MAX_LOCALS_TIMES_LOOPS), (blocks, "blocks", MAX_LOCALS_TIMES_BLOCKS)] {
        if locals.saturating_mul(blocks) > most {
            return Err(ShapeError::Function { function, locals, blocks, of, most });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect(text)
    }

    fn of_modules(modules: &[&str]) -> Vec<u8> {
        let modules: String = modules.iter().map(|module| format!("(core module {module})")).collect();
        wasm(&format!("(component {modules})"))
    }

    #[test]
    fn memories_are_counted_by_module_and_images_by_the_stretch_of_their_data() {
        let shape = Shape::of(&of_modules(&[
            r#"(memory 3) (data (i32.const 10) "abc") (data (i32.const 100000) "d")"#,
            r#"(memory 1) (memory 1) (data (i32.const 0) "x") (data "passive") (func)"#,
            "(memory 2)",
        ]));
        assert_eq!((shape.memory_bytes, shape.image_bytes), (3 * PAGE_BYTES, 99_991 + 1));
        assert_eq!((shape.data_segments, shape.functions), (4, 1));
        assert_eq!(shape.check_memory(3 * PAGE_BYTES), Ok(()), "to the byte");
        assert!(shape.check_memory(3 * PAGE_BYTES - 1).is_err());
        let outside = Shape::of(&of_modules(&[r#"(memory 1) (data (i32.const -1) "x") (data (i32.const 0) "x")"#]));
        assert_eq!(outside.image_bytes, PAGE_BYTES, "an image is not larger than its memory");
    }

    #[test]
    fn what_there_is_too_much_of_is_named_with_its_number() {
        let imports = r#"(import "a" "b" (func))"#.repeat(usize::try_from(MAX_IMPORTS).expect("few"));
        assert_eq!(Shape::of(&of_modules(&[&imports])).check(), Ok(()), "as many as are allowed");
        let one_more = Shape::of(&of_modules(&[&imports, r#"(import "a" "b" (func))"#])).check().expect_err("too many");
        assert_eq!(one_more.to_string(), "it has 30001 imports; at most 30000 are compiled");
    }

    #[test]
    fn a_function_has_only_so_many_locals_in_loops() {
        let function = |locals: usize, loops: usize| {
            let (open, close) = ("loop ".repeat(loops), "end ".repeat(loops));
            of_modules(&[&format!("(func) (func (local {}) {open} {close})", "i32 ".repeat(locals))])
        };
        assert_eq!(check_functions(&function(40_000, 100)), Ok(()), "as much as is allowed");
        let refused = check_functions(&function(40_000, 101)).expect_err("too much");
        let ShapeError::Function { function: 1, locals: 40_000, blocks: 101, of: "loops", .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(check_functions(&function(9, 3_000)), Ok(()));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_compiler() {
        let mut cut = of_modules(&["(memory 1) (func (local i32) loop end)"]);
        for _ in 0..cut.len() {
            cut.pop();
            let _counted = (Shape::of(&cut), check_functions(&cut));
        }
    }
}
