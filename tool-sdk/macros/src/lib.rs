//! The macros of `mcpp-tool`: [`macro@tool`] makes a tool of a function, [`export!`] a component of tools.

mod options;
mod tool;

use proc_macro::TokenStream;
use quote::quote;
use syn::{Ident, Path, Token, parse_macro_input, punctuated::Punctuated};

/// Makes a tool of a function. The function itself stays as it is.
///
/// Options, all optional: `name = "…"`, `title = "…"`, `read_only`, `destructive`, `idempotent`, `open_world` (each also `= false`), and
/// `input_schema = EXPRESSION` (a `serde_json::Value`), which replaces the schema derived from the parameters.
///
/// Attributes on parameters (doc comments, `#[serde(…)]`, `#[schemars(…)]`) are those of the argument's fields.
#[proc_macro_attribute]
pub fn tool(options: TokenStream, function: TokenStream) -> TokenStream {
    let options = parse_macro_input!(options as options::Options);
    let function = parse_macro_input!(function as syn::ItemFn);
    tool::expand(&options, function).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Makes a component of the tools named: `mcpp_tool::export!(add, subtract);`.
#[proc_macro]
pub fn export(tools: TokenStream) -> TokenStream {
    let tools = parse_macro_input!(tools with Punctuated::<Path, Token![,]>::parse_terminated);
    let definitions = tools.iter().map(|path| {
        let mut path = path.clone();
        if let Some(last) = path.segments.last_mut() {
            last.ident = definition_name(&last.ident);
        }
        quote!(#path)
    });
    quote! {
        const _: () = {
            #[allow(dead_code, reason = "used by the component")]
            struct McppTools;
            impl ::mcpp_tool::internal::Tools for McppTools {
                const TOOLS: &'static [::mcpp_tool::internal::Definition] = &[#(#definitions),*];
            }
            // Only a component has exports; a native build is for tests, and its linker does not take their names.
            #[cfg(target_arch = "wasm32")]
            type McppComponent = ::mcpp_tool::internal::Component<McppTools>;
            #[cfg(target_arch = "wasm32")]
            ::mcpp_tool::internal::export_component!(McppComponent with_types_in ::mcpp_tool::bindings);
        };
    }
    .into()
}

/// The constant that holds a tool's definition.
fn definition_name(function: &Ident) -> Ident {
    quote::format_ident!("MCPP_TOOL_{}", function.to_string().to_uppercase())
}
