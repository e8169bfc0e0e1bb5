//! Futures that are made where they stay.

use std::pin::Pin;

/// Boxes the future that `make` makes, without a copy. `Box::pin` makes it on the stack first, and copies all its bytes from there, those included that hold nothing yet: of a
/// call's future they are kilobytes.
pub fn boxed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, make()))
}
