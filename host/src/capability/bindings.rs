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

        /// Every interface that this host links or calls.
        world component {
            import mcpp:endpoint/caller@0.1.0;
            import mcpp:endpoint/log@0.1.0;
            import mcpp:endpoint/progress@0.1.0;
            import mcpp:endpoint/call@0.1.0;
            import mcpp:delegation/rights@0.1.4;
            import mcpp:delegation/idempotency@0.1.4;
            import mcpp:delegation/builds@0.1.4;
            import mcpp:hooks/tokens@0.1.0;
            import mcpp:client/inputs@0.1.0;
            import mcpp:primitives/changed@0.1.0;
            import mcpp:primitives/types@0.1.0;
            import mcpp:store/snapshots@0.1.2;
            import mcpp:store/transactions@0.1.2;
            import mcpp:store/changes@0.1.2;
            import mcpp:events/outbox@0.1.2;
            import mcpp:mesh/peers@0.1.1;
            import mcpp:mesh/connections@0.1.1;
            import mcpp:mesh/services@0.1.1;
            import mcpp:mesh/announcements@0.1.1;
            import mcpp:mesh/calls@0.1.1;
            import mcpp:container/containers@0.1.0;
            import mcpp:tasks/deferral@0.1.1;
            import mcpp:cancellation/notice@0.1.0;
            export mcpp:tool/tools@0.1.0;
        }
    ",
    path: ["../wit/wasi/io", "../wit/tool", "../wit/endpoint", "../wit/client", "../wit/delegation", "../wit/hooks", "../wit/primitives", "../wit/store", "../wit/events", "../wit/mesh", "../wit/container", "../wit/tasks", "../wit/cancellation"],
    imports: {
        default: trappable,
        "mcpp:endpoint/call": async | trappable,
        "mcpp:client/inputs.ask": async | trappable,
        "mcpp:delegation/rights.call-within": async | trappable,
        "mcpp:delegation/rights.call-under": async | trappable,
        "mcpp:delegation/rights.call-until": async | trappable,
        "mcpp:delegation/builds.pin": async | trappable,
        "mcpp:delegation/builds.unpin": async | trappable,
        "mcpp:delegation/builds.call-on": async | trappable,
        "mcpp:delegation/builds.call-placed": async | trappable,
        "mcpp:store/snapshots": async | trappable,
        "mcpp:store/transactions": async | trappable,
        "mcpp:store/changes": async | trappable,
        "mcpp:events/outbox": async | trappable,
        "mcpp:mesh/connections": async | trappable,
        "mcpp:mesh/services": async | trappable,
        "mcpp:mesh/announcements": async | trappable,
        "mcpp:mesh/calls": async | trappable,
        "mcpp:container/containers.start": async | trappable,
        "mcpp:container/containers.[method]container.next": async | trappable,
    },
    with: {
        "wasi:io/poll": wasmtime_wasi::p2::bindings::io::poll,
        "mcpp:store/snapshots.snapshot": crate::capability::store::OpenSnapshot,
        "mcpp:store/transactions.transaction": crate::capability::store::OpenTransaction,
        "mcpp:container/containers.container": crate::capability::container::OpenContainer,
    },
    exports: { default: async },
    require_store_data_send: true,
});

/// Standard interfaces that a component may import and that are not in the engine's own crates.
pub mod standard {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world standard {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:config/store@0.2.0-rc.1;
                import wasi:logging/logging@0.1.0-draft;
            }
        ",
        path: ["../wit/wasi-keyvalue", "../wit/wasi-config", "../wit/wasi-logging"],
        imports: {
            default: trappable,
            "wasi:keyvalue/store": async | trappable,
            "wasi:keyvalue/atomics": async | trappable,
            "wasi:keyvalue/batch": async | trappable,
        },
        with: { "wasi:keyvalue/store.bucket": crate::capability::keyvalue::Bucket },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: a handler of events and timers.
pub mod handler {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world handling {
                export mcpp:events/handler@0.1.2;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        exports: { default: async },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: the migration of data.
pub mod migration {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world migrating {
                export mcpp:store/migration@0.1.2;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        exports: { default: async },
        with: {
            "mcpp:store/types": crate::capability::bindings::mcpp::store::types,
            "mcpp:store/transactions": crate::capability::bindings::mcpp::store::transactions,
        },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: resources.
pub mod resources {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world reading {
                export mcpp:primitives/resources@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        exports: { default: async },
        with: { "mcpp:primitives/types": crate::capability::bindings::mcpp::primitives::types },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: prompts.
pub mod prompts {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world prompting {
                export mcpp:primitives/prompts@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        exports: { default: async },
        with: { "mcpp:primitives/types": crate::capability::bindings::mcpp::primitives::types },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: completions of arguments.
pub mod completions {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world completing {
                export mcpp:primitives/completions@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        exports: { default: async },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: which of them run as tasks.
pub mod task_support {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world supporting {
                export mcpp:tasks/support@0.1.1;
            }
        ",
        path: ["../wit/tool", "../wit/tasks"],
        exports: { default: async },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: many calls at once.
pub mod batch {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world batching {
                export mcpp:batch/tools@0.1.0;
            }
        ",
        path: ["../wit/tool", "../wit/batch"],
        exports: { default: async },
        with: { "mcpp:tool/types": crate::capability::bindings::mcpp::tool::types },
        require_store_data_send: true,
    });
}

/// Exports beside the tools: answers that come after their calls.
pub mod deferred {
    wasmtime::component::bindgen!({
        inline: "
            package mcpp:host;

            world deferring {
                export mcpp:tasks/deferred@0.1.1;
            }
        ",
        path: ["../wit/tool", "../wit/tasks"],
        exports: { default: async },
        with: { "mcpp:tool/types": crate::capability::bindings::mcpp::tool::types },
        require_store_data_send: true,
    });
}
