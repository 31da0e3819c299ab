//! The dashboards, made of what stands in dashboards/panels: what a panel is about there, what Grafana wants to know here.

use super::{read, runbook};
use serde::Deserialize;
use serde_json::{Value, json};

pub const DASHBOARDS: [&str; 3] = ["overview", "provider", "broker"];
/// Of Grafana 12; later ones migrate it themselves.
const SCHEMA_VERSION: u32 = 41;
const COLUMNS: u32 = 24;
/// The panel before the runbook's entries, which are numbered from 1.
const INTRODUCTION: usize = 100;
const DATASOURCE: &str = "qris-cancel-prometheus";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    title: String,
    uid: String,
    description: String,
    variables: Vec<String>,
    row: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    panel: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    /// Stays, for links lead to it.
    id: u32,
    title: String,
    kind: Kind,
    description: String,
    unit: String,
    width: Option<u32>,
    height: Option<u32>,
    decimals: Option<u32>,
    max: Option<f64>,
    /// Can be below zero.
    #[serde(default)]
    signed: bool,
    #[serde(default)]
    log: bool,
    #[serde(default)]
    stack: bool,
    /// "green, 1 yellow, 5 red"
    #[serde(default = "plain")]
    steps: String,
    /// "0 closed green"
    #[serde(default)]
    text: Vec<String>,
    /// The alert whose entry of the runbook says what to do when this looks bad.
    alert: Option<String>,
    /// The dashboard with more of it.
    link: Option<String>,
    /// Of a table.
    columns: Option<Vec<String>>,
    expr: Option<String>,
    #[serde(default)]
    legend: String,
    #[serde(default)]
    queries: Vec<Query>,
    /// A query for each retry bucket, of `{ms}` with the bound `{bound}` in seconds.
    each_bucket: Option<String>,
    /// One number of all of them.
    aggregate: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Stat,
    Timeseries,
    StateTimeline,
    Bargauge,
    Table,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Query {
    legend: String,
    expr: String,
}

fn plain() -> String {
    "green".into()
}

