//! The program `mcpp`. All of it is in the library, so that it is compiled once.

use std::process::ExitCode;

/// A call allocates a hundred small things and frees them again. This allocator gives the next call the same memory, which the processor's caches still have.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    mcpp::cli::main()
}
