//! The program `mcpp`. All of it is in the library, so that it is compiled once.

use std::process::ExitCode;

/// A call allocates a few hundred small things and may free them on another thread; this allocator is made for that, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mcpp::cli::main()
}
