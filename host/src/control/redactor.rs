//! Secrets must not leave a call. The redactor replaces the values that its requests used by their placeholders, wherever a result, an error or a log record
//! leaves the instance.
//!
//! It guards against an upstream or a tool that repeats a value by accident: plainly, escaped in JSON, or in the form for a query. A tool that means to give
//! a value away can write it in any other form; the grant, which says where a secret may go, protects against that.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde_json::Value;
use zeroize::Zeroizing;

use crate::call::{CallError, Content, ResourceContents, ToolResult};

/// Values used in one call.
#[derive(Default)]
pub struct Redactor {
    used: AtomicBool,
    forms: Mutex<Vec<(Zeroizing<String>, String)>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").field("used", &self.used).finish_non_exhaustive()
    }
}

impl Redactor {
    /// Replaces `value`, in each of `forms`, by `placeholder` from now on. The effect begins before the value goes anywhere.
    pub fn hide(&self, forms: impl IntoIterator<Item = Zeroizing<String>>, placeholder: &str) {
        let mut known = self.forms.lock().unwrap_or_else(PoisonError::into_inner);
        for form in forms {
            if !form.is_empty() && !known.iter().any(|(value, _)| *value == form) {
                known.push((form, placeholder.to_owned()));
            }
        }
        // The longest first: one value may be part of another.
        known.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
        self.used.store(true, Ordering::Release);
    }

    /// Hides the values that `other` hides too, from now on.
    pub fn inherit(&self, other: &Self) {
        if other.used.load(Ordering::Acquire) {
            let known = other.forms.lock().unwrap_or_else(PoisonError::into_inner);
            self.forms.lock().unwrap_or_else(PoisonError::into_inner).extend(known.iter().cloned());
            self.used.store(true, Ordering::Release);
        }
    }

