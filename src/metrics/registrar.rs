//! Registers each metric of the table once, and gives out its children, one for each set of labels.

use super::table;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry, Result,
    core::{Collector, MetricVec, MetricVecBuilder},
};
use std::collections::BTreeMap;

/// The metrics that were registered so far, by name.
pub struct Registrar<'a> {
    registry: &'a Registry,
    counters: BTreeMap<&'static str, IntCounterVec>,
    gauges: BTreeMap<&'static str, GaugeVec>,
    histograms: BTreeMap<&'static str, HistogramVec>,
}

impl<'a> Registrar<'a> {
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, counters: BTreeMap::new(), gauges: BTreeMap::new(), histograms: BTreeMap::new() }
    }

    pub fn counter(&mut self, metric: &table::Counter, labels: &[&str]) -> Result<IntCounter> {
        let new = || IntCounterVec::new(options(metric.name, metric.help), metric.labels);
        once(self.registry, &mut self.counters, metric.name, new)?.get_metric_with_label_values(labels)
    }

    pub fn gauge(&mut self, metric: &table::Gauge, labels: &[&str]) -> Result<Gauge> {
        self.gauges(metric)?.get_metric_with_label_values(labels)
    }

    /// For a gauge that is not there until something is known.
    pub fn gauges(&mut self, metric: &table::Gauge) -> Result<GaugeVec> {
        let new = || GaugeVec::new(options(metric.name, metric.help), metric.labels);
        once(self.registry, &mut self.gauges, metric.name, new)
    }

    pub fn histogram(&mut self, metric: &table::Histogram, labels: &[&str]) -> Result<Histogram> {
        let new = || {
            let options = HistogramOpts::from(options(metric.name, metric.help)).buckets(metric.buckets.to_vec());
            HistogramVec::new(options, metric.labels)
        };
        once(self.registry, &mut self.histograms, metric.name, new)?.get_metric_with_label_values(labels)
    }

    pub fn others(&mut self, collector: impl Collector + 'static) -> Result<()> {
        self.registry.register(Box::new(collector))
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("qris_cancel")
}

fn once<B: MetricVecBuilder + 'static>(
    registry: &Registry,
    registered: &mut BTreeMap<&'static str, MetricVec<B>>,
    name: &'static str,
    new: impl FnOnce() -> Result<MetricVec<B>>,
) -> Result<MetricVec<B>> {
    if let Some(family) = registered.get(name) {
        return Ok(family.clone());
    }
    let family = new()?;
    registry.register(Box::new(family.clone()))?;
    registered.insert(name, family.clone());
    Ok(family)
}
