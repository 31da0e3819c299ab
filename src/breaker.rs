//! When an account rests: the circuit breaker. Pure.

use std::time::Duration;

/// When to rest, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many of the last calls are looked at.
    pub calls: u32,
    /// The share of them that has to fail.
    pub failure_percent: u32,
    /// The first rest; it doubles from rest to rest.
    pub initial: Duration,
    pub max: Duration,
}
