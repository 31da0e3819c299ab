//! The program: everything is in the library, so that tests can reach it.

use qris_cancel_worker::{cli, settings};
use std::process::ExitCode;

/// A command makes some hundreds of small allocations; with the system's allocator they took a sixth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Err(error) = settings::ensure_deep_stacks() {
        eprintln!("note: {error}; deeply nested headers of a hostile publisher could end this process");
    }
    start()
}

#[tokio::main]
async fn start() -> ExitCode {
    cli::main().await
}
