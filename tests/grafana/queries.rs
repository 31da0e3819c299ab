//! Everything that the dashboards ask of Prometheus.

use super::dashboards;
use serde_json::Value;

pub struct Query {
    /// Dashboard and panel, for whoever has to mend it.
    pub of: String,
    pub expr: String,
}

/// Every panel's, variable's and annotation's query, as Grafana sends it with everything chosen.
pub fn all() -> Vec<Query> {
    let mut queries = vec![];
    for (name, dashboard) in dashboards() {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut add = |what: &Value, expr: &Value| {
            let of = format!("{name} / {}", what.as_str().unwrap());
            queries.push(Query { of, expr: chosen(expr.as_str().unwrap(), ".*", "20s") });
        };
        for panel in list(&dashboard["panels"]) {
            list(&panel["targets"]).iter().for_each(|target| add(&panel["title"], &target["expr"]));
        }
        for annotation in list(&dashboard["annotations"]["list"]) {
            add(&annotation["name"], &annotation["target"]["expr"]);
        }
        for variable in list(&dashboard["templating"]["list"]).iter().filter(|variable| variable["type"] == "query") {
            add(&variable["name"], &variable["query"]["query"]);
        }
    }
    queries
}

/// What a panel with one query asks when every account is chosen, and Prometheus reads every minute.
pub fn of_panel(dashboard: &str, id: &str, account: &str) -> String {
    let dashboards = dashboards();
    let (_, dashboard) = dashboards.iter().find(|(name, _)| name == dashboard).unwrap();
    let id: u64 = id.parse().unwrap();
    let panel = dashboard["panels"].as_array().unwrap().iter().find(|panel| panel["id"] == id).unwrap();
    let targets = panel["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 1, "{} has several queries", panel["title"]);
    chosen(targets[0]["expr"].as_str().unwrap(), account, "5m")
}

fn chosen(expr: &str, account: &str, rate_interval: &str) -> String {
    // Grafana's own function, which it turns into a question for a label's values.
    let expr = match expr.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.split_once(", ")) {
        Some((metric, label)) => format!("group by ({label}) ({metric})"),
        None => expr.to_owned(),
    };
    let expr = expr.replace("$account", account).replace("$instance", ".*").replace("$prefix", "qris.cancel");
    let expr = expr.replace("$__rate_interval", rate_interval);
    assert!(!expr.replace("\"$1\"", "").contains('$'), "{expr}: a variable that nobody sets");
    expr
}
