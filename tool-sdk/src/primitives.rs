//! The exports of a component that has resources and prompts, made of plain functions by [`export!`](crate::export!). Not for use by hand.
#![allow(missing_docs, reason = "hidden")]

use std::marker::PhantomData;

use crate::{
    Error,
    bindings::{
        completions::exports::mcpp::primitives::completions as completions_wit,
        prompts::exports::mcpp::primitives::prompts as prompts_wit,
        resources::{exports::mcpp::primitives::resources as resources_wit, mcpp::primitives::types as wit},
    },
    prompts::{Block, Filled, Message, PromptDefinition, Prompts},
    resources::{Annotations, Body, Contents, Icon, Resource, ResourceDefinition, Resources, Role, read},
};

/// Most values of a completion.
const MAX_VALUES: usize = 100;

/// The resources made of `R`.
#[derive(Debug)]
pub struct ResourceComponent<R>(PhantomData<R>);

impl<R: Resources + 'static> resources_wit::Guest for ResourceComponent<R> {
    fn list() -> Vec<wit::ResourceInfo> {
        let mut listed = Vec::new();
        for definition in R::RESOURCES {
            match definition.list {
                Some(list) => match list() {
                    Ok(resources) => {
                        listed.extend(resources.into_iter().map(|one| resource(described(one, definition))))
                    }
                    // At the component's load there is no store yet; the host lists again when there is.
                    Err(error) => {
                        crate::log::debug(format!("the resources of {} are not listed: {error}", definition.uri))
                    }
                },
                None if definition.is_template() => {}
                None if definition.is_listed.is_some_and(|is_listed| !is_listed()) => {}
                None => listed.push(resource(described(Resource::new(definition.uri, definition.name), definition))),
            }
        }
        listed
    }

    fn templates() -> Vec<resources_wit::TemplateInfo> {
        let templates = R::RESOURCES.iter().filter(|definition| definition.is_template());
        let template = |definition: &&ResourceDefinition| resources_wit::TemplateInfo {
            uri_template: definition.uri.to_owned(),
            name: definition.name.to_owned(),
            title: definition.title.map(str::to_owned),
            description: Some(definition.description.to_owned()),
            mime_type: definition.mime_type.map(str::to_owned),
            icons: Vec::new(),
            annotations: None,
            meta: None,
        };
        templates.map(template).collect()
    }

    fn read(uri: String) -> Result<Vec<wit::Contents>, resources_wit::ReadError> {
        match read(R::RESOURCES, &uri) {
            None => Err(resources_wit::ReadError::NotFound),
            Some(Ok(parts)) => Ok(parts.into_iter().map(contents).collect()),
            Some(Err(error)) => Err(resources_wit::ReadError::Failed(error.to_string())),
        }
    }

    fn subscribe(uri: String) -> Result<(), resources_wit::ReadError> {
        let fits = |definition: &&&ResourceDefinition| crate::resources::variables(definition.uri, &uri).is_some();
        let subscribe = R::RESOURCES.iter().filter(fits).find_map(|definition| definition.subscribe);
        let subscribed = subscribe.map_or(Ok(()), |subscribe| subscribe(&uri));
        subscribed.map_err(|error| resources_wit::ReadError::Failed(error.to_string()))
    }
}

/// A resource with what its function says, where its list does not.
fn described(one: Resource, definition: &ResourceDefinition) -> Resource {
    let is_single = !definition.is_template();
    Resource {
        title: one.title.or(definition.title.filter(|_| is_single).map(str::to_owned)),
        description: one.description.or_else(|| Some(definition.description.to_owned())),
        mime_type: one.mime_type.or(definition.mime_type.map(str::to_owned)),
        ..one
    }
}

/// The prompts made of `P`.
#[derive(Debug)]
pub struct PromptComponent<P>(PhantomData<P>);

