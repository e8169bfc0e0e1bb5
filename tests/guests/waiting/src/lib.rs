//! A plain component with async functions, as Rust's own tool chain makes them: no SDK, WASI 0.3 for what it waits for and 0.2 for what the standard library imports.

#![allow(unsafe_code, reason = "generated code")]

use std::cell::Cell;

use futures::future::join_all;

use bindings::{Guest, wasi::clocks::monotonic_clock::wait_for};

mod bindings {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::allow_attributes_without_reason)]
    #![allow(missing_debug_implementations, reason = "generated code")]
    wit_bindgen::generate!({
        inline: "
            package test:waiting;

            world waiting {
                import wasi:clocks/monotonic-clock@0.3.0;

                /// Waits so many times, side by side; how many waited at once.
                export together: async func(ms: u32, times: u32) -> u32;

                /// Waits so many times, one after the other; how many waited at once.
                export in-turn: async func(ms: u32, times: u32) -> u32;

                /// Says it again, after a while; an empty text it refuses.
                export echo: async func(text: string) -> result<string, string>;

                /// Says it at once.
                export now: func(text: string) -> string;
            }

            package wasi:clocks@0.3.0 {
                interface monotonic-clock {
                    wait-for: async func(how-long: u64);
                }
            }
        ",
        generate_all,
    });
}

struct Component;

bindings::export!(Component with_types_in bindings);

/// Those that wait now, and the most that did at once.
#[derive(Default)]
struct Waiting(Cell<u32>, Cell<u32>);

impl Waiting {
    async fn wait(&self, ms: u32) {
        self.0.set(self.0.get() + 1);
        self.1.set(self.1.get().max(self.0.get()));
        wait_for(u64::from(ms) * 1_000_000).await;
        self.0.set(self.0.get() - 1);
    }
}

impl Guest for Component {
    async fn together(ms: u32, times: u32) -> u32 {
        let waiting = Waiting::default();
        join_all((0..times).map(|_| waiting.wait(ms))).await;
        waiting.1.get()
    }

    async fn in_turn(ms: u32, times: u32) -> u32 {
        let waiting = Waiting::default();
        for _ in 0..times {
            waiting.wait(ms).await;
        }
        waiting.1.get()
    }

    async fn echo(text: String) -> Result<String, String> {
        wait_for(1_000_000).await;
        if text.is_empty() { Err("nothing to say".to_owned()) } else { Ok(text) }
    }

    fn now(text: String) -> String {
        text
    }
}
