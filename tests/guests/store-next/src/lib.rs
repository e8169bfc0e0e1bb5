//! The next build of the component `store`: its values have another form, so it brings a migration.

use mcpp_tool::{
    Error,
    store::{Map, Transaction, snapshot, transact},
    tool,
};

/// The values as the build before wrote them.
const OLD: Map<String, String> = Map::new("values");
/// The values now: with their length.
const NEW: Map<String, (usize, String)> = Map::new("measured");
/// Entries of one step.
const STEP: usize = 2;

/// Reads a value.
#[tool]
fn store_get(key: String) -> Result<Option<(usize, String)>, Error> {
    Ok(NEW.get(&snapshot()?, &key)?)
}

/// Writes a value.
#[tool]
fn store_set(key: String, value: String) -> Result<(), Error> {
    transact(|t| Ok(NEW.set(t, &key, &(value.len(), value.clone()))?))
}

/// Moves values into their new form. The value `broken` cannot be moved; `endless` always leaves more to do, and `round` leads back to where it was.
fn migrate(t: &Transaction, from: u32, cursor: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    if from != 0 {
        return Err(Error::failed("only format 0 is known"));
    }
    let after = cursor.map(String::from_utf8).transpose()?;
    let rest = after.iter().fold(OLD.all(), |all, after| all.after(after));
    let page: Vec<(String, String)> = rest.most(STEP).collect(t)?;
    match (page.first(), &after) {
        (Some((_, value)), after) if value == "endless" => {
            let steps = after.as_ref().and_then(|after| after.strip_prefix('!')?.parse::<u64>().ok()).unwrap_or(0);
            return Ok(Some(format!("!{}", steps + 1).into_bytes()));
        }
        (Some((_, value)), _) if value == "round" => return Ok(Some(b"!".to_vec())),
        _ => {}
    }
    for (key, value) in &page {
        if value == "broken" {
            return Err(Error::failed("a broken value"));
        }
        OLD.remove(t, key)?;
        NEW.set(t, key, &(value.len(), value.clone()))?;
    }
    Ok(page.last().filter(|_| page.len() == STEP).map(|(key, _)| key.clone().into_bytes()))
}

mcpp_tool::export! {
    tools: [store_get, store_set],
    migration: 1 => migrate,
}
