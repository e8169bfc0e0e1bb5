use std::time::Duration;

use mcpp_tool::{
    Error,
    cancellation::Notice,
    store::{Map, snapshot, transact},
    tool,
};

/// What was put in order, by tool.
const DONE: Map<String, u32> = Map::new("done");

fn note(tool: &str) -> Result<(), Error> {
    Ok(transact(|t| DONE.set(t, &tool.to_owned(), &1))?)
}

/// Waits, and puts things in order when its caller gives up.
#[tool]
fn orderly() -> Result<String, Error> {
    let notice = Notice::new();
    note("orderly has begun")?;
    while !notice.wait(Duration::from_secs(60)) {}
    // Not at once.
    std::thread::sleep(Duration::from_millis(200));
    note("orderly")?;
    Ok("put in order".into())
}

/// Notices that its caller gives up, and goes on.
#[tool]
fn stubborn() -> Result<String, Error> {
    let notice = Notice::new();
    note("stubborn has begun")?;
    while !notice.is_given() {
        std::thread::sleep(Duration::from_millis(10));
    }
    note("stubborn")?;
    std::thread::sleep(Duration::from_secs(3_600));
    note("stubborn was not stopped")?;
    Ok("it was not stopped".into())
}

/// Asks for no notice.
#[tool]
fn careless() -> Result<String, Error> {
    note("careless has begun")?;
    std::thread::sleep(Duration::from_secs(3_600));
    note("careless")?;
    Ok("it was not stopped".into())
}

/// What was noted.
#[tool]
fn noted() -> Result<Vec<String>, Error> {
    let t = snapshot()?;
    let noted: Vec<(String, u32)> = DONE.all().collect(&t)?;
    Ok(noted.into_iter().map(|(tool, _)| tool).collect())
}

mcpp_tool::export! { tools: [orderly, stubborn, careless, noted] }
