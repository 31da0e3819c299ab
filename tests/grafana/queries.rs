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
            queries.push(Query { of, expr: chosen(expr.as_str().unwrap()) });
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

fn chosen(expr: &str) -> String {
    // Grafana's own function, which it turns into a question for a label's values.
    let expr = match expr.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')?.split_once(", ")) {
        Some((metric, label)) => format!("group by ({label}) ({metric})"),
        None => expr.to_owned(),
    };
    let expr = expr.replace("$account", ".*").replace("$instance", ".*").replace("$prefix", "qris.cancel");
    let expr = expr.replace("$__rate_interval", "20s");
    assert!(!expr.replace("\"$1\"", "").contains('$'), "{expr}: a variable that nobody sets");
    expr
}
