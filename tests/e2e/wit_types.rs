//! WIT types as JSON, both ways, for types that nobody thought of: generated ones, and the table in the docs.

use std::fmt::Write as _;

use mcpp::{call::CallError, plain::handles::Unseen, schema::Schema};
use proptest::{prelude::*, test_runner::TestCaseError};
use serde_json::{Value, json};
use wasmtime::component::Val;

use crate::fuzz::targets::{
    values::Echo,
    wit::{self, Wit},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out((ty, json) in wit::typed()) {
        prop_assert_eq!(Echo::new(&ty).expect("it has a schema").round_trip(&json), json, "{}", ty);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place((ty, json) in wit::typed(), choices in proptest::collection::vec(any::<usize>(), 12)) {
        let function = Echo::new(&ty).expect("it has a schema").function;
        let (json, path) = ty.spoil(&json, "/x", &mut choices.into_iter());
        let arguments = json!({ "x": json });
        match function.arguments(&arguments, &mut Unseen) {
            Err(CallError::InvalidArguments { path: named, .. }) => prop_assert_eq!(named, path, "{} as {}", arguments, ty),
            other => return Err(TestCaseError::fail(format!("{arguments} as {ty}: {other:?}"))),
        }
        let schema = Schema::compile(function.input_schema.clone()).expect("a schema");
        prop_assert!(schema.check(&arguments, u64::MAX).is_err(), "{} takes {}", function.input_schema, arguments);
    }
}

#[test]
fn what_json_cannot_say_has_a_form() {
    let give = |ty: &Wit, val: Val| Echo::new(ty).expect("it has a schema").give(val);
    assert_eq!(give(&Wit::F64, Val::Float64(f64::NAN)), json!("NaN"));
    assert_eq!(give(&Wit::F32, Val::Float32(f32::NEG_INFINITY)), json!("-Infinity"));
    assert_eq!(give(&Wit::F32, Val::Float32(0.1)), json!(0.1));
    // An empty list of bytes is no empty list.
    assert_eq!(give(&Wit::List(Box::new(Wit::U8)), Val::List(Vec::new())), json!(""));
    let twice = Wit::Option(Box::new(Wit::Option(Box::new(Wit::Bool))));
    assert_eq!(give(&twice, Val::Option(None)), json!(null));
    assert_eq!(give(&twice, Val::Option(Some(Box::new(Val::Option(None))))), json!({ "some": null }));
}

#[test]
fn every_wrong_argument_has_a_place_and_a_reason() {
    let number = || Box::new(Wit::U8);
    let rows = [
        (Wit::U8, json!(256)),
        (Wit::U8, json!(-1)),
        (Wit::U8, json!(1.5)),
        (Wit::S64, json!(9_223_372_036_854_775_808_u64)),
        (Wit::F32, json!(1e300)),
        (Wit::Char, json!("")),
        (Wit::Char, json!("ab")),
        (Wit::String, json!(1)),
        (Wit::List(number()), json!("a?")),
        (Wit::List(number()), json!([1])),
        (Wit::List(Box::new(Wit::Bool)), json!([true, 1])),
        (Wit::Tuple(vec![Wit::U8, Wit::Bool]), json!([1])),
        (Wit::Record(vec![("a-b".into(), Wit::U8)]), json!({})),
        (Wit::Record(vec![("a".into(), Wit::Record(vec![("b".into(), Wit::U8)]))]), json!({ "a": { "b": "1" } })),
        (Wit::Variant(vec![("none".into(), None), ("some".into(), Some(Wit::U8))]), json!("some")),
        (Wit::Variant(vec![("none".into(), None), ("some".into(), Some(Wit::U8))]), json!({ "some": true })),
        (Wit::Variant(vec![("none".into(), None), ("some".into(), Some(Wit::U8))]), json!({ "other": 1 })),
        (Wit::Enum(vec!["a".into(), "b".into()]), json!("c")),
        (Wit::Flags(vec!["a".into(), "b".into()]), json!(["a", "c"])),
        (Wit::Option(Box::new(Wit::Option(number()))), json!(1)),
        (Wit::Option(number()), json!("1")),
        (Wit::Result(Some(number()), None), json!({ "ok": null })),
        (Wit::Result(Some(number()), None), json!("fine")),
    ];
    let mut seen = String::new();
    for (ty, json) in rows {
        let error = Echo::new(&ty)
            .expect("it has a schema")
            .function
            .arguments(&json!({ "x": json }), &mut Unseen)
            .expect_err("wrong");
        writeln!(seen, "{ty} from {json}: {error}").expect("written");
    }
    insta::assert_snapshot!(seen);
}

/// Every kind of type, with an example.
fn examples() -> Vec<(Wit, Value)> {
    let name = str::to_owned;
    vec![
        (Wit::Bool, json!(true)),
        (Wit::S8, json!(-8)),
        (Wit::U8, json!(255)),
        (Wit::S16, json!(-16)),
        (Wit::U16, json!(16)),
        (Wit::S32, json!(-32)),
        (Wit::U32, json!(32)),
        (Wit::S64, json!(-64)),
        (Wit::U64, json!(64)),
        (Wit::F32, json!(0.1)),
        (Wit::F64, json!(2.5)),
        (Wit::Char, json!("ß")),
        (Wit::String, json!("text")),
        (Wit::List(Box::new(Wit::String)), json!(["a", "b"])),
        (Wit::List(Box::new(Wit::U8)), json!("aGk=")),
        (Wit::Tuple(vec![Wit::Bool, Wit::String]), json!([true, "b"])),
        (
            Wit::Record(vec![(name("id"), Wit::String), (name("note"), Wit::Option(Box::new(Wit::String)))]),
            json!({ "id": "a", "note": null }),
        ),
        (Wit::Variant(vec![(name("none"), None), (name("only"), Some(Wit::String))]), json!({ "only": "a" })),
        (Wit::Enum(vec![name("red"), name("green")]), json!("green")),
        (Wit::Flags(vec![name("read"), name("write")]), json!(["read"])),
        (Wit::Option(Box::new(Wit::Bool)), json!(null)),
        (Wit::Option(Box::new(Wit::Option(Box::new(Wit::Bool)))), json!({ "some": null })),
        (Wit::Result(Some(Box::new(Wit::Bool)), Some(Box::new(Wit::String))), json!({ "err": "why" })),
    ]
}

#[test]
fn the_documented_types_are_what_the_code_says() {
    let mut table = "| WIT | JSON Schema of an argument | example |\n|---|---|---|\n".to_owned();
    for (ty, example) in examples() {
        let echo = Echo::new(&ty).expect("it has a schema");
        assert_eq!(echo.round_trip(&example), example);
        let schema = &echo.function.input_schema["properties"]["x"];
        writeln!(table, "| `{ty}` | `{schema}` | `{example}` |").expect("written");
    }
    assert!(
        include_str!("../../tool-sdk/docs/components.md").contains(&table),
        "the docs have another table than this:\n{table}"
    );
}
