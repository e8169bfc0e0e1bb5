//! Tokens with which somebody outside, such as another service, may call a tool of this component: by `POST /hooks/TOKEN`, with `token` and `payload` as its arguments. The
//! component sees to it that each is good once.

/// A token for one of this component's own tools; `name` (1 to 64 of `a-z A-Z 0-9 _ -`) says what it is for. None if the operator has not opened hooks to this component; in a
/// native test there are none.
pub fn token(tool: &str, name: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::mcpp::hooks::tokens::token(tool, name);
    #[cfg(not(target_arch = "wasm32"))]
    {
        let _no_door = (tool, name);
        None
    }
}
