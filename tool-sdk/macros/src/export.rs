//! `export!`: what a component is made of.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Ident, LitInt, LitStr, Path, Token, braced, bracketed,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
};

use crate::definition_name;

/// The parts of a component.
#[derive(Default)]
pub(crate) struct Parts {
    tools: Vec<Path>,
    resources: Vec<Path>,
    prompts: Vec<Path>,
    events: Vec<(LitStr, Path)>,
    timers: Option<Path>,
    migration: Option<(LitInt, Path)>,
    deferred: Option<Path>,
    batches: Vec<(Path, Path)>,
}

impl Parse for Parts {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let named = input.peek(Ident) && input.peek2(Token![:]) && !input.peek2(Token![::]);
        if !named {
            let tools = Punctuated::<Path, Token![,]>::parse_terminated(input)?;
            return Ok(Self { tools: tools.into_iter().collect(), ..Self::default() });
        }
        let mut parts = Self::default();
        while !input.is_empty() {
            parts.parse_part(input)?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(parts)
    }
}

impl Parts {
    fn parse_part(&mut self, input: ParseStream<'_>) -> syn::Result<()> {
        let part: Ident = input.parse()?;
        input.parse::<Token![:]>()?;
        match part.to_string().as_str() {
            "tools" => self.tools = paths(input)?,
            "resources" => self.resources = paths(input)?,
            "prompts" => self.prompts = paths(input)?,
            "events" => {
                let events;
                braced!(events in input);
                self.events =
                    Punctuated::<_, Token![,]>::parse_terminated_with(&events, subscription)?.into_iter().collect();
            }
            "batches" => {
                let batches;
                braced!(batches in input);
                self.batches =
                    Punctuated::<_, Token![,]>::parse_terminated_with(&batches, batch)?.into_iter().collect();
            }
            "timers" => self.timers = Some(input.parse()?),
            "deferred" => self.deferred = Some(input.parse()?),
            "migration" => {
                let format = input.parse()?;
                input.parse::<Token![=>]>()?;
                self.migration = Some((format, input.parse()?));
            }
            _ => {
                return Err(syn::Error::new(
                    part.span(),
                    "expected tools, resources, prompts, events, timers, migration, deferred or batches",
                ));
            }
        }
        Ok(())
    }
}

fn paths(input: ParseStream<'_>) -> syn::Result<Vec<Path>> {
    let paths;
    bracketed!(paths in input);
    Ok(Punctuated::<Path, Token![,]>::parse_terminated(&paths)?.into_iter().collect())
}

/// A tool, and the function that serves many calls of it.
fn batch(input: ParseStream<'_>) -> syn::Result<(Path, Path)> {
    let tool = input.parse()?;
    input.parse::<Token![=>]>()?;
    Ok((tool, input.parse()?))
}

/// The constants that hold the definitions of these functions.
fn definitions(kind: &str, paths: &[Path]) -> Vec<TokenStream> {
    let constant = |path: &Path| {
        let mut path = path.clone();
        if let Some(last) = path.segments.last_mut() {
            last.ident = definition_name(kind, &last.ident);
        }
        quote!(#path)
    };
    paths.iter().map(constant).collect()
}

fn subscription(input: ParseStream<'_>) -> syn::Result<(LitStr, Path)> {
    let topic: LitStr = input.parse()?;
    let text = topic.value();
    let name = |name: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        !name.is_empty() && name.len() <= 64 && name.chars().all(legal)
    };
    let is_topic = match text.split_once('/') {
        Some((component, topic)) => name(component) && (name(topic) || topic == "*"),
        None => name(&text) || text == "*",
    };
    if !is_topic {
        let expected = "a topic is `<component>/<name>`, or `<name>` for one of this component, each 1 to 64 characters of `a-z A-Z 0-9 _ -`; `<component>/*` and `*` stand for those that the grant names";
        return Err(syn::Error::new(topic.span(), expected));
    }
    input.parse::<Token![=>]>()?;
    Ok((topic, input.parse()?))
}

pub(crate) fn expand(parts: &Parts) -> TokenStream {
    let definitions = definitions("TOOL", &parts.tools);
    let (primitives, tasks, batches) = (primitives(parts), tasks(parts), batches(parts));
    let (handler, migration, deferred) = (handler(parts), migration(parts), deferred(parts));
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
            #tasks
            #batches
        };
        #primitives
        #handler
        #migration
        #deferred
    }
}

/// A component without tools says nothing of them.
fn tasks(parts: &Parts) -> TokenStream {
    if parts.tools.is_empty() {
        return TokenStream::new();
    }
    quote! {
        #[cfg(target_arch = "wasm32")]
        type McppTasks = ::mcpp_tool::internal::TaskComponent<McppTools>;
        #[cfg(target_arch = "wasm32")]
        ::mcpp_tool::internal::export_task_support!(
            McppTasks with_types_in ::mcpp_tool::bindings::task_support
        );
    }
}

