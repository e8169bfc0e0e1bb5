use mcpp_tool::{
    Error,
    deferred::{self, Deferred, FormAnswer, Outcome, Work},
    store::{Map, snapshot, transact},
    tool,
};

/// What has become of each: `asks`, `yes`, `no`, `gone`; any other text is how it goes on.
const OPEN: Map<String, String> = Map::new("open");

/// Puts off its answer, in this state at first.
#[tool]
fn approve(id: String, state: String) -> Result<String, Error> {
    transact(|t| OPEN.set(t, &id, &state))?;
    deferred::defer(&id)?;
    Ok(format!("{id} waits for somebody"))
}

/// What of all that may go wrong with putting off does.
#[tool]
fn wrong() -> String {
    let says = |result: Result<(), Error>| result.map_or_else(|error| error.to_string(), |()| "put off".to_owned());
    ["", &"x".repeat(257), "a", "b"].map(|handle| says(deferred::defer(handle))).join("; ")
}

/// Puts off its answer, and fails.
#[tool]
fn fails() -> Result<String, Error> {
    deferred::defer("fails")?;
    Err(Error::failed("it failed"))
}

/// Changes the state from outside.
#[tool]
fn change(id: String, state: String) -> Result<(), Error> {
    Ok(transact(|t| OPEN.set(t, &id, &state))?)
}

/// The state.
#[tool]
fn state(id: String) -> Result<String, Error> {
    Ok(OPEN.get(&snapshot()?, &id)?.unwrap_or_default())
}

struct Approvals;

impl Deferred for Approvals {
    fn look(handle: &str) -> Result<Outcome, Error> {
        let t = snapshot()?;
        let (state, version) = OPEN.get_versioned(&t, handle)?;
        let work = Work::new().changes(OPEN.key(handle), version);
        Ok(match state.as_deref() {
            None => Outcome::Unknown,
            Some("yes") => Outcome::completed("approved")?,
            Some("no") => Outcome::Failed(Error::failed("not approved")),
            Some("gone") => Outcome::Cancelled,
            Some("trap") => return Err(Error::failed("it cannot be looked at")),
            Some("asks") => Outcome::Running(work.form("ok", "Shall it be?", deferred::no_fields())),
            Some(other) => Outcome::Running(work.progress(1.0, Some(2.0), Some(other.to_owned()))),
        })
    }

    fn reply(handle: &str, _: &str, answer: FormAnswer) -> Result<(), Error> {
        let state = if matches!(answer, FormAnswer::Accepted(_)) { "yes" } else { "no" };
        Ok(transact(|t| OPEN.set(t, handle, &state.to_owned()))?)
    }

    fn cancel(handle: &str) -> Result<(), Error> {
        Ok(transact(|t| OPEN.set(t, handle, &"cancelled".to_owned()))?)
    }
}

mcpp_tool::export! { tools: [approve, wrong, fails, change, state], deferred: Approvals }
