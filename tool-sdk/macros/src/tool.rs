//! `#[tool]`: a function and the constant that describes it.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Attribute, Expr, FnArg, ItemFn, Lit, Meta, Pat, ReturnType, Type, spanned::Spanned as _};

use crate::{argument::Parameter, definition_name, options::Options};

/// The one parameter that is the whole arguments instead of a field of them.
const WHOLE: &str = "args";

pub(crate) fn expand(options: &Options, mut function: ItemFn) -> syn::Result<TokenStream> {
    refuse_unsupported(&function)?;
    let parameters = take_parameters(&mut function)?;
    let definition = definition(options, &function, &parameters);
    Ok(quote! {
        #function
        #definition
    })
}

fn refuse_unsupported(function: &ItemFn) -> syn::Result<()> {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        return Err(syn::Error::new(
            token.span(),
            "a tool is a plain function: the host runs calls side by side by itself",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(syn::Error::new(
            signature.generics.span(),
            "a tool cannot be generic: its arguments need one schema",
        ));
    }
    if description(&function.attrs).is_empty() {
        return Err(syn::Error::new(
            signature.ident.span(),
            "a tool needs a doc comment: it tells the caller what the tool does",
        ));
    }
    Ok(())
}

/// Takes the attributes off the parameters, where Rust would not allow them.
fn take_parameters(function: &mut ItemFn) -> syn::Result<Vec<Parameter>> {
    let mut parameters = Vec::new();
    for input in &mut function.sig.inputs {
        let FnArg::Typed(typed) = input else {
            return Err(syn::Error::new(input.span(), "a tool has no `self`"));
        };
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(syn::Error::new(
                typed.pat.span(),
                "a parameter of a tool is a plain name: it is the argument's name",
            ));
        };
        if let Type::Reference(reference) = &*typed.ty {
            return Err(syn::Error::new(reference.span(), "a parameter of a tool is owned: write `String` for `&str`"));
        }
        let attributes = std::mem::take(&mut typed.attrs);
        parameters.push(Parameter::new(pattern.ident.clone(), (*typed.ty).clone(), attributes)?);
    }
    Ok(parameters)
}

fn definition(options: &Options, function: &ItemFn, parameters: &[Parameter]) -> TokenStream {
    let constant = definition_name("TOOL", &function.sig.ident);
    let visibility = &function.vis;
    let name = options.name.as_ref().map_or_else(|| function.sig.ident.to_string(), syn::LitStr::value);
    let title = optional(&options.title);
    let description = description(&function.attrs);
    let annotations = annotations(options);
    let task = options.task.as_ref().map(|when| quote!(::mcpp_tool::internal::TaskSupport::#when));
    let task = optional(&task);
    let (arguments_type, derived_schema, call) = arguments(function, parameters);
    let input_schema = match &options.input_schema {
        Some(expression) => quote!(#expression),
        None => derived_schema,
    };
    let (output_schema, call) = output(&function.sig.output, &call);
    quote! {
        #[doc(hidden)]
        #[allow(dead_code, clippy::needless_question_mark, reason = "generated")]
        #visibility const #constant: ::mcpp_tool::internal::Definition = {
            #arguments_type
            fn input_schema() -> ::mcpp_tool::internal::serde_json::Value { #input_schema }
            fn call(
                arguments: ::mcpp_tool::internal::serde_json::Value,
            ) -> ::core::result::Result<::mcpp_tool::Output, ::mcpp_tool::Error> { #call }
            ::mcpp_tool::internal::Definition {
                name: #name,
                title: #title,
                description: #description,
                annotations: #annotations,
                task: #task,
                input_schema,
                output_schema: #output_schema,
                call,
            }
        };
    }
}

/// The type of the arguments, its schema, and the call of the function with them.
fn arguments(function: &ItemFn, parameters: &[Parameter]) -> (TokenStream, TokenStream, TokenStream) {
    let ident = &function.sig.ident;
    match parameters {
        [] => (
            quote!(),
            quote!(::mcpp_tool::internal::no_arguments_schema()),
            quote!({ let _none = arguments; #ident() }),
        ),
        [whole] if whole.name == WHOLE => {
            let ty = &whole.ty;
            (
                quote!(),
                quote!(::mcpp_tool::internal::input_schema::<#ty>()),
                quote!(#ident(::mcpp_tool::internal::parse::<#ty>(arguments)?)),
            )
        }
        fields => {
            let names: Vec<_> = fields.iter().map(|field| &field.name).collect();
            let (declared, defaults): (Vec<_>, Vec<_>) = fields.iter().map(Parameter::declare).unzip();
            let arguments_type = quote! {
                #[derive(::mcpp_tool::internal::serde::Deserialize, ::mcpp_tool::internal::schemars::JsonSchema)]
                #[serde(crate = "::mcpp_tool::internal::serde", deny_unknown_fields)]
                #[schemars(crate = "::mcpp_tool::internal::schemars")]
                struct Arguments { #(#declared,)* }
                #(#defaults)*
            };
            let call = quote!({
                let Arguments { #(#names),* } = ::mcpp_tool::internal::parse(arguments)?;
                #ident(#(#names),*)
            });
            (arguments_type, quote!(::mcpp_tool::internal::input_schema::<Arguments>()), call)
        }
    }
}

/// The output schema, and the call with its result turned into an output.
fn output(output: &ReturnType, call: &TokenStream) -> (TokenStream, TokenStream) {
    let into = quote!(::mcpp_tool::internal::IntoOutput);
    let nothing = || quote!(::mcpp_tool::internal::no_output_schema);
    let empty = quote!(::core::result::Result::Ok(::mcpp_tool::Output::default()));
    match output {
        ReturnType::Default => (nothing(), quote!({ #call; #empty })),
        ReturnType::Type(_, ty) => match success_type(ty) {
            Some(Type::Tuple(unit)) if unit.elems.is_empty() => (nothing(), quote!({ #call?; #empty })),
            Some(success) => (quote!(<#success as #into>::output_schema), quote!(#into::into_output(#call?))),
            None => (quote!(<#ty as #into>::output_schema), quote!(#into::into_output(#call))),
        },
    }
}

/// `T` of `Result<T, …>`.
pub(crate) fn success_type(ty: &Type) -> Option<&Type> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last().filter(|segment| segment.ident == "Result")?;
    let syn::PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    arguments
        .args
        .iter()
        .find_map(|argument| if let syn::GenericArgument::Type(ty) = argument { Some(ty) } else { None })
}

fn annotations(options: &Options) -> TokenStream {
    let [read_only, destructive, idempotent, open_world] =
        [options.read_only, options.destructive, options.idempotent, options.open_world].map(|flag| optional(&flag));
    quote!(::mcpp_tool::internal::Annotations {
        read_only: #read_only, destructive: #destructive, idempotent: #idempotent, open_world: #open_world,
    })
}

pub(crate) fn optional(value: &Option<impl ToTokens>) -> TokenStream {
    match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    }
}

/// The doc comment, as its author wrote it.
pub(crate) fn description(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let lines: Vec<String> = lines.map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n").trim().to_owned()
}
