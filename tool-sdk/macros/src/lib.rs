//! The macros of `mcpp-tool`: [`macro@tool`] makes a tool of a function, [`export!`] a component of tools.

mod argument;
mod export;
mod options;
mod primitive;
mod tool;

use proc_macro::TokenStream;
use syn::{Ident, parse_macro_input};

/// Makes a tool of a function. The function itself stays as it is.
///
/// Options, all optional: `name = "…"`, `title = "…"`, `read_only`, `destructive`, `idempotent`, `open_world` (each also `= false`), and
/// `input_schema = EXPRESSION` (a `serde_json::Value`), which replaces the schema derived from the parameters.
///
/// Attributes on parameters (doc comments, `#[serde(…)]`, `#[schemars(…)]`) are those of the argument's fields. Two are this macro's own:
///
/// - `#[arg(default)]` and `#[arg(default = EXPRESSION)]`: the argument may be absent, and is the type's default or the expression then. The schema shows it.
/// - `#[arg(flatten)]`: the fields of the parameter's type (which derives `Deserialize` and `JsonSchema`) are arguments themselves, so that several tools can share them.
#[proc_macro_attribute]
pub fn tool(options: TokenStream, function: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let function = parse_macro_input!(function as syn::ItemFn);
    tool::expand(&options, function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a component of the tools named: `mcpp_tool::export!(add, subtract);`.
///
/// With handlers of events and timers, or a migration of its data, by name; every part is optional:
///
/// ```ignore
/// mcpp_tool::export! {
///     tools: [add, subtract],
///     resources: [note],
///     prompts: [review],
///     events: { "queue/done" => on_done, "own-topic" => on_own },   // fn(Event) -> Result<(), Error>; `"*"` for all that the grant names
///     timers: on_wake,                                                // fn(Wake) -> Result<(), Error>
///     deferred: Jobs,                                                 // a type with `mcpp_tool::deferred::Deferred`
///     migration: 2 => migrate,  // fn(&Transaction, u32, Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error>
/// }
/// ```
#[proc_macro]
pub fn export(parts: TokenStream) -> TokenStream {
    export::expand(&parse_macro_input!(parts as export::Parts)).into()
}

/// Makes a resource of a function, or all resources whose URIs fit a template: `#[resource("notes://{id}")]`. The function's parameters are the template's variables.
///
/// Options, all optional: `name = "…"`, `title = "…"`, `mime_type = "…"`, `list = FUNCTION` (`fn() -> Result<Vec<Resource>, Error>`: those that clients see in the
/// list), `is_listed = FUNCTION` (`fn() -> bool`) and `subscribe = FUNCTION` (`fn(&str) -> Result<(), Error>`). `#[arg(complete = FUNCTION)]` (`fn(&str) -> Vec<String>`)
/// on a parameter proposes its values.
#[proc_macro_attribute]
pub fn resource(options: TokenStream, function: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as primitive::PrimitiveOptions);
    let function = parse_macro_input!(function as syn::ItemFn);
    primitive::resource(&options, function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a prompt of a function. Its parameters are the arguments: `String`, or `Option<String>` where it may be absent.
///
/// Options, all optional: `name = "…"`, `title = "…"`, `icons = FUNCTION` (`fn() -> Vec<Icon>`) and `is_listed = FUNCTION` (`fn() -> bool`).
/// `#[arg(complete = FUNCTION)]` (`fn(&str) -> Vec<String>`) on a parameter proposes its values.
#[proc_macro_attribute]
pub fn prompt(options: TokenStream, function: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as primitive::PrimitiveOptions);
    let function = parse_macro_input!(function as syn::ItemFn);
    primitive::prompt(&options, function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// The constant that holds the definition of a tool, a resource or a prompt.
fn definition_name(kind: &str, function: &Ident) -> Ident {
    quote::format_ident!("MCPP_{}_{}", kind, function.to_string().to_uppercase())
}
