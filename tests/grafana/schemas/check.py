"""Holds docker-compose.yml and the dashboards against the schemas beside this file, or prints a YAML file as JSON.

usage: check.py                 prints what is wrong, and ends with 1 if anything is
       check.py json FILE
"""

import json
import sys
from pathlib import Path

import yaml
from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# Grafana's name of a panel, and the file that describes its options.
PANELS = {
    "stat": "stat",
    "timeseries": "timeseries",
    "state-timeline": "statetimeline",
    "bargauge": "bargauge",
    "table": "table",
    "text": "text",
}


def schema(name):
    return json.loads((HERE / name).read_text())


def part(name, definition):
    """One of the definitions of a file of Grafana's."""
    return {**schema(f"{name}.jsonschema.json"), "$ref": f"#/definitions/{definition}"}


def faults(where, value, by):
    for error in Draft7Validator(by).iter_errors(value):
        deepest = best_match([error])
        yield f"{where} {'/'.join(map(str, deepest.absolute_path))}: {deepest.message[:200]}"


def of_dashboard(file):
    dashboard = json.loads(file.read_text())
    for panel in dashboard["panels"]:
        where = f"{file.name}: {panel['title']}"
        if panel["type"] == "row":
            continue
        about = PANELS[panel["type"]]
        yield from faults(f"{where}: options", panel["options"], part(about, "Options"))
        custom = panel.get("fieldConfig", {}).get("defaults", {}).get("custom")
        if custom is not None:
            yield from faults(f"{where}: custom", custom, part(about, "FieldConfig"))
        for target in panel.get("targets", []):
            yield from faults(f"{where}: target", target, schema("prometheus.jsonschema.json"))
    # The schema wants a variable's query to be a text, or an object of nothing but objects; Grafana itself writes this one.
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["query"].keys() == {"qryType", "query", "refId"}, variable["query"]
            variable["query"] = variable["query"]["query"]
    yield from faults(f"{file.name}:", dashboard, schema("dashboard.jsonschema.json"))


def all_faults():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    yield from faults("docker-compose.yml:", compose, schema("compose-spec.json"))
    for file in sorted((ROOT / "dashboards/grafana/dashboards").glob("*.json")):
        yield from of_dashboard(file)


if sys.argv[1:2] == ["json"]:
    print(json.dumps(yaml.safe_load(Path(sys.argv[2]).read_text())))
else:
    found = list(all_faults())
    print("\n".join(found))
    sys.exit(1 if found else 0)
