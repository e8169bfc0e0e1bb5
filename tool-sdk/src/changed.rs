//! What a component tells the clients of its tenant: that a resource of it, or one of its lists, has changed.
//!
//! The host tells a client once for all changes that the client has not taken. In a native test nothing happens.

/// A resource of this component changed: clients that subscribed to it are told.
pub fn updated(uri: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::mcpp::primitives::changed::updated(uri);
    #[cfg(not(target_arch = "wasm32"))]
    let _nobody_to_tell = uri;
}

/// The list of resources changed: the host lists them anew.
pub fn resource_list() {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::mcpp::primitives::changed::resource_list();
}

/// The list of prompts changed: the host lists them anew.
pub fn prompt_list() {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::mcpp::primitives::changed::prompt_list();
}
