"""Grafana's files. No Grafana runs here: what it would draw and how it reads them is not tested.

Tested is everything else: the committed files are the generated ones, Grafana's own model reads each dashboard back
without loss, and every query of a panel, variable, annotation and alert runs on the real server and returns rows, with
macros and variables expanded as the data source plugin and Grafana document it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as Model

from deploy.generate.grafana import DATASOURCE_UID, TAG
from deploy.generate.provisioning import files
from metrics_pipeline.dashboards.panels import DASHBOARDS
from tests.dashboards.conftest import Drained

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
DASHBOARD_FILES = [f"dashboards/{dashboard.name}.json" for dashboard in DASHBOARDS]
_MACRO = re.compile(r"\$__(\w+)")
_VARIABLE = re.compile(r"\$\{(\w+):percentencode\}")


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def queries_of(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every `rawSql` in a document, with where it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "rawSql":
                yield path, inner
            else:
                yield from queries_of(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from queries_of(inner, f"{path}[{at}]")


def expand(sql: str, start: int, end: int, variables: dict[str, str]) -> str:
    """What the server gets: the plugin's macros for times, and values percent-encoded as by encodeURIComponent."""
    times = {"fromTime": f"toDateTime({start})", "toTime": f"toDateTime({end})"}
    sql = _MACRO.sub(lambda found: times[found[1]], sql)
    return _VARIABLE.sub(lambda found: quote(variables[found[1]], safe="-_.~"), sql)


def run(drained: Drained, sql: str) -> list[list[Any]]:
    """Under readonly = 1, as Grafana's account has it."""
    base, _, database = drained.url.rpartition("/")
    url = f"{base}/?database={database}&readonly=1&default_format=JSONCompact"
    request = Request(url, data=sql.encode())  # noqa: S310 - our own loopback address
    with urlopen(request, timeout=30) as answer:  # noqa: S310 - likewise
        rows: list[list[Any]] = json.load(answer)["data"]
        return rows


def test_the_committed_files_are_the_generated_ones() -> None:
    wanted = files()
    found = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*") if path.is_file()}
    generated = {name: text for name, text in found.items() if name != "README.md"}
    assert generated == wanted, "run `make generated`"


@pytest.mark.parametrize("name", DASHBOARD_FILES)
def test_grafanas_model_reads_a_dashboard_without_loss(name: str) -> None:
    register_default_plugins()
    document = read(name)
    again = json.loads(json.dumps(Model.from_json(document), cls=JSONEncoder))
    assert again == document


@pytest.mark.parametrize("name", DASHBOARD_FILES)
def test_every_query_of_a_dashboard_returns_rows(drained: Drained, name: str) -> None:
    document = read(name)
    found = list(queries_of(document))
    assert len(found) >= len(document["panels"])
    end = int(drained.end.timestamp())
    variables = {**drained.variables, "tier": "*", "region": "*", "price": "0.1"}
    if "incident" in name:
        variables["endpoint"] = "*"
    for where, sql in found:
        for span in (3_600, 7 * 86_400):
            assert run(drained, expand(sql, end - span, end, variables)), (where, span)


@pytest.mark.parametrize("name", DASHBOARD_FILES)
def test_variables_links_and_identities_fit(name: str) -> None:
    document = read(name)
    names = {variable["name"] for variable in document["templating"]["list"]}
    used = {found for _, sql in queries_of(document) for found in _VARIABLE.findall(sql)}
    assert used <= names
    text = (FOLDER / name).read_text()
    known = {f"{TAG}-{dashboard.name}" for dashboard in DASHBOARDS}
    assert set(re.findall(r"/d/([\w-]+)\?", text)) <= known
    assert len(document["uid"]) <= 40
    assert {target["datasource"]["uid"] for panel in document["panels"] for target in panel["targets"]} == {
        DATASOURCE_UID
    }


@pytest.mark.parametrize("value", ["'", "\\", "a' OR 1 = 1 --", "\\' OR 1 = 1 --", "é%27", "${service}"])
def test_a_value_is_never_sql(drained: Drained, value: str) -> None:
    """Whatever a link holds: no such service, no rows, no error."""
    end = int(drained.end.timestamp())
    document = read("dashboards/service-overview.json")
    sql = next(sql for _, sql in queries_of(document["panels"]) if "${service:" in sql and "p99" in sql)
    variables = {"service": value, "tier": "*", "region": "*"}
    assert run(drained, expand(sql, end - 3_600, end, variables)) == []


@pytest.mark.parametrize("name", DASHBOARD_FILES)
def test_panels_lie_beside_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in read(name)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_alert_is_complete() -> None:
    document = read("provisioning/alerting/rules.json")
    rules = document["groups"][0]["rules"]
    assert len({rule["uid"] for rule in rules}) == len(rules)
    for rule in rules:
        assert len(rule["uid"]) <= 40
        assert rule["condition"] in {query["refId"] for query in rule["data"]}
        assert [query["datasourceUid"] for query in rule["data"]] == [DATASOURCE_UID, "__expr__", "__expr__"]
        assert rule["annotations"]["summary"]
