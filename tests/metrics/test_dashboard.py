"""Does every query of the dashboard, and every rule, find something in what a real Prometheus knows of a real run?"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from loadgen.cli.run import run
from tests.metrics.prometheus import DOCKER, JOB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click import Context

    from tests.metrics.conftest import Watched

DASHBOARD = json.loads((DOCKER / "grafana/dashboards/loadgen.json").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DOCKER / "prometheus-rules.yml").read_text(encoding="utf-8"))
GRAFANA = {"$__rate_interval": "4s", "$__range": "10m", "$job": JOB}
"""What Grafana puts in their places; a rate interval is four scrapes."""


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


QUERIES = dict(queries())


def filled_in(query: str) -> str:
    for name, value in GRAFANA.items():
        query = query.replace(name, value)
    assert "$" not in query, query
    return query


@pytest.mark.envoy
@pytest.mark.parametrize("name", QUERIES)
def test_every_query_of_the_dashboard_gives_data(watched: Watched, name: str) -> None:
    series = watched.prometheus.range(filled_in(QUERIES[name]))
    assert any(math.isfinite(value) for values in series for value in values), QUERIES[name]


@pytest.mark.envoy
def test_the_dashboard_finds_the_job_that_it_is_to_show(watched: Watched) -> None:
    (variable,) = DASHBOARD["templating"]["list"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert found
    values = watched.prometheus.ask(f"label/{found[2]}/values", **{"match[]": found[1]})
    assert values == [JOB]


@pytest.mark.envoy
@pytest.mark.parametrize("record", [rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule])
def test_every_recording_rule_records_something(watched: Watched, record: str) -> None:
    assert any(math.isfinite(value) for values in watched.prometheus.range(record) for value in values)


@pytest.mark.envoy
def test_no_alert_complains_about_a_run_as_it_should_be(watched: Watched) -> None:
    fired = watched.prometheus.range('ALERTS{alertstate="firing",alertname!="LoadgenHammerLate"}')  # the machine may be busy
    assert not fired


def test_panels_lie_beside_each_other_and_each_says_what_it_shows() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        grid = panel["gridPos"]
        cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
        assert not places & cells, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        assert panel["description"] or panel["title"] == "Version"
        places |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_what_is_provisioned_is_what_is_there() -> None:
    sources = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"]
    used = re.findall(r'"uid": "(\w+)"\s*}', json.dumps(DASHBOARD))
    assert set(used) == {source["uid"] for source in sources}
    assert sources[0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/loadgen.yml").read_text(encoding="utf-8"))["providers"][0]
    assert provider["options"]["path"] in {volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]}


def test_the_composed_load_is_a_run_that_prometheus_scrapes() -> None:
    load = COMPOSE["services"]["load"]
    verb, *arguments = load["command"]
    assert verb == "run"
    context: Context = run.make_context("run", [str(each) for each in arguments])
    assert (DOCKER.parent / context.params["scenario"]).is_file()
    scraped = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"][0]["static_configs"][0]["targets"]
    assert scraped == [f"load:{context.params['metrics_port']}"]
    for source in re.findall(r"^ *COPY ([\w./ -]+) \S+$", load["build"]["dockerfile_inline"], re.MULTILINE):
        assert all((DOCKER.parent / each).exists() for each in source.split()), source


@pytest.mark.parametrize(
    "service", [service for service in COMPOSE["services"].values() if "image" in service], ids=lambda each: each["image"]
)
def test_images_are_pinned_files_are_there_and_ports_are_this_machine_s(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all((DOCKER / source).exists() for source in (volume.split(":")[0] for volume in service["volumes"]) if source.startswith("."))