/// What a dashboard's file holds.
pub fn dashboard(name: &str) -> Value {
    let path = format!("dashboards/panels/{name}.toml");
    let source: Source = toml::from_str(&read(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    let (mut panels, mut below) = (vec![], 0);
    for (number, row) in (1000..).zip(&source.row) {
        panels.push(row_panel(number, &row.title, below));
        below += 1;
        let (mut left, mut highest) = (0, 0);
        for panel in &row.panel {
            let (width, height) = panel.size();
            if left + width > COLUMNS {
                (left, below, highest) = (0, below + highest, 0);
            }
            panels.push(panel.json(json!({ "h": height, "w": width, "x": left, "y": below })));
            left += width;
            highest = highest.max(height);
        }
        below += highest;
    }
    let variables: Vec<_> = ["datasource"].into_iter().chain(source.variables.iter().map(String::as_str)).collect();
    whole(&source.title, &source.uid, &source.description, &panels, variables.into_iter().map(variable).collect())
}

/// The runbook as a dashboard, an entry a panel, so that a link to it leads somewhere wherever the dashboards are.
pub fn runbook_dashboard() -> Value {
    let (mut panels, mut below) = (vec![], 0);
    let introduction = ("Where to begin".to_owned(), runbook::introduction());
    let entries = runbook::entries();
    for (id, (title, mut text)) in (0..).zip([introduction].into_iter().chain(entries.iter().cloned())) {
        for (entry, (title, _)) in (1..).zip(&entries) {
            text = text.replace(&format!("](#{})", title.to_lowercase()), &format!("]({})", to_entry(entry)));
        }
        let height = 3 + u32::try_from(text.lines().count()).unwrap();
        panels.push(json!({
            "id": if id == 0 { INTRODUCTION } else { id },
            "type": "text",
            "title": title,
            "description": "From docs/RUNBOOK.md.",
            "gridPos": { "h": height, "w": COLUMNS, "x": 0, "y": below },
            "options": { "mode": "markdown", "content": text },
        }));
        below += height;
    }
    let description = "What each alert means, how to see it, and what to type: docs/RUNBOOK.md.";
    whole("QRIS cancel: runbook", "qris-cancel-runbook", description, &panels, vec![])
}

fn to_entry(entry: usize) -> String {
    format!("/d/qris-cancel-runbook?viewPanel={entry}")
}

fn whole(title: &str, uid: &str, description: &str, panels: &[Value], variables: Vec<Value>) -> Value {
    let annotations = if variables.is_empty() { vec![] } else { annotations() };
    json!({
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["qris-cancel"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-3h", "to": "now" },
        "timezone": "browser",
        "links": [link("dashboards", "", "")],
        "annotations": { "list": annotations },
        "templating": { "list": variables },
        "panels": panels,
    })
}

/// To a dashboard of ours, or to all of them, with the time and the variables of now.
fn link(kind: &str, title: &str, url: &str) -> Value {
    json!({
        "type": kind, "title": title, "url": url, "tags": ["qris-cancel"], "asDropdown": false, "includeVars": true,
        "keepTime": true, "targetBlank": false, "icon": "external link", "tooltip": "",
    })
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

/// What happened, as lines through all graphs.
fn annotations() -> Vec<Value> {
    let annotation = |name: &str, color: &str, expr: &str, title: &str, at_value: bool| {
        json!({
            "name": name, "datasource": datasource(), "enable": true, "hide": false, "iconColor": color,
            "target": { "refId": "Anno", "expr": expr, "interval": "60s" }, "titleFormat": title, "useValueForTime": at_value,
        })
    };
    vec![
        annotation(
            "Starts of workers",
            "blue",
            "process_start_time_seconds{job=\"qris-cancel-worker\"} * 1000",
            "{{instance}} started",
            true,
        ),
        annotation(
            "Breaker trips",
            "red",
            "sum by (account, reason) (increase(qris_cancel_breaker_trips_total[1m])) > 0",
            "{{account}} rests: {{reason}}",
            false,
        ),
    ]
}

fn variable(name: &str) -> Value {
    let of_labels = |label: &str, query: &str| {
        json!({
            "type": "query", "name": name, "label": label, "datasource": datasource(),
            "query": { "qryType": 1, "query": query, "refId": name }, "refresh": 2, "sort": 1,
            "multi": true, "includeAll": true, "allValue": ".*",
            "current": { "text": ["All"], "value": ["$__all"] },
        })
    };
    match name {
        "datasource" => json!({
            "type": "datasource", "name": name, "label": "Data source", "query": "prometheus",
            "current": { "text": "Prometheus", "value": DATASOURCE },
        }),
        "account" => of_labels("Account", "label_values(qris_cancel_in_flight, account)"),
        "instance" => of_labels("Worker", "label_values(qris_cancel_build_info, instance)"),
        "prefix" => json!({
            "type": "textbox", "name": name, "label": "amqp.prefix", "query": "qris.cancel",
            "current": { "text": "qris.cancel", "value": "qris.cancel" },
        }),
        _ => panic!("no variable {name}"),
    }
}

fn row_panel(id: u32, title: &str, below: u32) -> Value {
    json!({
        "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
        "gridPos": { "h": 1, "w": COLUMNS, "x": 0, "y": below },
    })
}

impl Panel {
    fn size(&self) -> (u32, u32) {
        let (width, height) = match self.kind {
            Kind::Stat => (6, 4),
            Kind::Timeseries | Kind::Bargauge => (12, 8),
            Kind::StateTimeline => (12, 6),
            Kind::Table if self.width.is_none() => (COLUMNS, 6),
            Kind::Table => (12, 8),
        };
        (self.width.unwrap_or(width), self.height.unwrap_or(height))
    }

    fn json(&self, place: Value) -> Value {
        let mut links = vec![];
        if let Some(alert) = &self.alert {
            let entry = runbook::entries().iter().position(|(title, _)| title == alert);
            let entry = 1 + entry.unwrap_or_else(|| panic!("{}: the runbook has no {alert}", self.title));
            links.push(link("link", &format!("Runbook: {alert}"), &to_entry(entry)));
        }
        if let Some(uid) = &self.link {
            links.push(link("link", "More of it", &format!("/d/{uid}")));
        }
        let mut panel = json!({
            "id": self.id,
            "type": self.kind_name(),
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": place,
            "links": links,
            "fieldConfig": { "defaults": self.field(), "overrides": [] },
            "options": self.options(),
            "targets": self.targets(),
        });
        if let Some(columns) = &self.columns {
            panel["transformations"] =
                json!([{ "id": "filterFieldsByName", "options": { "include": { "names": columns } } }]);
        }
        panel
    }

    fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Stat => "stat",
            Kind::Timeseries => "timeseries",
            Kind::StateTimeline => "state-timeline",
            Kind::Bargauge => "bargauge",
            Kind::Table => "table",
        }
    }

    /// Unit, thresholds, texts: Grafana's field options.
    fn field(&self) -> Value {
        let steps = self.steps.split(", ").map(|step| match step.split_once(' ') {
            None => json!({ "color": step, "value": null }),
            Some((value, color)) => json!({ "color": color, "value": value.parse::<f64>().unwrap() }),
        });
        let texts = self.text.iter().enumerate().map(|(index, text)| {
            let (value, rest) = text.split_once(' ').unwrap();
            let (text, color) = rest.rsplit_once(' ').unwrap();
            (value.to_owned(), json!({ "text": text, "color": color, "index": index }))
        });
        let texts: serde_json::Map<_, _> = texts.collect();
        let by_threshold = self.kind != Kind::Timeseries;
        let mut field = json!({
            "unit": self.unit,
            "color": { "mode": if by_threshold { "thresholds" } else { "palette-classic" } },
            "thresholds": { "mode": "absolute", "steps": steps.collect::<Vec<_>>() },
            "mappings": if texts.is_empty() { json!([]) } else { json!([{ "type": "value", "options": texts }]) },
            "noValue": if self.kind == Kind::Stat { "none" } else { "" },
        });
        // A logarithm has no zero.
        if !self.signed && !self.log {
            field["min"] = 0.into();
        }
        if let Some(decimals) = self.decimals {
            field["decimals"] = decimals.into();
        }
        if let Some(max) = self.max {
            field["max"] = max.into();
        }
        match self.kind {
            Kind::Timeseries => {
                let scale = if self.log { json!({ "type": "log", "log": 10 }) } else { json!({ "type": "linear" }) };
                field["custom"] = json!({
                    "drawStyle": "line",
                    "fillOpacity": if self.stack { 40 } else { 5 },
                    "showPoints": "never",
                    "stacking": { "group": "A", "mode": if self.stack { "normal" } else { "none" } },
                    "scaleDistribution": scale,
                    "thresholdsStyle": { "mode": if self.steps.contains(',') { "dashed" } else { "off" } },
                });
            }
            Kind::StateTimeline => field["custom"] = json!({ "fillOpacity": 70, "lineWidth": 0 }),
            Kind::Stat | Kind::Bargauge | Kind::Table => {}
        }
        field
    }

    fn options(&self) -> Value {
        let last = json!({ "calcs": ["lastNotNull"], "fields": "", "values": false });
        match self.kind {
            Kind::Stat => json!({
                "reduceOptions": last, "colorMode": "background", "graphMode": "none", "justifyMode": "center",
                "orientation": "auto", "textMode": if self.legend.is_empty() { "value" } else { "value_and_name" }, "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
            }),
            Kind::Timeseries => json!({
                "legend": { "displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": ["lastNotNull", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            Kind::StateTimeline => json!({
                "showValue": "auto", "mergeValues": true, "rowHeight": 0.9, "alignValue": "left",
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": [] },
                "tooltip": { "mode": "single", "sort": "none" },
            }),
            Kind::Bargauge => json!({
                "reduceOptions": last, "displayMode": "basic", "orientation": "horizontal", "valueMode": "color",
                "namePlacement": "left", "showUnfilled": true, "sizing": "auto", "minVizHeight": 8, "minVizWidth": 8, "maxVizHeight": 300,
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": [] },
            }),
            Kind::Table => json!({ "showHeader": true, "cellHeight": "sm", "frameIndex": 0 }),
        }
    }

    fn targets(&self) -> Vec<Value> {
        let over_time = matches!(self.kind, Kind::Timeseries | Kind::StateTimeline);
        let targets = ('A'..).zip(self.all_queries()).map(|(name, query)| {
            json!({
                "refId": name.to_string(),
                "datasource": datasource(),
                "expr": query.expr.trim(),
                "legendFormat": query.legend,
                "instant": !over_time,
                "range": over_time,
                "format": if self.kind == Kind::Table { "table" } else { "time_series" },
            })
        });
        targets.collect()
    }

    fn all_queries(&self) -> Vec<Query> {
        let (mut queries, legend) = (self.queries.clone(), self.legend.clone());
        queries.extend(self.expr.iter().map(|expr| Query { legend: legend.clone(), expr: expr.clone() }));
        if let Some(pattern) = &self.each_bucket {
            let buckets = (0..15).map(|k| {
                let (ms, bound) = (250u64 << k, 0.5 * f64::from(1 << k));
                let expr = pattern.replace("{ms}", &ms.to_string()).replace("{bound}", &bound.to_string());
                Query { legend: spoken(bound), expr }
            });
            match &self.aggregate {
                None => queries.extend(buckets),
                Some(aggregate) => {
                    let all: Vec<_> = buckets.map(|bucket| bucket.expr).collect();
                    let expr = format!("{aggregate}(\n  {}\n)", all.join("\n  or "));
                    queries.push(Query { legend, expr });
                }
            }
        }
        assert!(!queries.is_empty(), "{} asks nothing", self.title);
        queries
    }
}

/// A bucket's bound, as a person says it.
fn spoken(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("up to {s} s"),
        s if s < 3600.0 => format!("up to {:.0} min", s / 60.0),
        s => format!("up to {:.1} h", s / 3600.0),
    }
}
