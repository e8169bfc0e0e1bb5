//! The options of `#[tool(…)]`.

use syn::{
    Expr, Ident, LitBool, LitStr, Token,
    parse::{Parse, ParseStream},
};

#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<LitStr>,
    pub(crate) title: Option<LitStr>,
    pub(crate) task: Option<Ident>,
    pub(crate) input_schema: Option<Expr>,
    pub(crate) read_only: Option<bool>,
    pub(crate) destructive: Option<bool>,
    pub(crate) idempotent: Option<bool>,
    pub(crate) open_world: Option<bool>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            match key.to_string().as_str() {
                "name" => options.name = Some(value(input)?),
                "title" => options.title = Some(value(input)?),
                "task" => options.task = Some(task(input)?),
                "input_schema" => options.input_schema = Some(value(input)?),
                "read_only" => options.read_only = Some(flag(input)?),
                "destructive" => options.destructive = Some(flag(input)?),
                "idempotent" => options.idempotent = Some(flag(input)?),
                "open_world" => options.open_world = Some(flag(input)?),
                _ => {
                    let known = "name, title, task, input_schema, read_only, destructive, idempotent or open_world";
                    return Err(syn::Error::new(key.span(), format!("unknown option; expected {known}")));
                }
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        options.check_name()?;
        Ok(options)
    }
}

impl Options {
    fn check_name(&self) -> syn::Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        let text = name.value();
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if text.is_empty() || text.len() > 128 || !text.chars().all(legal) {
            return Err(syn::Error::new(name.span(), "a tool's name is 1 to 128 characters of `A-Z a-z 0-9 _ . -`"));
        }
        Ok(())
    }
}

fn value<T: Parse>(input: ParseStream<'_>) -> syn::Result<T> {
    input.parse::<Token![=]>()?;
    input.parse()
}

/// `"never"`, `"may"` or `"must"`, as the name of its variant.
fn task(input: ParseStream<'_>) -> syn::Result<Ident> {
    let when = value::<LitStr>(input)?;
    let variant = match when.value().as_str() {
        "never" => "Never",
        "may" => "May",
        "must" => "Must",
        _ => return Err(syn::Error::new(when.span(), "expected \"never\", \"may\" or \"must\"")),
    };
    Ok(Ident::new(variant, when.span()))
}

/// `flag` or `flag = true`.
fn flag(input: ParseStream<'_>) -> syn::Result<bool> {
    if input.peek(Token![=]) { Ok(value::<LitBool>(input)?.value()) } else { Ok(true) }
}
