//! WIT types and JSON at random: what the host takes as a value of a type comes back the same from a component, and what it does not take is refused with its place.
//!
//! [`Wit::canonical`] says by itself what is legal and what comes back. The published schema and the conversion together must say the same.

use std::sync::LazyLock;

use mcpp::{
    call::CallError,
    memory,
    plain::{self, Action, PlainFunction, docs::Docs, handles::Unseen, value},
    schema::{Mismatch, Schema},
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};
use wasmtime::{
    Engine, Store,
    component::{Component, Linker, Val},
};

use super::{
    json,
    random::Random,
    wit::{self, Wit},
};

static ENGINE: LazyLock<Engine> = LazyLock::new(Engine::default);

/// A component with one function, which takes `x: T` and gives `tuple<T, …>`: the very memory in which it got its arguments. The padding beside `x` makes the arguments
/// too many to be anywhere else.
pub struct Echo {
    component: Component,
    pub function: PlainFunction,
    input: Schema,
    output: Schema,
}

impl Echo {
    /// For a type; none if that is too large or too deep to have a schema.
    pub fn new(ty: &Wit) -> Option<Self> {
        let (mut types, mut next) = (String::new(), 0);
        let ty = ty.define(&mut types, &mut next);
        let padding: String = (0..9).map(|n| format!(r#"(param "p{n}" (option bool))"#)).collect();
        let text = format!(
            r#"(component {types} (type $out (tuple {ty} (option bool)))
                (core module $m
                    (memory (export "memory") 64)
                    (global $at (mut i32) (i32.const 8))
                    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                        (global.set $at (i32.and (i32.add (global.get $at) (i32.const 7)) (i32.const -8)))
                        (global.get $at)
                        (global.set $at (i32.add (global.get $at) (local.get 3))))
                    (func (export "go") (param i32) (result i32) local.get 0))
                (core instance $i (instantiate $m))
                (func (export "go") (param "x" {ty}) {padding} (result $out)
                    (canon lift (core func $i "go") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#
        );
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let component = Component::new(&ENGINE, &wasm).expect("a component");
        let (mut functions, notes) = plain::functions("t", &component, &ENGINE, &Docs::default()).expect("few");
        let Some(function) = functions.pop() else {
            assert!(notes.iter().all(|note| note.contains("is not offered")), "{notes:?}");
            return None;
        };
        let schema = |json: &Value| Schema::compile(json.clone()).ok();
        let (input, output) = (schema(&function.input_schema)?, schema(function.output_schema.as_ref()?)?);
        Some(Self { component, function, input, output })
    }

    /// Calls it; what it gives, held to its schema and to its bound of memory.
    fn call(&self, params: &[Val]) -> Value {
        let mut store = Store::new(&ENGINE, ());
        let instance = Linker::new(&ENGINE).instantiate(&mut store, &self.component).expect("an instance");
        let Action::Call(export) = self.function.action else { panic!("a function") };
        let func = instance.get_func(&mut store, export).expect("the function");
        let mut results = [Val::Bool(false)];
        func.call(&mut store, params, &mut results).expect("no trap");
        let result = self.function.result(results.first(), &mut Unseen).structured.expect("structured");
        assert_eq!(self.output.check(&result, u64::MAX), Ok(()), "{:?} refuses {result}", self.output.json);
        let (holds, charged) = (held(&result["result"]), value::json_bytes(&results[0]));
        assert!(holds <= charged, "{result} holds {holds} bytes, of which {charged} are charged");
        result["result"][0].clone()
    }

    pub fn give(&self, val: Val) -> Value {
        let padding = vec![Val::Option(None); 9];
        self.call(&[vec![val], padding].concat())
    }

    pub fn round_trip(&self, json: &Value) -> Value {
        self.take(json).unwrap_or_else(|mismatch| panic!("{json} is refused: {mismatch:?}"))
    }

    /// The value that the component gives back for a value, or why the host refuses it: the schema first, as it does.
    pub fn take(&self, json: &Value) -> Result<Value, Mismatch> {
        let arguments = json!({ "x": json });
        let text = arguments.to_string();
        let (holds, charged) = (held(&arguments), memory::json_bytes(&text));
        assert!(holds <= charged, "{text} holds {holds} bytes, of which {charged} are charged");
        self.input.check(&arguments, u64::MAX)?;
        match self.function.arguments(&arguments, &mut Unseen) {
            Ok(params) => Ok(self.call(&params)),
            Err(CallError::InvalidArguments { path, reason }) => {
                let wrong = arguments.pointer(&path).unwrap_or(&Value::Null);
                assert!(is_beyond_schemas(wrong), "the schema takes {arguments}: at {path} it {reason}");
                Err(Mismatch { path, reason })
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Whether no schema can say that a value is wrong: a text that is no base64, and a float beyond a single one's range or beyond the integers that floats tell apart.
fn is_beyond_schemas(value: &Value) -> bool {
    value.is_string() || value.as_f64().is_some_and(|float| value.is_f64() && float.abs() >= 9_007_199_254_740_992.0)
}

/// The least that a value holds of memory.
fn held(value: &Value) -> u64 {
    let bytes = |n: usize| u64::try_from(n).expect("small");
    let inner: u64 = match value {
        Value::Array(items) => {
            items.iter().map(held).sum::<u64>() + bytes((items.capacity() - items.len()) * size_of::<Value>())
        }
        Value::Object(members) => members.iter().map(|(key, value)| held(value) + 56 + bytes(key.capacity())).sum(),
        Value::String(text) => bytes(text.len()),
        _ => 0,
    };
    bytes(size_of::<Value>()) + inner
}

/// A type, and JSON that may or may not be a value of it.
#[derive(Debug)]
pub struct Case {
    pub ty: Wit,
    pub value: Value,
}

/// The outcome of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The type has no schema.
    NotOffered,
    /// The value came back.
    Taken,
    /// The value was refused, with its place.
    Refused,
}

impl Case {
    pub fn parse(text: &str) -> Self {
        let mut case: Value = serde_json::from_str(text).expect("JSON");
        Self { ty: serde_json::from_value(case["type"].take()).expect("a type"), value: case["value"].take() }
    }

    /// Cases of one type: a legal value first, then what comes of changing it.
    pub fn some(random: &mut Random) -> Vec<Self> {
        let seed: Vec<u8> = (0..4).flat_map(|_| random.next().to_le_bytes()).collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let tree = wit::typed().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).expect("a value");
        let (mut ty, mut value) = tree.current();
        let around = if random.below(6) == 0 { random.below(40) } else { 0 };
        for _ in 0..around {
            (ty, value) = within(ty, value, random);
        }
        let mut values = vec![value.clone()];
        for _ in 0..20 {
            let changes = random.below(3) + 1;
            values.push((0..changes).fold(value.clone(), |value, _| json::mutated(&value, random)));
        }
        values.into_iter().map(|value| Self { ty: ty.clone(), value }).collect()
    }

    pub fn json(&self) -> Value {
        json!({ "type": self.ty, "value": self.value })
    }

    pub fn run(&self) -> Outcome {
        Echo::new(&self.ty).map_or(Outcome::NotOffered, |echo| self.run_on(&echo))
    }

    /// The same, on a component that is there.
    pub fn run_on(&self, echo: &Echo) -> Outcome {
        match (echo.take(&self.value), self.ty.canonical(&self.value)) {
            (Ok(back), Some(expected)) => {
                assert_eq!(back, expected, "{}", self.json());
                assert_eq!(echo.take(&back).as_ref(), Ok(&expected), "what comes back is legal: {}", self.json());
                Outcome::Taken
            }
            (Err(Mismatch { path, reason }), None) => {
                let arguments = json!({ "x": self.value });
                assert!(arguments.pointer(&path).is_some(), "there is nothing at {path}: {}", self.json());
                assert!(!reason.is_empty() && reason.len() < 100_000, "{reason}");
                Outcome::Refused
            }
            (taken, legal) => panic!("{}: the host says {taken:?}, the type {legal:?}", self.json()),
        }
    }
}

/// A type that has `ty` within it, and the value.
fn within(ty: Wit, value: Value, random: &mut Random) -> (Wit, Value) {
    let is_nullable = matches!(ty, Wit::Option(_));
    let is_byte = ty == Wit::U8;
    let boxed = Box::new(ty);
    match random.below(5) {
        0 if !is_byte => (Wit::List(boxed), json!([value])),
        1 if is_nullable => (Wit::Option(boxed), json!({ "some": value })),
        1 => (Wit::Option(boxed), value),
        2 => (Wit::Result(Some(boxed), None), json!({ "ok": value })),
        3 => (Wit::Record(vec![("a".into(), *boxed)]), json!({ "a": value })),
        _ => (Wit::Tuple(vec![*boxed]), json!([value])),
    }
}
