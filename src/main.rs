//! The program: everything is in the library, so that tests can reach it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    qris_cancel_worker::cli::main().await
}