impl<P: Prompts + 'static> prompts_wit::Guest for PromptComponent<P> {
    fn list() -> Vec<prompts_wit::PromptInfo> {
        let is_listed = |prompt: &&&PromptDefinition| prompt.is_listed.is_none_or(|is_listed| is_listed());
        let info = |prompt: &&PromptDefinition| prompts_wit::PromptInfo {
            name: prompt.name.to_owned(),
            title: prompt.title.map(str::to_owned),
            description: Some(prompt.description.to_owned()),
            arguments: prompt
                .arguments
                .iter()
                .map(|argument| prompts_wit::ArgumentInfo {
                    name: argument.name.to_owned(),
                    title: None,
                    description: (!argument.description.is_empty()).then(|| argument.description.to_owned()),
                    required: argument.required,
                })
                .collect(),
            icons: prompt.icons.map(|icons| icons().into_iter().map(icon).collect()).unwrap_or_default(),
            meta: None,
        };
        P::PROMPTS.iter().filter(is_listed).map(info).collect()
    }

    fn get(name: String, arguments: Vec<(String, String)>) -> Result<prompts_wit::Filled, prompts_wit::GetError> {
        let Some(prompt) = P::PROMPTS.iter().find(|prompt| prompt.name == name) else {
            return Err(prompts_wit::GetError::UnknownPrompt);
        };
        match (prompt.get)(arguments.into_iter().collect()) {
            Ok(Filled { description, messages }) => {
                let messages = messages.into_iter().map(message).collect();
                Ok(prompts_wit::Filled { description, messages, meta: None })
            }
            Err(Error::InvalidArgument { path, reason }) => {
                let name = path.trim_start_matches('/').to_owned();
                Err(prompts_wit::GetError::InvalidArgument(prompts_wit::WrongArgument { name, reason }))
            }
            Err(error) => Err(prompts_wit::GetError::Failed(error.to_string())),
        }
    }
}

/// The completions of `R` and `P`.
#[derive(Debug)]
pub struct CompletionComponent<R, P>(PhantomData<(R, P)>);

impl<R: Resources + 'static, P: Prompts + 'static> completions_wit::Guest for CompletionComponent<R, P> {
    fn complete(query: completions_wit::Query) -> completions_wit::Completion {
        let completions_wit::Query { reference, argument, value, .. } = query;
        let mut values = match reference {
            completions_wit::Reference::Prompt(name) => {
                let prompt = P::PROMPTS.iter().find(|prompt| prompt.name == name);
                prompt.map(|prompt| crate::prompts::complete(prompt, &argument, &value)).unwrap_or_default()
            }
            completions_wit::Reference::Template(template) => {
                let resource = R::RESOURCES.iter().find(|resource| resource.uri == template);
                let complete = resource.and_then(|resource| {
                    resource.completions.iter().find(|(name, _)| *name == argument).map(|(_, complete)| complete)
                });
                complete.map(|complete| complete(&value)).unwrap_or_default()
            }
        };
        let total = values.len();
        values.truncate(MAX_VALUES);
        completions_wit::Completion { values, total: u32::try_from(total).ok(), has_more: total > MAX_VALUES }
    }
}

fn meta(meta: Option<serde_json::Value>) -> Option<String> {
    meta.map(|meta| meta.to_string())
}

fn role(role: Role) -> wit::Role {
    match role {
        Role::User => wit::Role::User,
        Role::Assistant => wit::Role::Assistant,
    }
}

fn annotations(annotations: Annotations) -> wit::Annotations {
    let Annotations { audience, priority, last_modified } = annotations;
    wit::Annotations { audience: audience.into_iter().map(role).collect(), priority, last_modified }
}

fn icon(icon: Icon) -> wit::Icon {
    let theme = icon.dark.map(|dark| if dark { wit::Theme::Dark } else { wit::Theme::Light });
    wit::Icon { src: icon.src, mime_type: icon.mime_type, sizes: icon.sizes, theme }
}

fn resource(one: Resource) -> wit::ResourceInfo {
    wit::ResourceInfo {
        uri: one.uri,
        name: one.name,
        title: one.title,
        description: one.description,
        mime_type: one.mime_type,
        size: one.size,
        icons: one.icons.into_iter().map(icon).collect(),
        annotations: one.annotations.map(annotations),
        meta: meta(one.meta),
    }
}

fn contents(part: Contents) -> wit::Contents {
    let body = match part.body {
        Body::Text(text) => wit::Body::Text(text),
        Body::Binary(bytes) => wit::Body::Binary(bytes),
    };
    wit::Contents { uri: part.uri, mime_type: part.mime_type, body, meta: meta(part.meta) }
}

fn message(message: Message) -> prompts_wit::Message {
    let block = match message.block {
        Block::Text(text) => wit::Block::Text(text),
        Block::Image { data, mime_type } => wit::Block::Image(wit::Blob { data, mime_type }),
        Block::Audio { data, mime_type } => wit::Block::Audio(wit::Blob { data, mime_type }),
        Block::ResourceLink(link) => wit::Block::ResourceLink(resource(link)),
        Block::Resource(part) => wit::Block::EmbeddedResource(contents(part)),
    };
    let content = wit::Content { block, annotations: message.annotations.map(annotations), meta: None };
    prompts_wit::Message { role: role(message.role), content }
}
