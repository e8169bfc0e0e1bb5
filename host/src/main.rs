//! The program `mcpp`.

use std::process::ExitCode;

use clap::Parser as _;
use mcpp::cli::Cli;

/// A call allocates a few hundred small things and may free them on another thread; this allocator is made for that, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
    runtime.shutdown_background();
    code
}

#[expect(clippy::print_stderr, reason = "the last word of the program")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
