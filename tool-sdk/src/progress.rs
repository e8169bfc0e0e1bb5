//! Progress of the running call.

/// Tells the client how far the call is, if it asked to be told.
///
/// `done` must rise from report to report; `total`, where known, is in the same unit. Does nothing in a native test.
pub fn report(done: f64, total: Option<f64>, message: Option<&str>) {
    #[cfg(target_arch = "wasm32")]
    crate::bindings::mcpp::endpoint::progress::report(done, total, message);
    #[cfg(not(target_arch = "wasm32"))]
    let _nobody_listens = (done, total, message);
}
