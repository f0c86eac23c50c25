"""Every panel's question on the real server, over drained events, in each of its forms."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from metrics_pipeline.alerting.burn import WINDOWS
from metrics_pipeline.dashboards.options import OPTIONS
from metrics_pipeline.dashboards.panel import Kind, Panel, panel_query
from metrics_pipeline.dashboards.panels import PANELS
from metrics_pipeline.dashboards.steps import (
    DAY,
    HOUR,
    MONTH,
    WEEK,
    Reach,
    bucket_sql,
    step_of,
)
from tests.dashboards.conftest import Drained

SPANS = (HOUR, 6 * HOUR, DAY, WEEK, 30 * DAY, 396 * DAY)
BY_NAME = {panel.name: panel for panel in PANELS}


def ask(drained: Drained, panel: Panel, span_seconds: int, **more: str) -> list[dict[str, object]]:
    start = drained.end - timedelta(seconds=span_seconds)
    sql, parameters = panel_query(panel, start, drained.end, **{**drained.variables, **more})
    return list(drained.client.query(sql, parameters=parameters).named_results())


@pytest.mark.parametrize("panel", [*PANELS, *OPTIONS.values()], ids=lambda panel: panel.name)
def test_a_panel_answers_over_every_span(drained: Drained, panel: Panel) -> None:
    for span in SPANS:
        rows = ask(drained, panel, span)
        assert rows, span
        if panel.kind is Kind.TIMESERIES:
            times = [row["time"] for row in rows]
            assert times == sorted(times), span
            assert all(isinstance(time, datetime) for time in times)
            assert list(rows[0]) == ["time", panel.lines_by, "value"] if panel.lines_by else len(rows[0]) >= 2
            values = [value for row in rows for name, value in row.items() if name != "time"]
            assert panel.name == "lost" or any(isinstance(value, (int, float)) and value > 0 for value in values), span


def test_requests_and_errors_equal_raw_events(drained: Drained) -> None:
    start = drained.end - timedelta(seconds=WEEK)
    (total,) = drained.client.query(
        "SELECT count(), countIf(status >= 500) FROM raw_events WHERE timestamp >= {start:DateTime('UTC')}",
        parameters={"start": int(start.timestamp()) // HOUR * HOUR},
    ).result_rows
    services = ask(drained, BY_NAME["services"], WEEK)
    assert sum(int(str(row["requests"])) for row in services) == total[0]
    (figures,) = ask(drained, BY_NAME["all_figures"], WEEK)
    assert figures["requests"] == total[0]
    assert figures["error_percent"] == pytest.approx(100 * total[1] / total[0])


def test_rates_add_up_to_the_requests_of_the_span(drained: Drained) -> None:
    rows = ask(drained, BY_NAME["all_requests"], HOUR)
    (figures,) = ask(drained, BY_NAME["all_figures"], HOUR)
    bucket = step_of(Reach.WIDE, HOUR).bucket_seconds
    assert sum(float(str(row["requests"])) for row in rows) * bucket == pytest.approx(float(str(figures["requests"])))


def test_the_first_point_is_no_part_of_a_bucket(drained: Drained) -> None:
    """Its rate would be divided by more seconds than it covers."""
    end = drained.end + timedelta(seconds=17)
    for panel in (BY_NAME["events_in"], BY_NAME["raw_requests"], BY_NAME["all_requests"]):
        sql, parameters = panel_query(panel, end - timedelta(seconds=7_000), end, **drained.variables)
        assert parameters["start"] % parameters["bucket"] == 0
        assert drained.client.query(sql, parameters=parameters).result_rows


def test_the_server_chooses_the_same_steps(drained: Drained) -> None:
    spans = sorted({1, *SPANS, *(limit + more for limit in (3 * HOUR, DAY, WEEK, MONTH, 900) for more in (-1, 0, 1))})
    for reach in Reach:
        sql = f"SELECT arrayMap(s -> {bucket_sql(reach, 's')}, {spans})"
        assert drained.client.query(sql).result_rows[0][0] == [step_of(reach, s).bucket_seconds for s in spans]


def test_burn_rates_are_of_the_worst_shard_and_canaries_show_their_seconds(drained: Drained) -> None:
    last = {str(row["window"]): row["value"] for row in ask(drained, BY_NAME["burn_rate"], HOUR)}
    assert set(last) == {f"{source} {window}" for source in ("canaries", "events") for window in WINDOWS}
    assert last["canaries 1h"] == pytest.approx(100), "of shard 1 all are late, of shard 0 one of two"
    assert 0 <= float(str(last["events 6h"])) <= 100, "a slow machine lands some late"
    seconds = [(row["shard"], row["value"]) for row in ask(drained, BY_NAME["canary"], DAY)]
    assert max(seconds) == ("1", 40.0)
    assert ("0", 30.0) in seconds, "not seen: at its objective"


def test_a_burn_rate_looks_back_from_each_point_over_its_window(drained: Drained) -> None:
    """Two hours ago all canaries of an hour were late; read at points before and after."""
    name = "burn_windows"
    drained.client.command(f"CREATE TABLE {name} AS canaries")
    drained.client.command(
        f"""INSERT INTO {name} (event_id, produced_at, seconds, objective_seconds)
        SELECT generateUUIDv4(), {{end:DateTime64(3)}} - number * 60, if(number BETWEEN 120 AND 179, 60, 1), 30
        FROM numbers(600)""",
        parameters={"end": drained.end},
    )
    panel = replace(BY_NAME["burn_rate"], query=BY_NAME["burn_rate"].query.replace("FROM canaries", f"FROM {name}"))
    rows = [row for row in ask(drained, panel, 6 * HOUR) if str(row["window"]) == "canaries 1h"]
    ages = {round((drained.end - row["time"].replace(tzinfo=UTC)).total_seconds() / 60): row["value"] for row in rows}
    drained.client.command(f"DROP TABLE {name}")
    assert ages[200] == ages[30] == 0
    assert ages[121] == pytest.approx(100, abs=4)
    assert ages[150] == pytest.approx(50, abs=4)
    assert ages[90] == pytest.approx(50, abs=4)
