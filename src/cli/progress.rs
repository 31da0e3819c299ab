//! Progress of what takes long, for a person who waits at a terminal.

use super::tell;
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Often enough to see that it goes on, seldom enough to read.
const EVERY: Duration = Duration::from_secs(1);

pub struct Progress {
    is_wanted: bool,
    told: Instant,
}

impl Progress {
    /// For work that prints nothing meanwhile.
    pub fn new() -> Self {
        Self { is_wanted: std::io::stderr().is_terminal(), told: Instant::now() }
    }

    /// For work whose output is progress enough where it is on the screen.
    pub fn beside_output() -> Self {
        let progress = Self::new();
        Self { is_wanted: progress.is_wanted && !std::io::stdout().is_terminal(), ..progress }
    }

    /// A line, if it is time for one.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.is_wanted && self.told.elapsed() >= EVERY {
            tell(format_args!("{}", line()));
            self.told = Instant::now();
        }
    }
}
