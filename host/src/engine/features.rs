//! Features that a component needs of its engine, and so the engine that runs it. Costly features are for the components that need them.
//! The host decides once, when it compiles the component; afterwards everything follows the component's own engine.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentType, ComponentTypeDeclaration,
    CompositeInnerType, InstanceTypeDeclaration, Parser, Payload, PrimitiveValType, RefType, SubType, TypeRef, ValType,
};

use crate::limits::Fuel;

/// Start of the WASI versions that the host links only where tasks exist.
pub(crate) const WASI_OF_TASKS: &str = "0.3.";

/// Features of an engine beyond those that every component needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Features {
    /// Tasks of one call that wait side by side: async functions, streams and futures between components, WASI 0.3.
    pub tasks: Tasks,
    /// Heap outside of linear memory: exceptions, structs and arrays.
    pub heap: Heap,
    /// The count of instructions.
    pub fuel: Fuel,
    /// Compiler that makes the code.
    pub code: Code,
}

/// Compiler that makes an engine's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// The compiler of fast code (Cranelift).
    #[default]
    Optimized,
    /// The fast compiler (Winch), for code that the host will soon replace.
    Baseline,
}

/// Whether an engine has a heap beside linear memory, which it collects itself and counts as memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heap {
    /// It has none.
    #[default]
    None,
    /// It has one.
    Collected,
}

/// Whether an engine has tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tasks {
    /// A call does one thing after the other.
    #[default]
    One,
    /// A call's tasks wait side by side.
    Many,
}

impl Features {
    /// Features that `wasm` needs, with `fuel`. A file that is no component needs none, and the compiler refuses it.
    pub fn of(wasm: &[u8], fuel: Fuel) -> Self {
        let (tasks, heap) = needs(wasm).unwrap_or_default();
        Self { tasks, heap, fuel, code: Code::Optimized }
    }

    /// A number for each combination, below [`Features::COMBINATIONS`]; 0 for the combination without features.
    pub fn number(self) -> usize {
        usize::from(self.tasks == Tasks::Many)
            | usize::from(self.fuel == Fuel::Counted) << 1
            | usize::from(self.code == Code::Baseline) << 2
            | usize::from(self.heap == Heap::Collected) << 3
    }

    /// The combination with this number.
    pub fn numbered(number: usize) -> Self {
        let has = |bit: u32| number >> bit & 1 == 1;
        Self {
            tasks: if has(0) { Tasks::Many } else { Tasks::One },
            fuel: if has(1) { Fuel::Counted } else { Fuel::Uncounted },
            code: if has(2) { Code::Baseline } else { Code::Optimized },
            heap: if has(3) { Heap::Collected } else { Heap::None },
        }
    }

    /// Number of combinations.
    pub const COMBINATIONS: usize = 16;
}

/// Features that the component, and every module and component in it, needs.
fn needs(wasm: &[u8]) -> wasmparser::Result<(Tasks, Heap)> {
    let (mut tasks, mut heap) = (false, false);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ComponentTypeSection(types) => tasks |= any(types, |ty| is_of_tasks(&ty))?,
            Payload::ComponentCanonicalSection(functions) => {
                tasks |= any(functions, |function| is_canonical_of_tasks(&function))?;
            }
            Payload::ComponentImportSection(imports) => {
                tasks |= any(imports, |import| is_import_of_tasks(import.name.name))?;
            }
            Payload::TypeSection(groups) => heap |= any(groups, |group| !group.types().all(is_without_heap))?,
            Payload::TagSection(tags) => heap |= tags.count() > 0,
            Payload::ImportSection(imports) => heap |= any(imports.into_imports(), |import| is_of_heap(import.ty))?,
            Payload::TableSection(tables) => heap |= any(tables, |table| is_of_heap(TypeRef::Table(table.ty)))?,
            Payload::GlobalSection(globals) => heap |= any(globals, |global| is_of_heap(TypeRef::Global(global.ty)))?,
            _ => {}
        }
    }
    let tasks = if tasks { Tasks::Many } else { Tasks::One };
    Ok((tasks, if heap { Heap::Collected } else { Heap::None }))
}

/// A function of numbers and plain references to functions.
fn is_without_heap(ty: &SubType) -> bool {
    let plain = |values: &[ValType]| !values.iter().any(|value| is_value_of_heap(*value));
    match &ty.composite_type.inner {
        CompositeInnerType::Func(function) => {
            ty.is_final && ty.supertype_idx.is_none() && plain(function.params()) && plain(function.results())
        }
        _ => false,
    }
}

