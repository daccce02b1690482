//! The binary: reads arguments and environment, once, and hands over to `selvedge::cli`.

use std::process::ExitCode;

use selvedge::cli::{self, Environment};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main(environment())
}

/// Everything the process takes from its environment; nothing reads it later.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn environment() -> Environment {
    Environment {
        workers: std::env::var("SELVEDGE_WORKERS").ok(),
        log: std::env::var("SELVEDGE_LOG").ok(),
    }
}
