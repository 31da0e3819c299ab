//! A private Prometheus on loopback, with the shipped configuration and rules, hastened.

use super::{HERE, rules, support};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A command is late after five seconds here, not after a minute.
const LATE: &str = "5";
/// One that is put off is old after a minute, not after two hours.
const OLD: &str = "60";

pub struct Prometheus {
    child: Child,
    dir: tempfile::TempDir,
    url: String,
}

impl Prometheus {
    /// Watches these workers and the broker's plugin.
    pub async fn start(workers: &[String], broker: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        write_config(&dir.path().join("prometheus.yml"), workers, broker);
        std::fs::write(dir.path().join("qris-cancel.rules.yml"), rules::hastened(LATE, OLD)).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus is there: make test-grafana installs it");
        let log = dir.path().join("log");
        support::until("Prometheus is ready", Duration::from_secs(30), || {
            let said = support::read(&log);
            Box::pin(async move { said.contains("Server is ready to receive web requests") })
        })
        .await;
        Self { child, dir, url: format!("http://{address}") }
    }

    /// From now on watches these.
    pub async fn watch(&self, workers: &[String], broker: &str) {
        write_config(&self.dir.path().join("prometheus.yml"), workers, broker);
        let reloaded = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(reloaded.success());
    }

    /// What a query comes to at this moment: labels and value of each series.
    pub async fn query(&self, expr: &str) -> Vec<(Value, f64)> {
        let answer = support::exchange_json(&self.url, &format!("/api/v1/query?query={}", encoded(expr))).await;
        assert_eq!(answer["status"], "success", "{expr}: {answer}");
        let value = |sample: &Value| sample[1].as_str().unwrap().parse::<f64>().unwrap();
        let result = &answer["data"]["result"];
        if answer["data"]["resultType"] == "scalar" {
            return vec![(Value::Null, value(result))];
        }
        let series = result.as_array().unwrap().iter();
        series.map(|series| (series["metric"].clone(), value(&series["value"]))).collect()
    }

    /// Whether a query has any data: a quotient of nothing by nothing is none.
    pub async fn has(&self, expr: &str) -> bool {
        self.query(expr).await.iter().any(|(_, value)| !value.is_nan())
    }

    /// The alerts that fire, and the account that each is about, if it is about one.
    pub async fn firing(&self) -> BTreeSet<(String, String)> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        alerts.iter().map(|(labels, _)| (text(&labels["alertname"]), text(&labels["account"]))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if std::thread::panicking() {
            eprintln!("--- Prometheus says\n{}", support::read(self.dir.path().join("log")));
        }
    }
}

fn write_config(path: &PathBuf, workers: &[String], broker: &str) {
    let text = support::read(format!("{HERE}/dashboards/prometheus/prometheus.yml"));
    let text = text.replace("worker:9464", &workers.join(", ")).replace("rabbitmq:15692", broker);
    let text = text.replace("interval: 15s", "interval: 2s");
    std::fs::write(path, text).unwrap();
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { (b as char).to_string() } else { format!("%{b:02X}") })
        .collect()
}
