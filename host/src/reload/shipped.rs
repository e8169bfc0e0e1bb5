//! The components that are built into this program, and what they are granted.

use super::source::BuiltIn;

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// The grant of a built-in component unless the operator has written one, without its version; none for any other component.
pub fn grant(component: &str) -> Option<&'static str> {
    COMPONENTS.iter().find(|built_in| built_in.name == component).map(|built_in| built_in.grant)
}

#[cfg(test)]
mod tests {
    use super::COMPONENTS;
    use crate::grants::ComponentGrant;

    #[test]
    fn what_built_in_components_are_shipped_with_is_valid() {
        for built_in in COMPONENTS {
            let grant = toml::from_str::<ComponentGrant>(built_in.grant);
            assert!(grant.is_ok(), "{}: {:?}", built_in.name, grant.err());
        }
    }
}
