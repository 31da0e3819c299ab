//! What Grafana asks of a dashboard's file, as far as it can be checked without Grafana.

use serde_json::Value;
use std::collections::BTreeSet;

/// Units of Grafana that the dashboards use; a misspelt one would only be shown behind the number.
const UNITS: [&str; 9] = ["none", "short", "s", "bytes", "percentunit", "reqps", "cps", "cpm", "dateTimeFromNow"];
const COLORS: [&str; 4] = ["green", "yellow", "red", "blue"];

pub fn check(name: &str, dashboard: &Value, all: &[(String, Value)]) {
    assert_eq!(dashboard["uid"], format!("qris-cancel-{name}"));
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{name}: two panels have the id {}", panel["id"]);
        assert!(titles.insert(title), "{name}: two panels are called {title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24 && place("w") > 0 && place("h") > 0, "{name}: {title} is off the grid");
        for cell in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert(cell), "{name}: {title} lies on another panel");
        }
        match panel["type"].as_str().unwrap() {
            "row" => {}
            "text" => assert!(!panel["options"]["content"].as_str().unwrap().is_empty()),
            _ => of_data(name, title, panel),
        }
        for link in panel["links"].as_array().into_iter().flatten() {
            let url = link["url"].as_str().unwrap();
            let uid = url.strip_prefix("/d/").unwrap().split('?').next().unwrap();
            let target = all.iter().find(|(_, dashboard)| dashboard["uid"] == uid);
            let (_, target) = target.unwrap_or_else(|| panic!("{name}: {title} leads to {uid}, which is not there"));
            let id = url.split("viewPanel=").nth(1).map(|id| id.parse::<u64>().unwrap());
            let is_there =
                target["panels"].as_array().unwrap().iter().any(|panel| id.is_none_or(|id| panel["id"] == id));
            assert!(is_there, "{name}: {title} leads to a panel that is not there: {url}");
        }
    }
    for part in ["templating", "annotations"] {
        for item in dashboard[part]["list"].as_array().unwrap() {
            let known = item["type"] == "datasource" || item["type"] == "textbox";
            assert!(known || item["datasource"]["uid"] == "${datasource}", "{name}: {item}");
        }
    }
}

fn of_data(name: &str, title: &str, panel: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert!(text(&panel["description"]).len() > 20, "{name}: {title} has no description");
    let field = &panel["fieldConfig"]["defaults"];
    let unit = text(&field["unit"]);
    assert!(UNITS.contains(&unit.as_str()) || unit.starts_with("suffix:"), "{name}: {title} has the unit {unit:?}");
    let steps = field["thresholds"]["steps"].as_array().unwrap();
    assert!(steps[0]["value"].is_null(), "{name}: {title}: the first colour is that of the lowest values");
    let bounds: Vec<_> = steps[1..].iter().map(|step| step["value"].as_f64().unwrap()).collect();
    assert!(bounds.is_sorted(), "{name}: {title}: thresholds out of order");
    assert!(steps.iter().all(|step| COLORS.contains(&text(&step["color"]).as_str())), "{name}: {title}");
    let mut names = BTreeSet::new();
    for target in panel["targets"].as_array().unwrap() {
        assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}: {title}");
        assert!(names.insert(text(&target["refId"])), "{name}: {title}: two queries of one name");
    }
    assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
    assert!(!names.is_empty(), "{name}: {title} asks nothing");
}
