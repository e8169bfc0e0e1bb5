//! What components list beside tools: resources, templates and prompts, each checked once, and found by URI or name.
//!
//! A URI, a template or a prompt's name belongs to one component of a tenant. A component that lists another's, or a resource that fits another's template, is refused.
//! Of templates that fit a URI, the one with the longest literal beginning is meant; of two as long, the first by its text.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{error::InstallError, primitives::PrimitiveService, template::UriTemplate};
use crate::{
    capability::{
        bindings::{
            mcpp::primitives::types::{Annotations, Icon, ResourceInfo},
            prompts::exports::mcpp::primitives::prompts::PromptInfo,
            resources::exports::mcpp::primitives::resources::TemplateInfo,
        },
        changed::MAX_URI_BYTES,
    },
    guest::primitives::ResourceLists,
    names::ToolName,
};

/// Most resources of one component.
const MAX_RESOURCES: usize = 1_000;
/// Most templates of one component.
const MAX_TEMPLATES: usize = 100;
/// Most templates of one tenant: a URI that no list names is held against each.
const MAX_TENANT_TEMPLATES: usize = 500;
/// Most prompts of one component.
const MAX_PROMPTS: usize = 256;
/// Most arguments of a prompt.
const MAX_ARGUMENTS: usize = 32;
/// The longest name, title and description, in bytes.
const MAX_TEXT_BYTES: usize = 16 << 10;
/// The longest media type, size and date, in bytes.
const MAX_WORD_BYTES: usize = 256;
/// Most icons of one thing, and most sizes of an icon.
const MAX_ICONS: usize = 8;
/// The longest source of an icon, in bytes.
const MAX_ICON_BYTES: usize = 8 << 10;
/// The longest `_meta`, in bytes.
pub const MAX_META_BYTES: usize = 16 << 10;
/// The most that one component lists, in bytes.
const MAX_LIST_BYTES: usize = 4 << 20;

/// One thing that a component lists.
#[derive(Debug)]
pub struct Listed<T> {
    /// As the component describes it.
    pub info: T,
    /// The same as text, which is different where a client sees something else.
    pub shown: String,
    /// How it is asked.
    pub service: Arc<PrimitiveService>,
}

/// A template, and the form of its URIs.
#[derive(Debug)]
pub struct ListedTemplate {
    /// The template as it is listed.
    pub listed: Listed<TemplateInfo>,
    form: UriTemplate,
}

/// The lists of one component.
#[derive(Debug, Default)]
pub struct ComponentLists {
    /// Its resources by URI.
    pub resources: BTreeMap<Arc<str>, Arc<Listed<ResourceInfo>>>,
    /// Its templates by text.
    pub templates: BTreeMap<Arc<str>, Arc<ListedTemplate>>,
    /// Its prompts by name.
    pub prompts: BTreeMap<Arc<str>, Arc<Listed<PromptInfo>>>,
}

impl ComponentLists {
    /// Checks what a component lists.
    pub fn check(
        service: &Arc<PrimitiveService>,
        lists: Option<ResourceLists>,
        prompts: Option<Vec<PromptInfo>>,
    ) -> Result<Self, InstallError> {
        let (resources, templates) = lists.unwrap_or_default();
        let prompts = prompts.unwrap_or_default();
        let most = [
            ("resources", resources.len(), MAX_RESOURCES),
            ("templates", templates.len(), MAX_TEMPLATES),
            ("prompts", prompts.len(), MAX_PROMPTS),
        ];
        if let Some((what, count, most)) = most.into_iter().find(|(_, count, most)| count > most) {
            return Err(InstallError::Lists(format!("it lists {count} {what}; at most {most} are allowed")));
        }
        let mut lists = Self::default();
        for info in resources {
            let refuse = |reason: String| listed_error("resource", &info.uri, &reason);
            check_resource(&info).map_err(refuse)?;
            let (uri, shown) = (Arc::from(info.uri.as_str()), format!("{info:?}"));
            let listed = Arc::new(Listed { info, shown, service: Arc::clone(service) });
            if let Some(twice) = lists.resources.insert(uri, listed) {
                return Err(listed_error("resource", &twice.info.uri, "it is listed twice"));
            }
        }
        for info in templates {
            let refuse = |reason: String| listed_error("template", &info.uri_template, &reason);
            let form = check_template(&info).map_err(refuse)?;
            let (text, shown) = (Arc::from(info.uri_template.as_str()), format!("{info:?}"));
            let listed = Listed { info, shown, service: Arc::clone(service) };
            if lists.templates.insert(Arc::clone(&text), Arc::new(ListedTemplate { listed, form })).is_some() {
                return Err(listed_error("template", &text, "it is listed twice"));
            }
        }
        for info in prompts {
            let refuse = |reason: String| listed_error("prompt", &info.name, &reason);
            check_prompt(&info).map_err(refuse)?;
            let (name, shown) = (Arc::from(info.name.as_str()), format!("{info:?}"));
            let listed = Arc::new(Listed { info, shown, service: Arc::clone(service) });
            if let Some(twice) = lists.prompts.insert(name, listed) {
                return Err(listed_error("prompt", &twice.info.name, "it is listed twice"));
            }
        }
        if lists.bytes() > MAX_LIST_BYTES {
            let reason = format!("its lists of resources and prompts have more than {MAX_LIST_BYTES} bytes together");
            return Err(InstallError::Lists(reason));
        }
        Ok(lists)
    }