/// The tools of which it serves many calls at once.
fn batches(parts: &Parts) -> TokenStream {
    if parts.batches.is_empty() {
        return TokenStream::new();
    }
    let (tools, serving): (Vec<Path>, Vec<Path>) = parts.batches.iter().cloned().unzip();
    let tools = definitions("TOOL", &tools);
    quote! {
        #[allow(dead_code, reason = "used by the component")]
        const BATCHES: &[::mcpp_tool::internal::Batch] = &[#(
            ::mcpp_tool::internal::Batch {
                tool: &#tools,
                call: |arguments| ::mcpp_tool::internal::serve(arguments, #serving),
            }
        ),*];
        impl ::mcpp_tool::internal::Batches for McppTools {
            const BATCHES: &'static [::mcpp_tool::internal::Batch] = BATCHES;
        }
        #[cfg(target_arch = "wasm32")]
        type McppBatches = ::mcpp_tool::internal::BatchComponent<McppTools>;
        #[cfg(target_arch = "wasm32")]
        ::mcpp_tool::internal::export_batch!(McppBatches with_types_in ::mcpp_tool::bindings::batch);
    }
}

/// The answers that its calls put off.
fn deferred(parts: &Parts) -> TokenStream {
    let Some(work) = &parts.deferred else { return TokenStream::new() };
    quote! {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type McppDeferred = ::mcpp_tool::internal::DeferredComponent<#work>;
            ::mcpp_tool::internal::export_deferred!(McppDeferred with_types_in ::mcpp_tool::bindings::deferred);
        };
    }
}

/// A component exports only the interfaces for which it has something: resources, prompts, and the completions of either.
fn primitives(parts: &Parts) -> TokenStream {
    let (has_resources, has_prompts) = (!parts.resources.is_empty(), !parts.prompts.is_empty());
    if !has_resources && !has_prompts {
        return TokenStream::new();
    }
    let (resources, prompts) = (definitions("RESOURCE", &parts.resources), definitions("PROMPT", &parts.prompts));
    let export = |macro_name: TokenStream, component: TokenStream, module: TokenStream| {
        quote! {
            #[cfg(target_arch = "wasm32")]
            const _: () = {
                type McppPrimitive = #component;
                ::mcpp_tool::internal::#macro_name!(McppPrimitive with_types_in ::mcpp_tool::bindings::#module);
            };
        }
    };
    let reads = has_resources.then(|| {
        export(
            quote!(export_resources),
            quote!(::mcpp_tool::internal::ResourceComponent<McppPrimitives>),
            quote!(resources),
        )
    });
    let gets = has_prompts.then(|| {
        export(quote!(export_prompts), quote!(::mcpp_tool::internal::PromptComponent<McppPrimitives>), quote!(prompts))
    });
    let completes = export(
        quote!(export_completions),
        quote!(::mcpp_tool::internal::CompletionComponent<McppPrimitives, McppPrimitives>),
        quote!(completions),
    );
    quote! {
        const _: () = {
            #[allow(dead_code, reason = "used by the component")]
            struct McppPrimitives;
            impl ::mcpp_tool::internal::Resources for McppPrimitives {
                const RESOURCES: &'static [&'static ::mcpp_tool::internal::ResourceDefinition] = &[#(&#resources),*];
            }
            impl ::mcpp_tool::internal::Prompts for McppPrimitives {
                const PROMPTS: &'static [&'static ::mcpp_tool::internal::PromptDefinition] = &[#(&#prompts),*];
            }
            #reads
            #gets
            #completes
        };
    }
}

fn handler(parts: &Parts) -> TokenStream {
    if parts.events.is_empty() && parts.timers.is_none() {
        return TokenStream::new();
    }
    let events = parts.events.iter().map(|(topic, handler)| quote!((#topic, #handler)));
    let timers = match &parts.timers {
        Some(handler) => quote!(::core::option::Option::Some(#handler)),
        None => quote!(::core::option::Option::None),
    };
    quote! {
        const _: () = {
            #[allow(dead_code, reason = "used by the component")]
            struct McppHandlers;
            use ::mcpp_tool::events::{OnEvent, OnWake};
            #[allow(dead_code, reason = "used by the component")]
            const EVENTS: &[(&str, OnEvent)] = &[#(#events),*];
            #[allow(dead_code, reason = "used by the component")]
            const TIMERS: ::core::option::Option<OnWake> = #timers;
            impl ::mcpp_tool::internal::Handlers for McppHandlers {
                const EVENTS: &'static [(&'static str, OnEvent)] = EVENTS;
                const TIMERS: ::core::option::Option<OnWake> = TIMERS;
            }
            #[cfg(target_arch = "wasm32")]
            type McppHandlerComponent = ::mcpp_tool::internal::HandlerComponent<McppHandlers>;
            #[cfg(target_arch = "wasm32")]
            ::mcpp_tool::internal::export_handler!(
                McppHandlerComponent with_types_in ::mcpp_tool::bindings::handler
            );
        };
    }
}

fn migration(parts: &Parts) -> TokenStream {
    let Some((format, step)) = &parts.migration else { return TokenStream::new() };
    quote! {
        const _: () = {
            #[allow(dead_code, reason = "used by the component")]
            struct McppMigration;
            use ::mcpp_tool::internal::Step;
            #[allow(dead_code, reason = "used by the component")]
            const STEP: Step = #step;
            impl ::mcpp_tool::internal::Migration for McppMigration {
                const FORMAT: u32 = #format;
                const STEP: Step = STEP;
            }
            #[cfg(target_arch = "wasm32")]
            type McppMigrationComponent = ::mcpp_tool::internal::MigrationComponent<McppMigration>;
            #[cfg(target_arch = "wasm32")]
            ::mcpp_tool::internal::export_migration!(
                McppMigrationComponent with_types_in ::mcpp_tool::bindings::migration
            );
        };
    }
}
