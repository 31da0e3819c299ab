//! This process: version, settings, runtime, and what the kernel says of it.

use super::{registrar::Registrar, table};
use chrono::{DateTime, Utc};
use prometheus::{Gauge, Result, process_collector::ProcessCollector};
use tokio::runtime::RuntimeMetrics;

pub struct Process {
    settings_loaded: Gauge,
    workers: Gauge,
    alive_tasks: Gauge,
    global_queue_depth: Gauge,
}

impl Process {
    pub(super) fn new(registrar: &mut Registrar<'_>) -> Result<Self> {
        registrar.gauge(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")])?.set(1.0);
        registrar.others(ProcessCollector::for_self())?;
        Ok(Self {
            settings_loaded: registrar.gauge(&table::SETTINGS_LOADED, &[])?,
            workers: registrar.gauge(&table::TOKIO_WORKERS, &[])?,
            alive_tasks: registrar.gauge(&table::TOKIO_ALIVE_TASKS, &[])?,
            global_queue_depth: registrar.gauge(&table::TOKIO_GLOBAL_QUEUE_DEPTH, &[])?,
        })
    }

    /// The settings were read and found good.
    pub fn settings_loaded(&self, at: DateTime<Utc>) {
        self.settings_loaded.set(at.timestamp_millis() as f64 / 1000.0);
    }

    /// How the runtime stands at this moment.
    pub fn stands(&self, runtime: &RuntimeMetrics) {
        self.workers.set(runtime.num_workers() as f64);
        self.alive_tasks.set(runtime.num_alive_tasks() as f64);
        self.global_queue_depth.set(runtime.global_queue_depth() as f64);
    }
}
