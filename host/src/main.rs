//! The program `mcpp`.

use std::process::ExitCode;

use clap::Parser as _;
use mcpp::{cli::Cli, telemetry, wasm::compile::child};

/// A call allocates a few hundred small things and may free them on another thread; this allocator is made for that, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = child::run_if_asked() {
        return code;
    }
    let cli = Cli::parse();
    // One TLS implementation for every connection the program makes; a second installation is not possible here.
    let _first = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let code = match runtime.block_on(cli.run()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error),
    };
    telemetry::flush();
    runtime.shutdown_background();
    code
}

fn fail(error: &anyhow::Error) -> ExitCode {
    telemetry::last_word(format!("error: {error:#}\n"));
    ExitCode::FAILURE
}
