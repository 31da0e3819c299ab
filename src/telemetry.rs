//! Log lines: JSON or for people, to standard error. A command's lines carry its account and job id.

use crate::settings::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging.
///
/// # Errors
/// When the filter cannot be understood.
pub fn start(log: &Log) -> Result<(), String> {
    // The client library reports as errors what a session says once and in its place.
    let level = if log.level.contains("lapin") { log.level.clone() } else { format!("{},lapin=off", log.level) };
    let filter = EnvFilter::try_new(level).map_err(|e| format!("log.level {:?}: {e}", log.level))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
        LogFormat::Human => lines.compact().with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
