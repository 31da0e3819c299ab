//! Log lines: JSON or for people, to standard error. A command's lines carry its account, its job id, and its trace id if it has one.

use crate::{
    settings::{Log, LogFormat},
    traces,
};
use std::io::IsTerminal;
use tracing::Level;
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};

/// The command in hand is this job: its log lines and its span say so.
pub fn name_job(job_id: Option<&str>) {
    tracing::Span::current().record("job_id", job_id);
    if let Some(job_id) = job_id {
        traces::Span::current().set("qris_cancel.job_id", job_id.to_owned());
    }
}

/// Starts logging.
///
/// # Errors
/// When the filter cannot be understood.
pub fn start(log: &Log) -> Result<(), String> {
    // The client library reports as errors what a session says once and in its place.
    let level = if log.level.contains("lapin") { log.level.clone() } else { format!("{},lapin=off", log.level) };
    let filter = EnvFilter::try_new(level).map_err(|e| format!("log.level {:?}: {e}", log.level))?;
    // A line that cannot be written (the disk is full) is left out. Told of on standard error, too, it would be a panic.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    // Whatever the filter says: at this level it writes every frame, the one with the broker's password included.
    let no_frames = filter_fn(|line| *line.level() != Level::TRACE || !line.target().starts_with("lapin"));
    match log.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            lines.finish().with(no_frames).init();
        }
        LogFormat::Human => {
            lines.compact().with_ansi(std::io::stderr().is_terminal()).finish().with(no_frames).init();
        }
    }
    Ok(())
}
