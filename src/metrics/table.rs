//! Every metric: type, name (behind `qris_cancel_`), labels and help text, and a histogram's buckets.

pub struct Counter {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

pub struct Gauge {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

pub struct Histogram {
    pub name: &'static str,
    pub labels: &'static [&'static str],
    pub buckets: &'static [f64],
    pub help: &'static str,
}

// Commands and their results.

pub const COMMANDS_RECEIVED: Counter = Counter {
    name: "commands_received_total",
    labels: &["account"],
    help: "Messages taken from the command queue, repeats and returns from retry included.",
};
pub const QUEUE_WAIT: Histogram = Histogram {
    name: "queue_wait_seconds",
    labels: &["account"],
    // The publisher's timestamp has whole seconds.
    buckets: &[1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0],
    help: "From a command's AMQP timestamp, by the publisher's clock, to its first delivery.",
};
pub const RESULTS: Counter = Counter {
    name: "results_total",
    labels: &["account", "outcome", "cause"],
    help: "Result events that the broker confirmed.",
};
pub const COMMAND_DURATION: Histogram = Histogram {
    name: "command_duration_seconds",
    labels: &["account", "outcome"],
    // From a command that is cancelled at once to one that waited for a cut-off time.
    buckets: &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0],
    help: "From a command's first delivery to its confirmed result event, waiting included. Not of replayed commands.",
};
pub const PARKED: Counter =
    Counter { name: "parked_total", labels: &["account", "cause"], help: "Commands set aside for a person." };
pub const RETRIES_SCHEDULED: Counter =
    Counter { name: "retries_scheduled_total", labels: &["account"], help: "Commands put into a retry bucket." };
pub const RETRY_DELAY: Histogram = Histogram {
    name: "retry_delay_seconds",
    labels: &["account", "reason"],
    buckets: &[0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0],
    help: "The delays chosen for commands that were put into a retry bucket.",
};
pub const RETRY_AGE: Histogram = Histogram {
    name: "retry_age_seconds",
    labels: &["account"],
    // Retries are given up after an hour of delays unless the settings say otherwise.
    buckets: &[60.0, 300.0, 900.0, 3_600.0, 7_200.0, 14_400.0, 43_200.0, 86_400.0, 259_200.0],
    help: "From a command's first delivery to each time it is put into a retry bucket. Not of replayed commands, nor of those \
           that have waited for the end of a cut-off time.",
};
pub const LEFT_UNACKNOWLEDGED: Counter = Counter {
    name: "left_unacknowledged_total",
    labels: &["account"],
    help: "Deliveries whose effect the broker did not confirm; it delivers them again.",
};
pub const QUEUE_SUSPECT: Gauge = Gauge {
    name: "queue_suspect",
    labels: &["account"],
    help: "1 while the command queue, or that of strays, is consumed one message at a time because a message in it cannot be read.",
};

// The provider, as an account sees it.

pub const ACCOUNT_INFO: Gauge =
    Gauge { name: "account_info", labels: &["account", "profile"], help: "Always 1: the profile of each account." };
pub const CALLS: Counter = Counter {
    name: "calls_total",
    labels: &["account", "operation", "verdict"],
    help: "Calls to the provider, answered or not.",
};
pub const CALL_DURATION: Histogram = Histogram {
    name: "call_duration_seconds",
    labels: &["account", "operation"],
    // From a millisecond of a sandbox to the longest time limit.
    buckets: &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
    help: "From sending a request to its answer or failure.",
};
pub const RESPONSE_CODES: Counter = Counter {
    name: "response_codes_total",
    labels: &["account", "operation", "code"],
    help: "Answers of the provider by their SNAP responseCode.",
};
pub const RATE_LIMIT_WAIT: Histogram = Histogram {
    name: "rate_limit_wait_seconds",
    labels: &["account"],
    // An account with a rate takes no more commands at a time than have a turn within 20 s.
    buckets: &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0],
    help: "How long requests waited for their turn, where max_requests_per_second is set.",
};
pub const CLOCK_SKEW: Gauge = Gauge {
    name: "clock_skew_seconds",
    labels: &["account"],
    help: "The provider's clock, by the Date of its last answer, less ours. Right to about a second.",
};
pub const IN_FLIGHT: Gauge = Gauge { name: "in_flight", labels: &["account"], help: "Commands being worked on." };
pub const IN_FLIGHT_LIMIT: Gauge = Gauge {
    name: "in_flight_limit",
    labels: &["account"],
    help: "The most commands that are worked on at a time: max_in_flight, or fewer where max_requests_per_second is low.",
};
pub const PAUSED: Gauge = Gauge {
    name: "paused",
    labels: &["account"],
    help: "1 while the settings say that the account takes no commands.",
};
pub const BREAKER_STATE: Gauge = Gauge {
    name: "breaker_state",
    labels: &["account"],
    help: "The circuit breaker: 0 closed, 1 tries one command at a time, 2 takes none.",
};
pub const BREAKER_REASON: Gauge = Gauge {
    name: "breaker_reason",
    labels: &["account", "reason"],
    help: "1 for the reason why the circuit breaker is not closed.",
};
pub const BREAKER_TRIPS: Counter = Counter {
    name: "breaker_trips_total",
    labels: &["account", "reason"],
    help: "Rests that the circuit breaker began, those after a failed trial included.",
};

// The broker.

pub const BROKER_CONNECTED: Gauge =
    Gauge { name: "broker_connected", labels: &[], help: "1 while there is a connection to publish on." };
pub const BROKER_BLOCKED: Gauge =
    Gauge { name: "broker_blocked", labels: &[], help: "1 while the broker takes no messages (memory or disk alarm)." };
pub const BROKER_CONNECTS: Counter = Counter {
    name: "broker_connects_total",
    labels: &["result"],
    help: "Attempts to connect to the broker: one connection to publish, and one for each queue.",
};
pub const PUBLISHES: Counter = Counter {
    name: "publishes_total",
    labels: &["what", "result"],
    help: "Messages published, each attempt, by what the broker said.",
};
pub const PUBLISH_DURATION: Histogram = Histogram {
    name: "publish_duration_seconds",
    labels: &["what"],
    // From a broker next door to one that is held up as long as a publish may be.
    buckets: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
    help: "From publishing a message to the broker's confirm.",
};

// The process.

pub const BUILD_INFO: Gauge = Gauge { name: "build_info", labels: &["version"], help: "Always 1." };
pub const SETTINGS_LOADED: Gauge = Gauge {
    name: "settings_loaded_timestamp_seconds",
    labels: &[],
    help: "When the settings were last read, at the start or on SIGHUP, and found good.",
};
pub const TOKIO_WORKERS: Gauge = Gauge { name: "tokio_workers", labels: &[], help: "Threads that run tasks." };
pub const TOKIO_ALIVE_TASKS: Gauge =
    Gauge { name: "tokio_alive_tasks", labels: &[], help: "Tasks that have not ended." };
pub const TOKIO_GLOBAL_QUEUE_DEPTH: Gauge = Gauge {
    name: "tokio_global_queue_depth",
    labels: &[],
    help: "Tasks that are ready and wait for a thread, in the queue that all threads share.",
};
