//! `#[resource]` and `#[prompt]`: a function and the constant that describes it.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, FnArg, Ident, ItemFn, LitStr, Pat, Path, ReturnType, Token, Type,
    parse::{Parse, ParseStream},
    spanned::Spanned as _,
};

use crate::{
    definition_name,
    tool::{description, optional, success_type},
};

/// The options of either.
#[derive(Default)]
pub(crate) struct PrimitiveOptions {
    uri: Option<LitStr>,
    name: Option<LitStr>,
    title: Option<LitStr>,
    mime_type: Option<LitStr>,
    list: Option<Path>,
    is_listed: Option<Path>,
    subscribe: Option<Path>,
    icons: Option<Path>,
}

impl Parse for PrimitiveOptions {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            if input.peek(LitStr) {
                options.uri = Some(input.parse()?);
            } else {
                let key: Ident = input.parse()?;
                input.parse::<Token![=]>()?;
                match key.to_string().as_str() {
                    "name" => options.name = Some(input.parse()?),
                    "title" => options.title = Some(input.parse()?),
                    "mime_type" => options.mime_type = Some(input.parse()?),
                    "list" => options.list = Some(input.parse()?),
                    "is_listed" => options.is_listed = Some(input.parse()?),
                    "subscribe" => options.subscribe = Some(input.parse()?),
                    "icons" => options.icons = Some(input.parse()?),
                    _ => {
                        let known = "name, title, mime_type, list, is_listed, subscribe or icons";
                        return Err(syn::Error::new(key.span(), format!("unknown option; expected {known}")));
                    }
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

/// One parameter: an argument of a prompt, or a variable of a template.
struct Argument {
    name: Ident,
    ty: Type,
    description: String,
    complete: Option<Path>,
}

impl Argument {
    fn complete(&self) -> TokenStream {
        optional(&self.complete)
    }
}

fn take_arguments(function: &mut ItemFn) -> syn::Result<Vec<Argument>> {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        return Err(syn::Error::new(token.span(), "a plain function: the host runs requests side by side by itself"));
    }
    if description(&function.attrs).is_empty() {
        return Err(syn::Error::new(signature.ident.span(), "it needs a doc comment: it tells a model what this is"));
    }
    let mut arguments = Vec::new();
    for input in &mut function.sig.inputs {
        let FnArg::Typed(typed) = input else { return Err(syn::Error::new(input.span(), "there is no `self` here")) };
        let Pat::Ident(pattern) = &*typed.pat else {
            return Err(syn::Error::new(typed.pat.span(), "a parameter is a plain name: it is the argument's name"));
        };
        let attributes = std::mem::take(&mut typed.attrs);
        let (own, rest): (Vec<_>, Vec<_>) = attributes.into_iter().partition(|one| one.path().is_ident("arg"));
        let complete = own.first().map(read_complete).transpose()?;
        let (name, ty) = (pattern.ident.clone(), (*typed.ty).clone());
        arguments.push(Argument { name, ty, description: description(&rest), complete });
    }
    Ok(arguments)
}

fn read_complete(attribute: &Attribute) -> syn::Result<Path> {
    attribute.parse_args_with(|input: ParseStream<'_>| {
        let word: Ident = input.parse()?;
        if word != "complete" {
            return Err(syn::Error::new(word.span(), "expected `complete = FUNCTION`"));
        }
        input.parse::<Token![=]>()?;
        input.parse()
    })
}

/// The call of the function, as a `Result`, and the type that it gives.
fn call(function: &ItemFn, values: &[TokenStream]) -> TokenStream {
    let ident = &function.sig.ident;
    let call = quote!(#ident(#(#values),*));
    match &function.sig.output {
        ReturnType::Type(_, ty) if success_type(ty).is_some() => quote!(#call?),
        _ => call,
    }
}

pub(crate) fn prompt(options: &PrimitiveOptions, mut function: ItemFn) -> syn::Result<TokenStream> {
    let arguments = take_arguments(&mut function)?;
    if let Some(uri) = &options.uri {
        return Err(syn::Error::new(uri.span(), "a prompt has no URI; its name is `name = \"…\"` or the function's"));
    }
    let (constant, visibility) = (definition_name("PROMPT", &function.sig.ident), &function.vis);
    let name = options.name.as_ref().map_or_else(|| function.sig.ident.to_string(), LitStr::value);
    let (title, text) = (optional(&options.title), description(&function.attrs));
    let (icons, is_listed) = (optional(&options.icons), optional(&options.is_listed));
    let listed = arguments.iter().map(|argument| {
        let (name, ty, text) = (argument.name.to_string(), &argument.ty, &argument.description);
        let complete = argument.complete();
        quote!(::mcpp_tool::internal::ArgumentDefinition {
            name: #name,
            description: #text,
            required: <#ty as ::mcpp_tool::internal::FromArgument>::REQUIRED,
            complete: #complete,
        })
    });
    let values: Vec<TokenStream> = arguments
        .iter()
        .map(|argument| {
            let (name, ty) = (argument.name.to_string(), &argument.ty);
            quote!(<#ty as ::mcpp_tool::internal::FromArgument>::from_argument(#name, arguments.remove(#name))?)
        })
        .collect();
    let call = call(&function, &values);
    Ok(quote! {
        #function
        #[doc(hidden)]
        #[allow(dead_code, unused_mut, unused_variables, reason = "generated")]
        #visibility const #constant: ::mcpp_tool::internal::PromptDefinition = {
            fn get(
                mut arguments: ::std::collections::BTreeMap<::std::string::String, ::std::string::String>,
            ) -> ::core::result::Result<::mcpp_tool::prompts::Filled, ::mcpp_tool::Error> {
                ::core::result::Result::Ok(::mcpp_tool::internal::IntoFilled::into_filled(#call))
            }
            ::mcpp_tool::internal::PromptDefinition {
                name: #name,
                title: #title,
                description: #text,
                icons: #icons,
                is_listed: #is_listed,
                arguments: &[#(#listed),*],
                get,
            }
        };
    })
}

/// The names of a template's variables.
fn variables(uri: &LitStr) -> syn::Result<Vec<String>> {
    let text = uri.value();
    let mut names = Vec::new();
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else {
            return Err(syn::Error::new(uri.span(), "the template has a `{` without a `}`"));
        };
        let name = name.strip_prefix('+').unwrap_or(name);
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(syn::Error::new(uri.span(), "an expression is `{name}`, or `{+name}` for a value with `/`"));
        }
        names.push(name.to_owned());
        rest = after;
    }
    if !text.contains(':') {
        return Err(syn::Error::new(uri.span(), "a resource has an absolute URI, such as `notes://{id}`"));
    }
    Ok(names)
}

pub(crate) fn resource(options: &PrimitiveOptions, mut function: ItemFn) -> syn::Result<TokenStream> {
    let arguments = take_arguments(&mut function)?;
    let ident = &function.sig.ident;
    let Some(uri) = &options.uri else {
        return Err(syn::Error::new(ident.span(), "which URI? `#[resource(\"notes://{id}\")]`"));
    };
    let mut expected = variables(uri)?;
    let mut given: Vec<String> = arguments.iter().map(|argument| argument.name.to_string()).collect();
    expected.sort();
    given.sort();
    if expected != given {
        return Err(syn::Error::new(uri.span(), "the parameters of the function are the variables of the template"));
    }
    let (constant, visibility) = (definition_name("RESOURCE", ident), &function.vis);
    let name = options.name.as_ref().map_or_else(|| ident.to_string(), LitStr::value);
    let (title, mime_type, text) =
        (optional(&options.title), optional(&options.mime_type), description(&function.attrs));
    let (list, is_listed, subscribe) =
        (optional(&options.list), optional(&options.is_listed), optional(&options.subscribe));
    let completions = arguments.iter().filter_map(|argument| {
        let (name, complete) = (argument.name.to_string(), argument.complete.as_ref()?);
        Some(quote!((#name, #complete)))
    });
    let values: Vec<TokenStream> = arguments
        .iter()
        .map(|argument| {
            let (name, ty) = (argument.name.to_string(), &argument.ty);
            quote!(<#ty as ::mcpp_tool::internal::FromArgument>::from_argument(#name, variables.get(#name).cloned())?)
        })
        .collect();
    let call = call(&function, &values);
    Ok(quote! {
        #function
        #[doc(hidden)]
        #[allow(dead_code, unused_variables, reason = "generated")]
        #visibility const #constant: ::mcpp_tool::internal::ResourceDefinition = {
            fn read(
                uri: &str,
                variables: &::std::collections::BTreeMap<&str, ::std::string::String>,
            ) -> ::core::result::Result<
                ::core::option::Option<::std::vec::Vec<::mcpp_tool::resources::Contents>>,
                ::mcpp_tool::Error,
            > {
                ::core::result::Result::Ok(::mcpp_tool::internal::IntoContents::into_contents(#call, uri, #mime_type))
            }
            ::mcpp_tool::internal::ResourceDefinition {
                uri: #uri,
                name: #name,
                title: #title,
                description: #text,
                mime_type: #mime_type,
                list: #list,
                is_listed: #is_listed,
                subscribe: #subscribe,
                completions: &[#(#completions),*],
                read,
            }
        };
    })
}