    /// Bytes of all that is listed, about.
    pub fn bytes(&self) -> usize {
        let shown = self.shown().map(|(_, name, text)| name.len().saturating_add(text.len().saturating_mul(2)));
        shown.fold(0, usize::saturating_add)
    }

    /// Everything that is listed: its kind, its name, and what clients read of it.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, &str, &str)> {
        let resources = self.resources.values().map(|one| ("resource", &*one.info.uri, &*one.shown));
        let templates =
            self.templates.values().map(|one| ("template", &*one.listed.info.uri_template, &*one.listed.shown));
        let prompts = self.prompts.values().map(|one| ("prompt", &*one.info.name, &*one.shown));
        resources.chain(templates).chain(prompts)
    }
}

/// The lists of all components of a tenant.
#[derive(Debug, Default, Clone)]
pub struct CatalogLists {
    components: BTreeMap<String, Arc<ComponentLists>>,
    resources: BTreeMap<Arc<str>, Arc<Listed<ResourceInfo>>>,
    templates: BTreeMap<Arc<str>, Arc<ListedTemplate>>,
    prompts: BTreeMap<Arc<str>, Arc<Listed<PromptInfo>>>,
}

/// The parts of the lists that a client sees changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListsChanged {
    /// The list of resources or templates.
    pub resources: bool,
    /// The list of prompts.
    pub prompts: bool,
}

impl CatalogLists {
    /// These lists with those of one component in the place of the ones that it had.
    pub fn with(&self, component: &str, lists: Arc<ComponentLists>) -> Result<Self, InstallError> {
        let mut next = self.without(component);
        for (uri, resource) in &lists.resources {
            let owner = next.resources.insert(Arc::clone(uri), Arc::clone(resource));
            let owner = owner.map(|other| Arc::clone(&other.service));
            if let Some(owner) = owner.or_else(|| next.template_of(uri).map(|other| Arc::clone(&other.listed.service)))
            {
                return Err(taken("resource", uri, &owner));
            }
        }
        for (text, template) in &lists.templates {
            if let Some(other) = next.templates.insert(Arc::clone(text), Arc::clone(template)) {
                return Err(taken("template", text, &other.listed.service));
            }
            let foreign = next
                .resources
                .values()
                .find(|other| other.service.component() != component && template.form.matches(&other.info.uri));
            if let Some(other) = foreign {
                return Err(taken("resource", &other.info.uri, &other.service));
            }
        }
        if next.templates.len() > MAX_TENANT_TEMPLATES {
            let reason = format!("the tenant's components list more than {MAX_TENANT_TEMPLATES} templates together");
            return Err(InstallError::Lists(reason));
        }
        for (name, prompt) in &lists.prompts {
            if let Some(other) = next.prompts.insert(Arc::clone(name), Arc::clone(prompt)) {
                return Err(taken("prompt", name, &other.service));
            }
        }
        next.components.insert(component.to_owned(), lists);
        Ok(next)
    }

    /// These lists without those of one component.
    pub fn without(&self, component: &str) -> Self {
        let mut next = self.clone();
        if let Some(gone) = next.components.remove(component) {
            next.resources.retain(|uri, _| !gone.resources.contains_key(uri));
            next.templates.retain(|text, _| !gone.templates.contains_key(text));
            next.prompts.retain(|name, _| !gone.prompts.contains_key(name));
        }
        next
    }

