//! The bindings that `wit-bindgen` makes of the WIT packages of `wit/`.
#![allow(
    missing_docs,
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

wit_bindgen::generate!({
    inline: "
        package mcpp:sdk;

        /// All that a component made with this SDK may import, and what it exports. An import that is not used is left out of the component.
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
            import wasi:config/store@0.2.0-rc.1;
            import wasi:http/types@0.2.12;
            import wasi:http/outgoing-handler@0.2.12;
            export mcpp:tool/tools@0.1.0;
        }
    ",
    path: ["../wit/wasi/io", "../wit/wasi/clocks", "../wit/wasi/http", "../wit/tool", "../wit/endpoint", "../wit/client", "../wit/delegation", "../wit/hooks", "../wit/primitives", "../wit/store", "../wit/events", "../wit/mesh", "../wit/container", "../wit/tasks", "../wit/cancellation", "../wit/wasi-config"],
    pub_export_macro: true,
    export_macro_name: "export_component",
    default_bindings_module: "mcpp_tool::bindings",
    generate_all,
});

/// The handler of events and timers.
pub mod handler {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-handler;

            world handling {
                export mcpp:events/handler@0.1.2;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        pub_export_macro: true,
        export_macro_name: "export_handler",
        default_bindings_module: "mcpp_tool::bindings::handler",
        generate_all,
    });
}

/// The migration of a component's data.
pub mod migration {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-migration;

            world migrating {
                export mcpp:store/migration@0.1.2;
            }
        ",
        path: ["../wit/tool", "../wit/endpoint", "../wit/store", "../wit/events"],
        pub_export_macro: true,
        export_macro_name: "export_migration",
        default_bindings_module: "mcpp_tool::bindings::migration",
        with: {
            "mcpp:store/types@0.1.2": super::mcpp::store::types,
            "mcpp:store/transactions@0.1.2": super::mcpp::store::transactions,
        },
    });
}

/// What a component exports beside its tools: resources.
pub mod resources {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-resources;

            world reading {
                export mcpp:primitives/resources@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        pub_export_macro: true,
        export_macro_name: "export_resources",
        default_bindings_module: "mcpp_tool::bindings::resources",
        generate_all,
        generate_unused_types: true,
    });
}

/// What a component exports beside its tools: prompts.
pub mod prompts {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-prompts;

            world prompting {
                export mcpp:primitives/prompts@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        pub_export_macro: true,
        export_macro_name: "export_prompts",
        default_bindings_module: "mcpp_tool::bindings::prompts",
        with: { "mcpp:primitives/types@0.1.0": super::resources::mcpp::primitives::types },
    });
}

/// What a component exports beside its tools: completions.
pub mod completions {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-completions;

            world completing {
                export mcpp:primitives/completions@0.1.0;
            }
        ",
        path: ["../wit/primitives"],
        pub_export_macro: true,
        export_macro_name: "export_completions",
        default_bindings_module: "mcpp_tool::bindings::completions",
        generate_all,
    });
}

/// What a component exports beside its tools: which of them run as tasks.
pub mod task_support {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-tasks;

            world supporting {
                export mcpp:tasks/support@0.1.1;
            }
        ",
        path: ["../wit/tool", "../wit/tasks"],
        pub_export_macro: true,
        export_macro_name: "export_task_support",
        default_bindings_module: "mcpp_tool::bindings::task_support",
        generate_all,
    });
}

/// What a component exports beside its tools: many calls of one at once.
pub mod batch {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-batch;

            world batching {
                export mcpp:batch/tools@0.1.0;
            }
        ",
        path: ["../wit/tool", "../wit/batch"],
        pub_export_macro: true,
        export_macro_name: "export_batch",
        default_bindings_module: "mcpp_tool::bindings::batch",
        with: { "mcpp:tool/types@0.1.0": super::mcpp::tool::types },
    });
}

/// What a component exports beside its tools: the answers that its calls have put off.
pub mod deferred {
    wit_bindgen::generate!({
        inline: "
            package mcpp:sdk-deferred;

            world deferring {
                export mcpp:tasks/deferred@0.1.1;
            }
        ",
        path: ["../wit/tool", "../wit/tasks"],
        pub_export_macro: true,
        export_macro_name: "export_deferred",
        default_bindings_module: "mcpp_tool::bindings::deferred",
        with: { "mcpp:tool/types@0.1.0": super::mcpp::tool::types },
    });
}
