use mcpp_tool::{Error, tool};

/// Greets somebody.
#[tool(read_only)]
fn greet(
    /// Whom to greet.
    name: String,
) -> Result<String, Error> {
    if name.is_empty() {
        return Err(Error::invalid_argument("/name", "must not be empty"));
    }
    Ok(format!("Hello, {name}!"))
}

mcpp_tool::export!(greet);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greets_by_name() {
        assert_eq!(greet("World".into()).unwrap(), "Hello, World!");
        assert!(greet(String::new()).is_err());
    }
}