    fn template_of(&self, uri: &str) -> Option<&Arc<ListedTemplate>> {
        let fitting = self.templates.values().filter(|template| template.form.matches(uri));
        // Of equal ones `max_by_key` takes the last: reversed, it is the first by its text.
        fitting.rev().max_by_key(|template| template.form.literal_bytes())
    }

    /// The component that has a resource.
    pub fn owner(&self, uri: &str) -> Option<&Arc<PrimitiveService>> {
        if uri.len() > MAX_URI_BYTES {
            return None;
        }
        let listed = self.resources.get(uri).map(|listed| &listed.service);
        listed.or_else(|| self.template_of(uri).map(|template| &template.listed.service))
    }

    /// The template with this text.
    pub fn template(&self, text: &str) -> Option<&Arc<ListedTemplate>> {
        self.templates.get(text)
    }

    /// The prompt of this name.
    pub fn prompt(&self, name: &str) -> Option<&Arc<Listed<PromptInfo>>> {
        self.prompts.get(name)
    }

    /// Whether there is any resource or template.
    pub fn has_resources(&self) -> bool {
        !self.resources.is_empty() || !self.templates.is_empty()
    }

    /// Whether there is any prompt.
    pub fn has_prompts(&self) -> bool {
        !self.prompts.is_empty()
    }

    /// The components with lists.
    pub fn services(&self) -> impl Iterator<Item = &Arc<PrimitiveService>> {
        self.components.values().filter_map(|lists| {
            let resource = lists.resources.values().map(|one| &one.service).next();
            let template = || lists.templates.values().map(|one| &one.listed.service).next();
            let prompt = || lists.prompts.values().map(|one| &one.service).next();
            resource.or_else(template).or_else(prompt)
        })
    }

    /// The resources after `uri`, by URI; all if there is none.
    pub fn resources_after(&self, uri: Option<&str>) -> impl Iterator<Item = &Arc<Listed<ResourceInfo>>> {
        after(&self.resources, uri)
    }

    /// The templates after `text`.
    pub fn templates_after(&self, text: Option<&str>) -> impl Iterator<Item = &Arc<ListedTemplate>> {
        after(&self.templates, text)
    }

    /// The prompts after `name`.
    pub fn prompts_after(&self, name: Option<&str>) -> impl Iterator<Item = &Arc<Listed<PromptInfo>>> {
        after(&self.prompts, name)
    }

    /// What a client that knows `other` would see changed.
    pub fn difference(&self, other: &Self) -> ListsChanged {
        let shown = |lists: &Self| -> BTreeSet<(&'static str, String, String)> {
            let lists = lists.components.values().flat_map(|lists| lists.shown());
            lists.map(|(kind, name, text)| (kind, name.to_owned(), text.to_owned())).collect()
        };
        let same = |a: &BTreeMap<String, Arc<ComponentLists>>, b: &BTreeMap<String, Arc<ComponentLists>>| {
            a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if same(&self.components, &other.components) {
            return ListsChanged::default();
        }
        let (now, before) = (shown(self), shown(other));
        let mut changed = ListsChanged::default();
        for (kind, _, _) in now.symmetric_difference(&before) {
            match *kind {
                "prompt" => changed.prompts = true,
                _ => changed.resources = true,
            }
        }
        changed
    }
}

fn after<'a, T>(map: &'a BTreeMap<Arc<str>, T>, key: Option<&str>) -> impl Iterator<Item = &'a T> {
    use std::ops::Bound::{Excluded, Unbounded};
    map.range::<str, _>((key.map_or(Unbounded, Excluded), Unbounded)).map(|(_, value)| value)
}

fn taken(kind: &'static str, name: &str, owner: &PrimitiveService) -> InstallError {
    InstallError::ListedTaken { kind, name: shortened(name), owner: owner.component().to_owned() }
}

fn listed_error(kind: &'static str, name: &str, reason: &str) -> InstallError {
    InstallError::Lists(format!("its {kind} {:?} is refused: {reason}", shortened(name)))
}

fn shortened(name: &str) -> String {
    name.chars().take(160).collect()
}

fn check_resource(info: &ResourceInfo) -> Result<(), String> {
    check_uri(&info.uri)?;
    check_texts(&info.name, &[&info.title, &info.description])?;
    check_words(&[&info.mime_type])?;
    check_icons(&info.icons)?;
    check_annotations(info.annotations.as_ref())?;
    check_meta(info.meta.as_deref())
}

