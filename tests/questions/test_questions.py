"""Answers against an independent calculation on the events that were produced."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as checking
from hypothesis import strategies as st

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.questions.latency import Answer, ask, history
from metrics_pipeline.questions.names import busiest, unknown_names
from metrics_pipeline.questions.question import RAW, Names, Question
from metrics_pipeline.questions.sparkline import columns_of
from metrics_pipeline.questions.top import SMOOTHING_ERRORS, Ranking, TopRow, top
from metrics_pipeline.rollups.cubes import CUBES
from metrics_pipeline.rollups.grains import BUILT, GRAINS
from metrics_pipeline.runtime.timerange import TimeRange, compared_range, later, named_range
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import prepare
from tests.worlds.questions import (
    BERLIN,
    CHANGES,
    DAYS_AROUND,
    ENDPOINTS,
    METHODS,
    REGIONS,
    SERVICES,
    TIERS,
    World,
    assert_quantile,
    build_world,
)

SEED = 20_241_027
AUTUMN = CHANGES[1]
WHOLE = TimeRange(AUTUMN - timedelta(days=DAYS_AROUND + 1), AUTUMN + timedelta(days=DAYS_AROUND + 1))


@pytest.fixture(scope="module")
def world(kafka: KafkaServer, clickhouse: ClickHouseServer) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        name = "questions"
        patch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", kafka.address)
        patch.setenv("METRICS_KAFKA__TOPIC", name)
        patch.setenv("METRICS_KAFKA__GROUP", name)
        patch.setenv("METRICS_EVENTS__MAX_AGE_DAYS", "10000")
        patch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url)
        with connect(load_settings()) as client:
            client.command(f"CREATE DATABASE {name}")
        patch.setenv("METRICS_CLICKHOUSE__URL", clickhouse.url.removesuffix("default") + name)
        settings = load_settings()
    prepare(settings)
    yield from build_world(settings, SEED)


def assert_right(answer: Answer, events: pl.DataFrame) -> None:
    requests = events.height
    assert answer.requests == requests
    status = events["status"]
    for upper, count in zip(range(1, 6), answer.statuses.values(), strict=True):
        assert count == int((status // 100 == upper).sum())
    assert answer.errors == int((status >= 500).sum())
    if not requests:
        figures = (answer.p50_ms, answer.p999_ms, answer.min_ms, answer.avg_ms, answer.max_ms, answer.apdex)
        assert figures == (None,) * 6
        assert answer.error_rate is None
        return
    latencies = events["latency_ms"].sort()
    ordered = latencies.to_list()
    assert (answer.min_ms, answer.max_ms) == (ordered[0], ordered[-1])
    assert answer.avg_ms == pytest.approx(sum(ordered) / requests, rel=1e-9)
    answered = events.filter(pl.col("status") < 500)["latency_ms"]
    satisfied, tolerated = int((answered <= 500).sum()), int((answered <= 2_000).sum())
    assert answer.apdex == pytest.approx((satisfied + (tolerated - satisfied) / 2) / requests, rel=1e-9)
    for level, found in (
        (0.5, answer.p50_ms),
        (0.9, answer.p90_ms),
        (0.95, answer.p95_ms),
        (0.99, answer.p99_ms),
        (0.999, answer.p999_ms),
    ):
        assert_quantile(found, level, ordered, answer.relative_error)


def _minutes_from_start_of_bucket(draw: st.DrawFn) -> datetime:
    """A moment around a change of clocks: at a start of some bucket, near one, or anywhere."""
    change = draw(st.sampled_from(CHANGES))
    seconds = int(change.timestamp()) + draw(st.integers(-DAYS_AROUND * 1_440, DAYS_AROUND * 1_440)) * 60
    grain = draw(st.sampled_from((*GRAINS, GRAINS[0])))
    moved = grain.floor(seconds) + draw(st.sampled_from((0, 0, 0, -60, 60, 1, 30)))
    return datetime.fromtimestamp(moved, BERLIN)


@st.composite
def spans(draw: st.DrawFn) -> TimeRange:
    start = _minutes_from_start_of_bucket(draw)
    long = st.integers(6 * 3_600, 2 * DAYS_AROUND * 86_400)
    length = draw(st.one_of(st.sampled_from([g.seconds for g in GRAINS]), st.integers(1, 7_200), long, long, long))
    return TimeRange(start, later(start, timedelta(seconds=length)))


KNOWN = {"service": SERVICES, "endpoint": ENDPOINTS, "tier": TIERS, "region": REGIONS, "method": METHODS[:2]}
ASKED = (
    *("", "service", "tier", "region tier", "service region", "service tier", "endpoint", "service endpoint"),
    *("service endpoint tier", "endpoint method", "tier method", "service endpoint method tier"),
    *("service endpoint region", "method region", "service endpoint method tier region"),
)


@st.composite
def some_names(draw: st.DrawFn) -> Names:
    asked = draw(st.sampled_from(ASKED)).split()
    return Names(**{dimension: draw(st.sampled_from(KNOWN[dimension])) for dimension in asked})


NAMES = st.one_of(some_names(), some_names(), some_names(), st.just(Names(service="nobody")))


def seeded(examples: int) -> checking:
    return checking(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.too_slow],
    )


def test_the_world_has_buckets_that_are_built_stale_and_not_built(world: World) -> None:
    sql = """SELECT grain, countIf(is_built AND NOT is_stale), countIf(is_built AND is_stale), countIf(NOT is_built)
        FROM (
            SELECT grain, max(built).1 > 0 AS is_built, max(built).2 < sum(events) AS is_stale
            FROM rollup_builds GROUP BY grain, minute)
        GROUP BY grain"""
    found = {grain: counts for grain, *counts in world.client.query(sql).result_rows}
    for grain in BUILT[:-1]:
        assert min(found[grain.seconds]) > 0, f"{grain.name}: built, stale, not built: {found[grain.seconds]}"
    assert sum(found[BUILT[-1].seconds][:2]) > 0


def test_answers_equal_an_independent_calculation_at_every_grain(world: World) -> None:
    sources, requests = set(), []

    everything = TimeRange(CHANGES[0] - timedelta(days=DAYS_AROUND), CHANGES[0] + timedelta(days=DAYS_AROUND))

    @seeded(150)
    @given(spans(), NAMES)
    @example(everything, Names())
    @example(everything, Names(service=SERVICES[0]))
    @example(everything, Names(service=SERVICES[0], region=REGIONS[0]))
    @example(everything, Names(service=SERVICES[0], endpoint=ENDPOINTS[0]))
    @example(everything, Names(endpoint=ENDPOINTS[0], region=REGIONS[0]))
    def check(span: TimeRange, names: Names) -> None:
        expected = world.of(Question(span, names))
        requests.append(expected.height)
        steps = GRAINS if names.cube else GRAINS[-1:]
        for grain in steps:
            answer = ask(world.client, Question(span, names, grain.seconds))
            assert answer.span == Question(span).minutes
            assert_right(answer, expected)
            sources.add(answer.source)

    check()
    assert sources == {RAW, *(cube.name for cube in CUBES)}
    assert sum(count > 20 for count in requests) >= 10, "questions about nothing prove nothing"


def test_exact_answers_are_exact_over_the_same_minutes(world: World) -> None:
    @seeded(60)
    @given(spans(), NAMES)
    def check(span: TimeRange, names: Names) -> None:
        answer = ask(world.client, Question(span, names), exact=True)
        assert (answer.source, answer.relative_error) == (RAW, 0)
        assert_right(answer, world.of(Question(span, names)))

    check()


def test_the_course_of_an_exact_answer_is_exact_too(world: World) -> None:
    question = Question(TimeRange(AUTUMN, AUTUMN + timedelta(days=1)))
    columns = columns_of(question.minutes)
    for point, start, end in zip(
        history(world.client, question, columns, exact=True),
        columns.starts,
        (*columns.starts[1:], question.minutes.end),
        strict=True,
    ):
        latencies = world.of(Question(TimeRange(start, end)))["latency_ms"].sort().to_list()
        assert point.requests == len(latencies)
        if latencies:
            assert_quantile(point.p99_ms, 0.99, latencies, 0)


@pytest.mark.parametrize("names", [Names(), Names(service="checkout", tier="free"), Names(endpoint="/a")])
@pytest.mark.parametrize(("day", "hours"), [("2024-03-30", 24), ("2024-03-31", 23), ("2024-10-27", 25)])
def test_days_have_23_24_or_25_hours(world: World, day: str, hours: int, names: Names) -> None:
    span = named_range(day, datetime(2024, 11, 20, 12, tzinfo=BERLIN))
    assert span.seconds == hours * 3_600
    for grain in GRAINS:
        question = Question(span, names, grain.seconds)
        answer = ask(world.client, question)
        assert answer.requests > 0
        assert_right(answer, world.of(question))
    before = compared_range("the day before", span, span.end)
    assert_right(ask(world.client, Question(before, names)), world.of(Question(before, names)))


def test_a_range_without_events_has_no_figures(world: World) -> None:
    empty = TimeRange(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
    for grain in GRAINS:
        answer = ask(world.client, Question(empty, step_seconds=grain.seconds))
        assert_right(answer, world.events.clear())
    assert all(point.p99_ms is None for point in history(world.client, Question(empty), columns_of(empty)))


def test_the_history_of_a_span_is_the_answers_of_its_columns(world: World) -> None:
    @seeded(50)
    @given(spans(), NAMES)
    def check(span: TimeRange, names: Names) -> None:
        question = Question(span, names)
        columns = columns_of(question.minutes)
        points = history(world.client, question, columns)
        assert [point.start for point in points] == list(columns.starts)
        ends = (*columns.starts[1:], question.minutes.end)
        for point, end in zip(points, ends, strict=True):
            events = world.of(replace(question, span=TimeRange(point.start, end)))
            assert (point.requests, point.errors) == (events.height, int((events["status"] >= 500).sum()))
            if events.height:
                error = 0.01 if names.cube else 0
                assert_quantile(point.p99_ms, 0.99, events["latency_ms"].sort().to_list(), error)

    check()


def figures_by_endpoint(world: World, question: Question) -> dict[tuple[str, ...], tuple[int, int, list[float]]]:
    groups = (
        world.of(question)
        .group_by("service", "endpoint", "method")
        .agg(pl.len(), (pl.col("status") >= 500).sum().alias("errors"), pl.col("latency_ms").sort())
    )
    return {row[:3]: row[3:] for row in groups.iter_rows()}


def by_endpoint(rows: tuple[TopRow, ...]) -> dict[tuple[str, ...], TopRow]:
    return {(row.service, row.endpoint, row.method): row for row in rows}


def test_the_slowest_and_those_with_most_errors(world: World) -> None:
    question = Question(WHOLE, Names(tier="free"))
    expected = figures_by_endpoint(world, question)
    minimum = sorted(requests for requests, _, _ in expected.values())[10]
    rows = top(world.client, question, Ranking.SLOWEST, limit=100, min_requests=minimum)
    found = by_endpoint(rows)
    assert set(found) == {key for key, (requests, _, _) in expected.items() if requests >= minimum}
    for key, row in found.items():
        requests, errors, latencies = expected[key]
        assert (row.now.requests, row.now.errors) == (requests, errors)
        assert_quantile(row.now.p50_ms, 0.5, latencies, 0.01)
        assert_quantile(row.now.p99_ms, 0.99, latencies, 0.01)
    p99s = [row.now.p99_ms for row in rows]
    assert p99s == sorted(p99s, reverse=True)
    worst = top(world.client, question, Ranking.ERRORS, limit=3, min_requests=1)
    most = sorted((errors for _, errors, _ in expected.values()), reverse=True)[:3]
    assert [row.now.errors for row in worst] == most


def test_regressions_compare_both_spans(world: World) -> None:
    span = TimeRange(AUTUMN, AUTUMN + timedelta(days=3))
    before = TimeRange(AUTUMN - timedelta(days=4), AUTUMN)
    question = Question(span)
    rows = top(world.client, question, Ranking.REGRESSIONS, before=before, limit=1_000, min_requests=30)
    now, past = figures_by_endpoint(world, question), figures_by_endpoint(world, Question(before))
    enough = {key for key in now.keys() & past.keys() if min(now[key][0], past[key][0]) >= 30}
    smoothed = {
        key: [(figures[key][1] + SMOOTHING_ERRORS) / figures[key][0] for figures in (now, past)] for key in enough
    }
    fail_more = {key for key, (rate, rate_before) in smoothed.items() if rate > rate_before}
    assert fail_more
    assert fail_more <= set(by_endpoint(rows)) <= enough
    for key, row in by_endpoint(rows).items():
        assert row.before is not None
        assert (row.now.requests, row.now.errors) == now[key][:2]
        assert (row.before.requests, row.before.errors) == past[key][:2]
        assert row.p99_ratio == pytest.approx(row.now.p99_ms / row.before.p99_ms)
        assert row.error_rate_ratio == pytest.approx(smoothed[key][0] / smoothed[key][1])
    worst = [max(row.p99_ratio or 0, row.error_rate_ratio or 0) for row in rows]
    assert worst == sorted(worst, reverse=True)
    assert min(worst) > 1


@pytest.mark.parametrize("names", [Names(), Names(tier="pro"), Names(service="search"), Names("search", tier="pro")])
def test_the_busiest_name(world: World, names: Names) -> None:
    dimension = "endpoint" if names.service else "service"
    counted = world.of(Question(WHOLE, names)).group_by(dimension).len()
    most = counted.filter(pl.col("len") == pl.col("len").max())[dimension]
    assert busiest(world.client, dimension, Question(WHOLE, names)) in set(most)
    assert busiest(world.client, dimension, Question(WHOLE, replace(names, tier="nobody"))) is None


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (Names(service="chekcout"), "there is no service 'chekcout': did you mean checkout?"),
        (Names(service="CHECKOUT"), "did you mean checkout?"),
        (Names(tier="entreprise"), "did you mean enterprise?"),
        (Names(region="moon"), "there is no region 'moon': there are eu, us …"),
        (Names("search", "/c/id"), "there is no endpoint '/c/id' of search: did you mean /c/:id?"),
        (Names(method="PSOT"), "did you mean POST?"),
    ],
)
def test_names_that_there_are_not_come_with_those_that_may_be_meant(world: World, names: Names, said: str) -> None:
    (unknown,) = unknown_names(world.client, names, WHOLE, datetime.now(UTC))
    assert said in str(unknown)


def test_known_names_and_a_span_without_events_are_no_mistake(world: World) -> None:
    names = Names("search", "/a", "pro", "eu", "GET")
    assert unknown_names(world.client, names, WHOLE, datetime.now(UTC)) == ()
    empty = TimeRange(datetime(2024, 7, 1, tzinfo=UTC), datetime(2024, 7, 2, tzinfo=UTC))
    assert unknown_names(world.client, Names("nobody"), empty, datetime(2024, 7, 3, tzinfo=UTC)) == ()