fn is_of_heap(item: TypeRef) -> bool {
    match item {
        TypeRef::Tag(_) => true,
        TypeRef::Global(global) => is_value_of_heap(global.content_type),
        TypeRef::Table(table) => table.element_type != RefType::FUNCREF,
        _ => false,
    }
}

fn is_value_of_heap(value: ValType) -> bool {
    matches!(value, ValType::Ref(reference) if reference != RefType::FUNCREF)
}

fn any<T>(
    items: impl IntoIterator<Item = wasmparser::Result<T>>,
    test: impl Fn(T) -> bool,
) -> wasmparser::Result<bool> {
    for item in items {
        if test(item?) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_import_of_tasks(name: &str) -> bool {
    name.starts_with("wasi:") && name.split_once('@').is_some_and(|(_, version)| version.starts_with(WASI_OF_TASKS))
}

fn is_of_tasks(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_)) => true,
        ComponentType::Defined(ComponentDefinedType::Primitive(PrimitiveValType::ErrorContext)) => true,
        ComponentType::Defined(_) | ComponentType::Resource { .. } => false,
        ComponentType::Component(declarations) => declarations
            .iter()
            .any(|declared| matches!(declared, ComponentTypeDeclaration::Type(ty) if is_of_tasks(ty))),
        ComponentType::Instance(declarations) => {
            declarations.iter().any(|declared| matches!(declared, InstanceTypeDeclaration::Type(ty) if is_of_tasks(ty)))
        }
    }
}

fn is_canonical_of_tasks(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(|option| matches!(option, CanonicalOption::Async | CanonicalOption::Callback(_)))
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_combination_has_a_number() {
        for number in 0..Features::COMBINATIONS {
            assert_eq!(Features::numbered(number).number(), number);
        }
    }

    #[test]
    fn what_needs_tasks_is_seen_wherever_it_stands() {
        for (text, needs) in [
            ("(component)", Tasks::One),
            (r#"(component (import "f" (func (param "a" string))))"#, Tasks::One),
            (
                r#"(component (import "wasi:clocks/monotonic-clock@0.2.6" (instance (export "now" (func (result u64))))))"#,
                Tasks::One,
            ),
            (
                r#"(component (import "wasi:random/random@0.3.0" (instance (export "get-random-u64" (func (result u64))))))"#,
                Tasks::Many,
            ),
            (r#"(component (import "f" (func async)))"#, Tasks::Many),
            (r#"(component (import "i" (instance (export "f" (func async)))))"#, Tasks::Many),
            (r#"(component (component (component (import "f" (func async)))))"#, Tasks::Many),
            (r#"(component (import "c" (component (export "i" (instance (export "f" (func async)))))))"#, Tasks::Many),
            (r#"(component (type (stream u8)))"#, Tasks::Many),
            (r#"(component (type (future)))"#, Tasks::Many),
            (r#"(component (core func (canon backpressure.inc)))"#, Tasks::Many),
            (r#"(component (core func (canon waitable-set.new)))"#, Tasks::Many),
        ] {
            let wasm = wat::parse_str(text).expect(text);
            let found = Features::of(&wasm, Fuel::Uncounted);
            assert_eq!((found.tasks, found.heap), (needs, Heap::None), "{text}");
        }
        for (module, needs) in [
            ("(func (param i32 funcref)) (table 1 funcref) (global funcref (ref.null func)) (memory 1)", Heap::None),
            ("(tag)", Heap::Collected),
            (r#"(import "a" "b" (tag))"#, Heap::Collected),
            ("(type (struct (field i32)))", Heap::Collected),
            ("(type (array i8))", Heap::Collected),
            ("(type (sub (func)))", Heap::Collected),
            ("(func (param externref))", Heap::Collected),
            ("(func (result (ref func)) unreachable)", Heap::Collected),
            ("(table 1 externref)", Heap::Collected),
            ("(global anyref (ref.null any))", Heap::Collected),
        ] {
            let text = format!("(component (component (core module {module})))");
            let wasm = wat::parse_str(&text).expect(&text);
            let found = Features::of(&wasm, Fuel::Uncounted);
            assert_eq!((found.tasks, found.heap), (Tasks::One, needs), "{text}");
        }
        assert_eq!(
            Features::of(b"\0asm\x0d\0\x01\0\xff", Fuel::Uncounted),
            Features::default(),
            "what is broken is the compiler's to refuse"
        );
    }
}
