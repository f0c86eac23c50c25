"""What is asked of the present, by alerts and by the pages of the server, right after events have landed."""

from collections.abc import Iterator

import pytest

from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.kind import Question
from metrics_pipeline.dashboards.builtin import LIVE, builtin_query, charts, parameters
from metrics_pipeline.dashboards.panel import Dashboard, Kind, Panel
from metrics_pipeline.dashboards.panels import DASHBOARDS
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.kafka import KafkaServer
from tests.dashboards.conftest import Drained, drained_load

QUESTIONS = [kind.question for kind in KINDS.values() if kind.question]


@pytest.fixture(scope="module")
def just_drained(kafka: KafkaServer, clickhouse: ClickHouseServer) -> Iterator[Drained]:
    """Alerts are about the last five minutes: the load of the other tests may be older."""
    with drained_load(kafka, clickhouse) as made:
        yield made


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.uid)
def test_an_alert_gives_numbers(just_drained: Drained, question: Question) -> None:
    """Under readonly = 1, as the accounts of dashboards are."""
    assert "$" not in question.sql
    answer = just_drained.client.query(question.sql, settings={"readonly": 1})
    assert answer.result_rows
    for row in answer.result_rows:
        *labels, value = row
        assert all(isinstance(label, str) for label in labels)
        assert isinstance(value, (int, float))


def test_alerts_fire_for_what_the_load_did(just_drained: Drained) -> None:
    """Its dead letters are above the limit, and its silence is not."""
    fires = {of.uid: just_drained.client.query(of.sql).result_rows[0][-1] > of.above for of in QUESTIONS}
    assert fires["dead-letters"]
    assert not fires["silence"]
    assert not fires["lost"]


@pytest.mark.parametrize("dashboard", [LIVE, *DASHBOARDS], ids=lambda dashboard: dashboard.name)
def test_the_pages_of_the_server_get_rows(just_drained: Drained, dashboard: Dashboard) -> None:
    for panel in {*charts(dashboard), *dashboard.panels}:
        values = parameters((panel,), 900, just_drained.variables)
        answer = just_drained.client.query(builtin_query(panel), parameters=values)
        assert answer.result_rows, panel.name
        if panel.kind is Kind.TIMESERIES:
            assert answer.column_names[0] == "t"
            assert isinstance(answer.result_rows[0][0], int), panel.name


def test_the_pages_of_the_server_show_the_present_second(just_drained: Drained) -> None:
    """Else what has just landed would be missing, and a chart of nothing else empty."""
    panel = Panel("now", "", "", "SELECT now() >= @start AND now() < @end AS is_in", kind=Kind.STAT)
    answer = just_drained.client.query(builtin_query(panel), parameters={"seconds": 900})
    assert answer.result_rows == [(1,)]
