//! Notice that the caller has given up, for a tool that has something to put in order then.
//!
//! A call that nobody waits for any more is stopped within 10 ms. One that has a [`Notice`] has a second:
//!
//! ```
//! use std::time::Duration;
//! use mcpp_tool::{Error, cancellation::Notice, tool};
//!
//! /// Waits until something is there, and says so if it is not wanted any more.
//! #[tool]
//! fn wait_for_it() -> Result<String, Error> {
//!     let notice = Notice::new();
//!     for _ in 0..100 {
//!         if notice.wait(Duration::from_millis(10)) {
//!             // Put things in order here: the store, files and HTTP work for a second.
//!             return Err(Error::failed("not wanted any more"));
//!         }
//!     }
//!     Ok("it is there".into())
//! }
//! # mcpp_tool::export!(wait_for_it);
//! # fn main() {
//! #     assert_eq!(wait_for_it(), Ok("it is there".into()));
//! # }
//! ```
//!
//! In a native test nobody gives up.

use std::time::Duration;

/// Notice that the caller has given up. As long as the call runs, the host gives it a second then.
#[derive(Debug)]
pub struct Notice {
    #[cfg(target_arch = "wasm32")]
    given_up: crate::bindings::wasi::io::poll::Pollable,
}

impl Notice {
    /// Asks for it.
    #[allow(clippy::new_without_default, reason = "it changes how the call ends")]
    pub fn new() -> Self {
        Self {
            #[cfg(target_arch = "wasm32")]
            given_up: crate::bindings::mcpp::cancellation::notice::subscribe(),
        }
    }

    /// Whether the caller has given up.
    pub fn is_given(&self) -> bool {
        #[cfg(target_arch = "wasm32")]
        return self.given_up.ready();
        #[cfg(not(target_arch = "wasm32"))]
        false
    }

    /// Waits so long, or until the caller gives up; whether it has.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        expect(clippy::disallowed_methods, reason = "a native test has no runtime")
    )]
    pub fn wait(&self, longest: Duration) -> bool {
        #[cfg(target_arch = "wasm32")]
        {
            use crate::bindings::wasi::{clocks::monotonic_clock, io::poll};
            let over = monotonic_clock::subscribe_duration(u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX));
            poll::poll(&[&self.given_up, &over]);
            self.is_given()
        }
        #[cfg(not(target_arch = "wasm32"))]
        {
            std::thread::sleep(longest);
            false
        }
    }
}
