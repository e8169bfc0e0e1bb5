//! One page of Markdown, as far as the tests need it.

use std::collections::BTreeSet;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// The anchors of its headings, as forges make them.
    pub anchors: BTreeSet<String>,
    /// The targets of its links and images.
    pub links: Vec<String>,
    /// Its blocks of code: language and text.
    pub blocks: Vec<(String, String)>,
    /// Its code within lines.
    pub spans: Vec<String>,
    /// Its paragraphs, headings, entries and cells, without code.
    pub texts: Vec<String>,
}

impl Page {
    /// Reads a page.
    pub fn read(text: &str) -> Self {
        let (mut page, mut said, mut heading) = (Self::default(), String::new(), None::<String>);
        let mut block: Option<(String, String)> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string())
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some((language.into_string(), String::new()))
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => block = Some(("sh".into(), String::new())),
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.insert(anchor(&heading.take().unwrap_or_default()));
                    page.texts.push(std::mem::take(&mut said));
                }
                Event::End(TagEnd::Paragraph | TagEnd::Item | TagEnd::TableCell) => {
                    page.texts.push(std::mem::take(&mut said))
                }
                Event::Code(code) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&code));
                    // A place for it, so that the sentence goes on.
                    said.push('_');
                    page.spans.push(code.into_string());
                }
                Event::Text(text) => match &mut block {
                    Some((_, code)) => code.push_str(&text),
                    None => {
                        heading.iter_mut().for_each(|heading| heading.push_str(&text));
                        said.push_str(&text);
                    }
                },
                Event::SoftBreak | Event::HardBreak => said.push(' '),
                _ => {}
            }
        }
        page
    }

    /// The commands of `mcpp` that it shows, each from its first word on.
    pub fn commands(&self) -> Vec<String> {
        let shells = self.blocks.iter().filter(|(language, _)| ["sh", "text"].contains(&language.as_str()));
        let lines = shells.flat_map(|(_, text)| text.lines()).chain(self.spans.iter().map(String::as_str));
        let lines = lines.filter_map(|line| {
            let line = line.trim().trim_start_matches("$ ");
            let line = line
                .strip_prefix("cargo run --release -- ")
                .map_or_else(|| line.to_owned(), |rest| format!("mcpp {rest}"));
            line.starts_with("mcpp ").then_some(line)
        });
        lines.collect()
    }
}

/// The anchor of a heading: its letters and digits in lower case, `-` for each space.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}
