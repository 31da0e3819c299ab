//! The program: everything is in the library, so that tests can reach it.

use qris_cancel_worker::{cli, limits, settings};
use std::process::ExitCode;

/// A command makes some hundreds of small allocations; with the system's allocator they took a sixth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Err(error) = settings::ensure_deep_stacks() {
        eprintln!("note: {error}; deeply nested headers of a hostile publisher could end this process");
    }
    if let Err(error) = limits::forbid_memory_images() {
        eprintln!("note: {error}; a core dump of this process would show its keys and tokens");
    }
    start()
}

fn start() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no threads to work with: {error}");
            return ExitCode::from(69);
        }
    };
    let code = runtime.block_on(cli::main());
    // A name that is still being looked up holds up nobody's end.
    runtime.shutdown_background();
    code
}
