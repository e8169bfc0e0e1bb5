//! Templates, and lists of them and of schedules.

mod schedules;

use mcpp_tool::{
    caller,
    environment::now_ms,
    rights,
    store::{Table, View},
    tool,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use self::schedules::*;
use super::{Reply, read, run, settle, time};
use crate::{
    engine::{Draft, VisibleTools, WorkflowError},
    schedule::{MAX_SCHEDULES, Named, TEMPLATE, TEMPLATES, Template, check_name, check_writer, template},
    validate::parse,
};

/// Bytes of rows that one page of a list reads, about: a row may have 768 KiB.
const PAGE_BYTES: u64 = 8 << 20;
/// The names of all templates.
const KNOWN: Named<Template> = Named(TEMPLATE, &TEMPLATES);

/// A page of a table behind a cursor, and the cursor behind it if there are more.
fn page<V: Clone + Serialize + DeserializeOwned + 'static>(
    t: &View<'_>,
    table: &Table<String, V>,
    cursor: Option<&str>,
    shown: impl Fn(&str, &V) -> Value,
) -> Result<(Vec<Value>, Option<String>), WorkflowError> {
    let mut rows = table.all();
    if let Some(cursor) = cursor {
        check_name(cursor).map_err(|_| WorkflowError::Invalid("cursor is none of a list's".into()))?;
        rows = rows.after(&cursor);
    }
    let (mut found, mut last) = (Vec::new(), None);
    for row in rows.walk(t) {
        let (name, row) = row?;
        if found.len() >= MAX_SCHEDULES || !found.is_empty() && t.spent().bytes >= PAGE_BYTES {
            return Ok((found, last));
        }
        found.push(shown(&name, &row));
        last = Some(name);
    }
    Ok((found, None))
}

/// Keeps steps under a name, to be submitted by `workflow_submit` with `template`. Without `steps` it shows the template; without a name, the names of all, page by page.
#[tool]
pub fn workflow_template(
    /// The name.
    #[arg(default)]
    name: Option<String>,
    /// Its steps from now on.
    #[arg(default)]
    steps: Option<Vec<Value>>,
    /// Tags of its runs.
    #[arg(default)]
    tags: Vec<String>,
    /// Removes it.
    #[arg(default)]
    remove: bool,
    /// Goes on behind a list: its `next_cursor`.
    #[arg(default)]
    cursor: Option<String>,
) -> Reply {
    let rights = rights::of_caller();
    let shown = (|| {
        let Some(name) = &name else {
            return read(|t| {
                let (names, next) = page(t, &TEMPLATES, cursor.as_deref(), |name, _| json!(name))?;
                Ok(json!({ "templates": names, "next_cursor": next }))
            });
        };
        check_name(name)?;
        let steps = match &steps {
            Some(steps) => {
                let steps = parse(steps)?;
                let (id, tags) = (name.clone(), tags.clone());
                let draft = Draft { name: id.clone(), id, steps, tags, ..Draft::default() };
                draft.check_form(&VisibleTools(&rights, &[]))?;
                KNOWN.learn()?;
                Some(draft.steps)
            }
            None => None,
        };
        run(|t| {
            let there = TEMPLATES.get(t, name)?;
            if let Some(there) = there.as_ref().filter(|_| remove || steps.is_some()) {
                check_writer(&there.rights, &rights)?;
            }
            if remove {
                let there = TEMPLATES.remove(t, name)?;
                return Ok(json!({ "template": name, "removed": there.is_some() }));
            }
            if let Some(steps) = &steps {
                if there.is_none() {
                    KNOWN.check_room(t)?;
                }
                let by = caller::caller().subject;
                let template = Template {
                    steps: steps.clone(),
                    tags: tags.clone(),
                    by,
                    rights: rights.clone(),
                    written_ms: now_ms(),
                };
                TEMPLATES.put(t, name, &template)?;
            }
            let there = template(t, name)?;
            Ok(
                json!({ "template": name, "steps": there.steps, "tags": there.tags, "written_by": there.by, "written_at": time(Some(there.written_ms)) }),
            )
        })
    })();
    settle(shown, "")
}

#[cfg(test)]
mod tests;
