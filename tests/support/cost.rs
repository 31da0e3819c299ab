//! What a run of the program costs: its time, and the most memory that it has.

use super::Ran;
use std::{
    fs::File,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub struct Cost {
    pub ran: Ran,
    pub took: Duration,
    /// In KiB.
    pub memory: u64,
}

/// The most memory that a process has had, in KiB; none once it has ended.
pub fn memory_of(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse().ok())
}

/// Runs the program to its end, its output into a file.
pub async fn measured(mut command: Command, out: &Path) -> Cost {
    let (begun, mut memory) = (Instant::now(), 0);
    let mut child = command.stdout(File::create(out).unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    let status = loop {
        memory = memory_of(&child).unwrap_or(memory);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let ran = Ran { code: status.code().unwrap_or(-1), out: String::new(), said };
    Cost { ran, took: begun.elapsed(), memory }
}

/// Whether a run with many has taken hardly more memory than one with few.
///
/// # Panics
/// When one has failed, or it has taken more.
pub fn is_alike(what: &str, few: &Cost, many: &Cost) {
    assert_eq!((few.ran.code, many.ran.code), (0, 0), "{what}: {} {}", few.ran.said, many.ran.said);
    assert!(many.memory * 10 < few.memory * 13, "{what}: {} KiB with few, {} KiB with many", few.memory, many.memory);
}
