//! The program: everything is in the library, so that tests can reach it.

use qris_cancel_worker::{cli, settings};
use std::process::ExitCode;

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