fn check_template(info: &TemplateInfo) -> Result<UriTemplate, String> {
    let form = UriTemplate::parse(&info.uri_template)?;
    check_texts(&info.name, &[&info.title, &info.description])?;
    check_words(&[&info.mime_type])?;
    check_icons(&info.icons)?;
    check_annotations(info.annotations.as_ref())?;
    check_meta(info.meta.as_deref())?;
    Ok(form)
}

fn check_prompt(info: &PromptInfo) -> Result<(), String> {
    ToolName::new(&info.name).map_err(|_| "a name is 1 to 128 characters of `A-Z a-z 0-9 _ . -`".to_owned())?;
    check_texts(&info.name, &[&info.title, &info.description])?;
    check_icons(&info.icons)?;
    check_meta(info.meta.as_deref())?;
    if info.arguments.len() > MAX_ARGUMENTS {
        return Err(format!("it has more than {MAX_ARGUMENTS} arguments"));
    }
    let mut names = BTreeSet::new();
    for argument in &info.arguments {
        check_texts(&argument.name, &[&argument.title, &argument.description])?;
        if argument.name.len() > MAX_WORD_BYTES || !names.insert(&argument.name) {
            return Err(format!("its argument {:?} is too long or there twice", shortened(&argument.name)));
        }
    }
    Ok(())
}

/// An absolute URI: a scheme, and no character that a URI cannot have.
fn check_uri(uri: &str) -> Result<(), String> {
    if uri.len() > MAX_URI_BYTES {
        return Err(format!("its URI is longer than {MAX_URI_BYTES} bytes"));
    }
    let (scheme, rest) = uri.split_once(':').unwrap_or_default();
    let legal_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
    if !legal_scheme || rest.is_empty() || !rest.chars().all(legal) {
        return Err("it is no absolute URI (RFC 3986)".to_owned());
    }
    Ok(())
}

fn check_texts(name: &str, texts: &[&Option<String>]) -> Result<(), String> {
    if name.is_empty() {
        return Err("it has no name".to_owned());
    }
    let mut texts = texts.iter().filter_map(|text| text.as_deref()).chain([name]);
    if texts.any(|text| text.len() > MAX_TEXT_BYTES) {
        return Err(format!("one of its texts is longer than {MAX_TEXT_BYTES} bytes"));
    }
    Ok(())
}

fn check_words(words: &[&Option<String>]) -> Result<(), String> {
    if words.iter().filter_map(|word| word.as_deref()).any(|word| word.len() > MAX_WORD_BYTES) {
        return Err(format!("a media type or a date is longer than {MAX_WORD_BYTES} bytes"));
    }
    Ok(())
}

fn check_icons(icons: &[Icon]) -> Result<(), String> {
    if icons.len() > MAX_ICONS {
        return Err(format!("it has more than {MAX_ICONS} icons"));
    }
    for icon in icons {
        let legal = icon.src.starts_with("https:") || icon.src.starts_with("data:");
        if icon.src.len() > MAX_ICON_BYTES || !legal {
            return Err(format!("an icon is an `https:` or `data:` URI of at most {MAX_ICON_BYTES} bytes"));
        }
        check_words(&[&icon.mime_type])?;
        if icon.sizes.len() > MAX_ICONS || icon.sizes.iter().any(|size| size.len() > MAX_WORD_BYTES) {
            return Err(format!("an icon has at most {MAX_ICONS} sizes of at most {MAX_WORD_BYTES} bytes"));
        }
    }
    Ok(())
}

fn check_annotations(annotations: Option<&Annotations>) -> Result<(), String> {
    let Some(annotations) = annotations else { return Ok(()) };
    check_words(&[&annotations.last_modified])?;
    if annotations.audience.len() > 2 || annotations.priority.is_some_and(|priority| !(0.0..=1.0).contains(&priority)) {
        return Err("its priority is not from 0 to 1, or its audience names somebody twice".to_owned());
    }
    Ok(())
}

fn check_meta(meta: Option<&str>) -> Result<(), String> {
    let Some(meta) = meta else { return Ok(()) };
    let is_object = |text| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok();
    if meta.len() > MAX_META_BYTES || !is_object(meta) {
        return Err(format!("its `meta` is no JSON object of at most {MAX_META_BYTES} bytes"));
    }
    Ok(())
}