    /// `text` without a value.
    pub fn text(&self, mut text: String) -> String {
        if !self.used.load(Ordering::Acquire) {
            return text;
        }
        for (value, placeholder) in self.forms.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), placeholder);
            }
        }
        text
    }

    /// `bytes` without a value.
    pub fn bytes(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if !self.used.load(Ordering::Acquire) {
            return bytes;
        }
        for (value, placeholder) in self.forms.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            bytes = replaced(bytes, value.as_bytes(), placeholder.as_bytes());
        }
        bytes
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(std::mem::take(text)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                let entries = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                    self.value(&mut value);
                    (self.text(name), value)
                });
                *fields = entries.collect();
            }
            // A value of digits only may come back as a number.
            Value::Number(number) => {
                let text = number.to_string();
                let clean = self.text(text.clone());
                if clean != text {
                    *value = Value::String(clean);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Outcome of a call, without the values.
    pub fn outcome(&self, outcome: Result<ToolResult, CallError>) -> Result<ToolResult, CallError> {
        if !self.used.load(Ordering::Acquire) {
            return outcome;
        }
        match outcome {
            Ok(mut result) => {
                result.content = result.content.into_iter().map(|content| self.content(content)).collect();
                if let Some(structured) = &mut result.structured {
                    self.value(structured);
                }
                Ok(result)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    /// Error of a call, without the values.
    pub fn error(&self, error: CallError) -> CallError {
        match error {
            CallError::InvalidArguments { path, reason } => {
                CallError::InvalidArguments { path: self.text(path), reason: self.text(reason) }
            }
            CallError::InvalidResult { path, reason } => {
                CallError::InvalidResult { path: self.text(path), reason: self.text(reason) }
            }
            CallError::Trapped(reason) => CallError::Trapped(self.text(reason)),
            other => other,
        }
    }

    fn content(&self, content: Content) -> Content {
        let optional = |text: Option<String>| text.map(|text| self.text(text));
        match content {
            Content::Text(text) => Content::Text(self.text(text)),
            Content::Image(mut blob) => {
                blob.data = self.bytes(blob.data);
                blob.mime_type = self.text(blob.mime_type);
                Content::Image(blob)
            }
            Content::Audio(mut blob) => {
                blob.data = self.bytes(blob.data);
                blob.mime_type = self.text(blob.mime_type);
                Content::Audio(blob)
            }
            Content::ResourceLink { uri, name, description, mime_type } => Content::ResourceLink {
                uri: self.text(uri),
                name: self.text(name),
                description: optional(description),
                mime_type: optional(mime_type),
            },
            Content::EmbeddedResource { uri, mime_type, contents } => Content::EmbeddedResource {
                uri: self.text(uri),
                mime_type: optional(mime_type),
                contents: match contents {
                    ResourceContents::Text(text) => ResourceContents::Text(self.text(text)),
                    ResourceContents::Binary(bytes) => ResourceContents::Binary(self.bytes(bytes)),
                },
            },
        }
    }
}

fn replaced(bytes: Vec<u8>, value: &[u8], placeholder: &[u8]) -> Vec<u8> {
    let mut rest = bytes.as_slice();
    let mut clean = Vec::new();
    while let Some(at) = rest.windows(value.len().max(1)).position(|window| window == value) {
        let (before, from) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        clean.extend_from_slice(before);
        clean.extend_from_slice(placeholder);
        rest = from.get(value.len()..).unwrap_or_default();
    }
    if clean.is_empty() && rest.len() == bytes.len() {
        return bytes;
    }
    clean.extend_from_slice(rest);
    clean
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn redactor() -> Redactor {
        let redactor = Redactor::default();
        redactor.hide(
            ["s3cret\"value", "s3cret\\\"value", "s3cret%22value"].map(|form| form.to_owned().into()),
            "{{secret:A}}",
        );
        redactor.hide(["s3cret".to_owned().into()], "{{secret:B}}");
        redactor.hide(["12345678".to_owned().into()], "{{secret:N}}");
        redactor
    }

    #[test]
    fn values_are_replaced_wherever_they_stand() {
        let result = ToolResult {
            content: vec![
                Content::Text("a s3cret\"value b s3cret\\\"value s3cret%22value s3cret".into()),
                Content::EmbeddedResource {
                    uri: "x:s3cret".into(),
                    mime_type: None,
                    contents: ResourceContents::Binary(b"\xffs3crets3cret\xff".to_vec()),
                },
            ],
            structured: Some(json!({ "s3cret": [{ "b": "x12345678x" }], "n": 12345678, "m": 1.5 })),
            is_error: true,
            ..ToolResult::default()
        };
        let clean = redactor().outcome(Ok(result)).expect("a result");
        let text = "a {{secret:A}} b {{secret:A}} {{secret:A}} {{secret:B}}";
        assert_eq!(clean.content.first(), Some(&Content::Text(text.into())));
        let Some(Content::EmbeddedResource { uri, contents: ResourceContents::Binary(bytes), .. }) =
            clean.content.get(1)
        else {
            panic!("{clean:?}")
        };
        assert_eq!((uri.as_str(), bytes.as_slice()), ("x:{{secret:B}}", &b"\xff{{secret:B}}{{secret:B}}\xff"[..]));
        let structured = json!({ "{{secret:B}}": [{ "b": "x{{secret:N}}x" }], "n": "{{secret:N}}", "m": 1.5 });
        assert_eq!(clean.structured, Some(structured));
        let error = CallError::InvalidArguments { path: "/s3cret".into(), reason: "s3cret".into() };
        let error = redactor().outcome(Err(error)).expect_err("an error").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn nothing_used_changes_nothing() {
        let result = ToolResult { structured: Some(json!({ "a": 1 })), ..ToolResult::default() };
        assert_eq!(Redactor::default().outcome(Ok(result.clone())).expect("a result"), result);
        assert_eq!(Redactor::default().text("s3cret".into()), "s3cret");
    }
}
