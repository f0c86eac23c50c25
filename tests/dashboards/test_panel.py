"""Panels as values: their spans, their states, and what a wrong use says."""

from datetime import UTC, datetime, timedelta

import pytest

from metrics_pipeline.dashboards.panel import TOKEN, Kind, Panel, panel_query
from metrics_pipeline.dashboards.panels import DASHBOARDS, PANELS
from metrics_pipeline.dashboards.steps import DAY, HOUR, MONTH, WEEK, Reach, step_of
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS, REGIONS, SERVICES, TOTALS, Cube
from metrics_pipeline.rollups.grains import GRAINS, LIVE, SETTLE_SECONDS

NOW = datetime(2026, 11, 24, 13, 37, 41, tzinfo=UTC)
MAX_STATES = 20_000
SPANS = (HOUR, 3 * HOUR, 6 * HOUR, DAY, WEEK, 30 * DAY, MONTH, 396 * DAY)
SERVICES_COUNT, ENDPOINTS_EACH, TIERS, REGIONS_COUNT = 40, 25, 3, 4


def states_per_bucket(panel: Panel) -> int:
    """Rows of a bucket that the panel merges, in a company like the generated one; one method per endpoint."""
    cube = cube_of(panel)
    one_service = "service = @service" in panel.query
    endpoints = 1 if "endpoint = @endpoint" in panel.query else ENDPOINTS_EACH
    services = 1 if one_service else SERVICES_COUNT
    return {
        ENDPOINTS: services * endpoints * TIERS,
        REGIONS: services * REGIONS_COUNT * TIERS,
        SERVICES: services * TIERS,
        TOTALS: REGIONS_COUNT * TIERS,
    }[cube]


def cube_of(panel: Panel) -> Cube:
    (cube,) = (cube for cube in CUBES if f"FROM {cube.name}(" in panel.query)
    return cube


def buckets_read(start: int, end: int, step: int, now: int) -> int:
    """How many buckets cover [start, end) if all that are closed are built: the longest that fit, from the left."""
    count, at = 0, start
    while at < end:
        fitting = [
            grain.seconds
            for grain in GRAINS
            if grain.seconds <= max(step, LIVE.seconds)
            and at % grain.seconds == 0
            and at + grain.seconds <= min(end, now - SETTLE_SECONDS)
        ]
        at += max(fitting, default=LIVE.seconds)
        count += 1
    return count


READERS_OF_STATES = [p for p in PANELS if "latency_ms" in p.query and p.reach is not Reach.ROWS]


@pytest.mark.parametrize("panel", READERS_OF_STATES, ids=lambda panel: panel.name)
def test_a_panel_merges_few_states(panel: Panel) -> None:
    for span in SPANS:
        _, values = panel_query(panel, NOW - timedelta(seconds=span), NOW)
        buckets = buckets_read(values["start"], values["end"], values["step"], int(NOW.timestamp()))
        assert buckets * states_per_bucket(panel) <= MAX_STATES, span


def test_the_reading_of_states_is_seen() -> None:
    assert len(READERS_OF_STATES) >= 12


@pytest.mark.parametrize("reach", [Reach.NARROW, Reach.WIDE])
def test_a_point_is_a_whole_bucket_of_what_is_read(reach: Reach) -> None:
    for span in SPANS:
        step = step_of(reach, span)
        assert step.bucket_seconds == step.step_seconds
        assert step.bucket_seconds in {grain.seconds for grain in GRAINS}
        assert 10 <= span // step.bucket_seconds + 1 <= 800


def test_steps_grow_with_the_span() -> None:
    for reach in Reach:
        buckets = [step_of(reach, span).bucket_seconds for span in SPANS]
        assert buckets == sorted(buckets)


def test_rollups_are_read_from_a_bucket_to_a_whole_minute() -> None:
    panel = next(p for p in PANELS if p.name == "service_latency")
    _, values = panel_query(panel, NOW - timedelta(days=7), NOW, service="checkout")
    assert values["start"] % HOUR == 0
    assert values["end"] % 60 == 0
    assert NOW.timestamp() <= values["end"] < NOW.timestamp() + 60
    assert values["service"] == "checkout"


def test_a_limited_panel_reads_the_end_of_a_long_span() -> None:
    limited = [panel for panel in PANELS if panel.span_seconds]
    assert {"slowest_requests", "freshness"} <= {panel.name for panel in limited}
    for panel in limited:
        _, values = panel_query(panel, NOW - timedelta(days=396), NOW)
        assert values["end"] - values["start"] <= panel.span_seconds + DAY  # type: ignore[operator]


def test_parameters_are_those_of_the_query_and_no_value_is_in_it() -> None:
    for panel in PANELS:
        sql, values = panel_query(panel, NOW - timedelta(hours=1), NOW, service="it's", endpoint="/x", tier="t")
        assert "it's" not in sql
        assert not TOKEN.search(sql)
        assert all(f"{{{name}:" in sql for name in values)


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="servce"):
        panel_query(PANELS[0], NOW - timedelta(hours=1), NOW, servce="checkout")


def test_raw_events_are_read_with_a_limit() -> None:
    for panel in PANELS:
        if "FROM raw_events" in panel.query:
            assert panel.span_seconds == 900
            assert "service = @service" in panel.query
            assert panel.kind is Kind.TIMESERIES or "LIMIT" in panel.query


def test_each_dashboard_says_what_it_is_for() -> None:
    for dashboard in DASHBOARDS:
        assert dashboard.description
        assert all(panel.title for panel in dashboard.panels)
        for panel in dashboard.panels:
            assert "latency_ms" not in panel.query or panel.description
