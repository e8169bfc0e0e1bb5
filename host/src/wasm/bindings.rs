//! The only `bindgen!`: Rust types and traits for the WIT packages of `wit/`.
#![allow(
    unsafe_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    inline: "
        package mcpp:host;

        /// Everything that this host links or calls.
        world component {
            import mcpp:endpoint/caller@0.1.0;
            import mcpp:endpoint/log@0.1.0;
            import mcpp:endpoint/progress@0.1.0;
            import mcpp:endpoint/call@0.1.0;
            export mcpp:tool/tools@0.1.0;
        }
    ",
    path: ["../wit/tool", "../wit/endpoint"],
    imports: {
        default: trappable,
        "mcpp:endpoint/call": async | trappable,
    },
    exports: { default: async },
    require_store_data_send: true,
});
