//! The parameters of a tool as fields of its arguments.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Expr, ExprLit, Ident, Lit, Token, Type,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

/// One parameter.
pub(crate) struct Parameter {
    attributes: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    own: Own,
}

/// The words of `#[arg(…)]`.
#[derive(Default)]
struct Own {
    default: Option<DefaultValue>,
    flatten: bool,
}

enum Word {
    Default(DefaultValue),
    Flatten,
}

/// The value of an argument that is absent.
enum DefaultValue {
    OfType,
    Expression(Box<Expr>),
}

impl Parameter {
    pub(crate) fn new(name: Ident, ty: Type, attributes: Vec<Attribute>) -> syn::Result<Self> {
        let (own, attributes): (Vec<_>, Vec<_>) =
            attributes.into_iter().partition(|attribute| attribute.path().is_ident("arg"));
        let mut words = Own::default();
        for attribute in own {
            for word in attribute.parse_args_with(Punctuated::<Word, Token![,]>::parse_terminated)? {
                match word {
                    Word::Default(default) => words.default = Some(default),
                    Word::Flatten => words.flatten = true,
                }
            }
        }
        Ok(Self { attributes, name, ty, own: words })
    }

    /// The field of the arguments, and the function that gives its default, if it has one of its own.
    pub(crate) fn declare(&self) -> (TokenStream, TokenStream) {
        let Self { attributes, name, ty, own } = self;
        let flatten = own.flatten.then(|| quote!(#[serde(flatten)]));
        let function = format_ident!("default_of_{name}");
        let (default, made) = match &own.default {
            None => (quote!(), quote!()),
            Some(DefaultValue::OfType) => (quote!(#[serde(default)]), quote!()),
            Some(DefaultValue::Expression(value)) => {
                let path = function.to_string();
                // A text is written as a literal, whatever owned type the parameter has.
                let is_text = matches!(**value, Expr::Lit(ExprLit { lit: Lit::Str(_), .. }));
                let value = if is_text { quote!(::core::convert::Into::into(#value)) } else { quote!(#value) };
                (quote!(#[serde(default = #path)]), quote!(fn #function() -> #ty { #value }))
            }
        };
        (quote!(#(#attributes)* #default #flatten #name: #ty), made)
    }
}

impl Parse for Word {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let word: Ident = input.parse()?;
        match word.to_string().as_str() {
            "default" if input.peek(Token![=]) => {
                input.parse::<Token![=]>()?;
                Ok(Self::Default(DefaultValue::Expression(input.parse()?)))
            }
            "default" => Ok(Self::Default(DefaultValue::OfType)),
            "flatten" => Ok(Self::Flatten),
            _ => Err(syn::Error::new(word.span(), "expected `default`, `default = EXPRESSION` or `flatten`")),
        }
    }
}
