"""The command `dashboard`: the names that it looks for, and those that it need not know."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.dashboards.builtin import LIVE, needed_names
from metrics_pipeline.dashboards.panels import DASHBOARDS
from tests.dashboards.conftest import Drained

NEEDED = {
    "live": (),
    "pipeline-health": (),
    "service-overview": ("service",),
    "incident-deep-dive": ("service",),
    "endpoint-detail": ("service", "endpoint"),
}


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["dashboard", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_each_dashboard_needs_the_names_that_it_is_about() -> None:
    assert {dashboard.name: needed_names(dashboard) for dashboard in (LIVE, *DASHBOARDS)} == NEEDED


@pytest.mark.parametrize("name", NEEDED)
def test_the_server_is_asked_for_nothing_that_is_known(
    monkeypatch: pytest.MonkeyPatch, dead_address: str, name: str
) -> None:
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{dead_address}/metrics")
    given = [word for needed in NEEDED[name] for word in (f"--{needed}", f"some-{needed}")]
    assert f"http://{dead_address}/dashboard#" in printed(name, *given)


def test_without_a_name_it_is_the_busiest(drained: Drained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", drained.url)
    counted = "SELECT service, endpoint, count() AS n FROM raw_events WHERE timestamp > now() - 86400 GROUP BY ALL"
    ((service,),) = drained.client.query(
        f"SELECT service FROM ({counted}) GROUP BY service ORDER BY sum(n) DESC, service LIMIT 1"
    ).result_rows
    ((endpoint,),) = drained.client.query(
        f"SELECT endpoint FROM ({counted}) WHERE service = {{service:String}} ORDER BY n DESC, endpoint LIMIT 1",
        parameters={"service": service},
    ).result_rows
    asked: dict[str, set[tuple[str | None, str | None]]] = {}
    for line in printed("--tables", "--seconds", "86400").splitlines():
        title, _, link = line.partition(": ")
        names = dict(parse_qsl(urlsplit(link).query, keep_blank_values=True))
        asked.setdefault(title.split(",")[0], set()).add((names.get("param_service"), names.get("param_endpoint")))
    assert (service, endpoint) in asked["Endpoint detail"]
    assert (service, "") in asked["Incident deep dive"]
    assert asked["Service overview"] == {(None, None)}
