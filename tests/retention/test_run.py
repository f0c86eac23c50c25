"""Retention of 14 months on real engines: it keeps exactly what the policy says, and no answer changes."""

import random
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.questions.completeness import incomplete_minutes
from metrics_pipeline.questions.latency import ask
from metrics_pipeline.questions.question import Question
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.retention.policy import Policy
from metrics_pipeline.retention.report import Report
from metrics_pipeline.retention.run import RetentionStep
from metrics_pipeline.rollups.grains import GRAINS
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.rollups.views import ROLLUP_VIEWS
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.backfill import backfill_deferred
from metrics_pipeline.wiring.dead_letters import replay_dead_letters
from metrics_pipeline.wiring.replay import preview_hours
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.events import encode
from tests.worlds.pipeline import CrashError, crash_at, drain_once, send
from tests.worlds.retention import (
    DAY,
    SERVICES,
    TIERS,
    TODAY,
    UNITS,
    Event,
    Impatient,
    assert_answers,
    build,
    events_of,
    held_days,
    land,
    midnight,
    partition_end,
    retain,
)

POLICY = Policy.model_validate(
    {
        "raw": {"days": 30, "services": {"checkout": 90, "reports": 10}, "tiers": {"enterprise": 60}},
        "rollups": {"1m": 40, "10m": 100, "1h": 200, "1d": 500, "7d": 500},
    }
)
CUTOFFS = (10, 30, 40, 60, 90, 100, 200)
MONTHS = sorted({d for b in CUTOFFS for d in range(b - 1, b + 3)} | set(range(1, 425, 25)) | {424, 425})
SHORT = Policy.model_validate(
    {
        "raw": {"days": 5, "services": {"checkout": 9}},
        "rollups": {"1m": 7, "10m": 14, "1h": 60, "1d": 500, "7d": 500},
        "dead_letters": {"days": 20},
        "ledger": {"days": 40},
    }
)
DAYS = (1, 4, 5, 6, 8, 9, 10, 15, 23, 24, 25, 61, 90, 100)
WEEK = 7 * DAY
PER_DAY = 6 * len(UNITS)


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as made:
        yield made


def load(settings: Settings, days: Sequence[int], patch: pytest.MonkeyPatch) -> list[Event]:
    events = events_of(days, random.Random(1))
    land(settings, events)
    build(settings, days, patch)
    return events


def late(day: int, seconds: int, number: int) -> Event:
    return Event(day, seconds, "search", "free", 777.0, str(uuid.UUID(int=number, version=4)))


def kept_raw_days(policy: Policy, service: str, tier: str) -> int:
    return max(policy.raw.services.get(service, 0), policy.raw.tiers.get(tier, 0)) or policy.raw.days


def assert_kept(client: Client, policy: Policy, events: Sequence[Event]) -> None:
    """Exactly what the policy says, counted here by itself."""
    for service in SERVICES:
        for tier in TIERS:
            found = held_days(client, "raw_events", f"service = '{service}' AND tier = '{tier}'")
            days = kept_raw_days(policy, service, tier)
            assert found == Counter(
                e.day for e in events if (e.service, e.tier) == (service, tier) and e.day - 1 < days
            ), (service, tier)
    for cube in ("rollup", "rollup_regions", "rollup_services", "rollup_totals"):
        for grain in GRAINS[:-1]:
            table = f"{cube}_{grain.name}"
            # Of builds that were replaced a query may still read the rows.
            newest = f"(minute, build) IN (SELECT minute, max(build) FROM {table} GROUP BY minute)"
            limit = policy.rollups[grain.name]
            wanted = Counter(e.day for e in events if partition_end(e.day, grain.partition_days) < limit)
            assert held_days(client, table, newest) == wanted, table


def assert_sound(settings: Settings, days: int) -> None:
    """The audit finds nothing, nor does a drift check that would repair, and nothing is left to build."""
    assert audit(settings).problems == ()
    with open_rollups(settings, Impatient()) as rollups:
        checked = rollups.check(Span(TODAY - days * DAY, TODAY), repair=True)
        rebuilt = rollups.rebuild(Span(TODAY - days * DAY, TODAY))
    assert checked.drifts == ()
    assert checked.units > 0
    assert rebuilt.published == rebuilt.in_flux == 0


def test_14_months_are_kept_as_the_policy_says_and_answers_stay(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load(settings, MONTHS, monkeypatch)
    assert_answers(client, events, MONTHS)
    dry = retain(settings, client, POLICY, dry_run=True)
    assert sum(held_days(client, "raw_events").values()) == len(events)
    assert read_retained_from(client).until == {}
    done = retain(settings, client, POLICY)
    assert done.refused == []
    assert [(d.action, d.table, d.partition, d.rows) for d in dry.done] == [
        (d.action, d.table, d.partition, d.rows) for d in done.done
    ]
    assert done.bytes_freed > 0
    assert_kept(client, POLICY, events)
    assert_answers(client, events, MONTHS)
    assert_sound(settings, 426)
    again = retain(settings, client, POLICY)
    assert (again.done, again.refused, again.times_to_live) == ([], [], {})
    shorter = {"days": 30, "services": {"reports": 10}, "tiers": {"enterprise": 60}}
    other = Policy.model_validate({"raw": shorter, "rollups": POLICY.rollups})
    assert {d.action for d in retain(settings, client, other).done if d.table == "raw_events"} == {"drop", "delete"}
    assert_kept(client, other, events)


def test_a_run_that_ends_anywhere_is_resumed(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In between every answer is right, and so are the books."""
    events = load(settings, DAYS, monkeypatch)
    retained_from, drop, delete = RetentionStep.RETAINED_FROM, RetentionStep.DROP, RetentionStep.DELETE
    for step, occurrence in (
        (retained_from, 1),
        (RetentionStep.VIEWS, 1),
        (drop, 1),
        (drop, 3),
        (drop, 9),
        (drop, 20),
        (delete, 1),
        (delete, 2),
    ):
        with pytest.raises(CrashError):
            retain(settings, client, SHORT, observe=crash_at(step, occurrence))
        assert_answers(client, events, DAYS)
        assert audit(settings).problems == ()
    assert retain(settings, client, SHORT).refused == []
    assert_kept(client, SHORT, events)
    assert_answers(client, events, DAYS)
    assert_sound(settings, 101)
    again = retain(settings, client, SHORT)
    assert (again.done, again.refused) == ([], [])


@pytest.mark.parametrize(
    "step", [RetentionStep.RETAINED_FROM, RetentionStep.VIEWS, RetentionStep.DROP, RetentionStep.DELETE]
)
def test_two_runs_at_once_do_what_one_does(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch, step: RetentionStep
) -> None:
    """The second one begins and ends right before that step of the first one."""
    days = (1, 6, 8, 23)
    events = load(settings, days, monkeypatch)
    others: list[Report] = []

    def observe(begun: RetentionStep) -> None:
        if begun is step and not others:
            others.append(retain(settings, client, SHORT))

    report = retain(settings, client, SHORT, observe=observe)
    assert [other.refused for other in others] == [[]]
    assert report.refused == []
    assert_kept(client, SHORT, events)
    assert_answers(client, events, days)
    assert_sound(settings, 30)


def test_an_upgrade_of_the_views_keeps_what_they_know_of_retained_from(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load(settings, (8, 23), monkeypatch)
    retain(settings, client, SHORT)

    def drop_views() -> None:
        for view in ROLLUP_VIEWS:
            client.command(f"DROP VIEW {view.name}")

    drop_views()
    planned = schema.plan(client, storage_of(load_settings()))
    assert len(planned.statements) == len(ROLLUP_VIEWS)
    for statement in planned.statements:
        client.command(statement)
    assert_answers(client, events, (8, 23))
    # Retention moved the retained_from between plan and apply.
    drop_views()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "rollup_views", lambda _cutoffs: ROLLUP_VIEWS)
        schema.apply(client, storage_of(load_settings()))
    assert_answers(client, events, (8, 23))
    assert schema.plan(client, storage_of(load_settings())).is_empty


def test_what_is_not_built_is_built_first_and_a_dry_run_says_so(settings: Settings, client: Client) -> None:
    events = events_of((8, 15, 90), random.Random(2))
    land(settings, events)
    dry = retain(settings, client, SHORT, dry_run=True)
    assert dry.done == []
    assert {r.table for r in dry.refused} == {"raw_events", "rollup_1m"}
    assert "metrics-pipeline rollups rebuild --stale --from " in dry.refused[0].advice
    assert read_retained_from(client).until == {}
    assert retain(settings, client, SHORT).refused == []
    assert_answers(client, events, (8, 15, 90))
    # Longer buckets that were built for it go by the next run, if their time is over, too.
    assert retain(settings, client, SHORT).refused == []
    assert_kept(client, SHORT, events)
    assert_answers(client, events, (8, 15, 90))


def test_a_day_that_the_books_do_not_count_stays_with_all_that_is_newer(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is repaired: from then on it goes."""
    load(settings, (8, 15, 16), monkeypatch)
    client.command(f"ALTER TABLE raw_events DELETE WHERE tier = 'free' AND toDate(timestamp) = toDate({TODAY}) - 15")
    report = retain(settings, client, SHORT)
    refused = {r.table: r for r in report.refused}
    assert "raw_events has 15 events of that day, but rollup_builds counts 30" in refused["raw_events"].reason
    assert set(held_days(client, "raw_events")) == {15, 8}
    assert set(held_days(client, "rollup_1m")) == {15, 8}
    assert refused["raw_events"].advice.startswith("metrics-pipeline rollups check --repair --from ")
    with open_rollups(settings, Impatient()) as rollups:
        rollups.check(Span(TODAY - 15 * DAY, TODAY - 14 * DAY), repair=True)
    assert retain(settings, client, SHORT).refused == []
    assert set(held_days(client, "rollup_1m")) == set()


def test_nothing_goes_that_an_event_may_still_come_to(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load(settings, (8, 15, 23), monkeypatch)
    report = retain(settings, client, SHORT, reach=20)
    assert {w.split(" for ")[0] for w in report.warnings} == {"the policy keeps raw_events", "the policy keeps 1m"}
    assert set(held_days(client, "raw_events")) == {8, 15}
    assert set(held_days(client, "rollup_1m")) == {8, 15}
    # The partition of a week that holds the oldest one has no live rows left.
    came = [late(15, 30, 1), late(8, 30, 2)]
    land(settings, [*came, *came], max_age_days=18)
    assert_answers(client, [*events, *came], (8, 15, 23))
    with open_rollups(settings, Impatient()) as rollups:
        rollups.rebuild(Span(TODAY - 30 * DAY, TODAY))
    assert_answers(client, [*events, *came], (8, 15, 23))
    assert_sound(settings, 30)


def test_no_drain_takes_events_that_may_be_of_dropped_days(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they were there once can't be told."""
    load(settings, (1, 8), monkeypatch)
    retain(settings, client, SHORT)
    with pytest.raises(ConfigurationError, match="set it to 7 or less"):
        land(settings, [late(1, 30, 1)], max_age_days=8)
    too_old = settings.model_copy(update={"events": settings.events.model_copy(update={"max_age_days": 8})})
    with pytest.raises(ConfigurationError, match="set it to 7 or less"):
        backfill_deferred(too_old, [], "run")
    with (
        open_rollups(settings, Impatient()) as rollups,
        pytest.raises(ConfigurationError, match="nothing before can be made again"),
    ):
        rollups.remake(Span(TODAY - 9 * DAY, TODAY))
    land(settings, [], max_age_days=7)
    assert held_days(client, "raw_events")[1] == PER_DAY + 1


def test_rows_that_somebody_else_inserts_change_no_answer_about_dropped_days(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load(settings, (1, 8, 23), monkeypatch)
    retain(settings, client, SHORT)
    client.command("INSERT INTO raw_events SELECT * REPLACE (timestamp - INTERVAL 22 DAY AS timestamp) FROM raw_events")
    client.command("INSERT INTO raw_events SELECT * REPLACE (timestamp - INTERVAL 7 DAY AS timestamp) FROM raw_events")
    for _ in range(2):
        assert_answers(client, events, (1, 8, 23))
        assert audit(settings).problems == ()
        with open_rollups(settings, Impatient()) as rollups:
            rollups.rebuild(Span(TODAY - 30 * DAY, TODAY))
    assert retain(settings, client, SHORT).refused == []
    assert held_days(client, "raw_events")[23] == 0


def test_replays_land_nothing_before_retained_from(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(settings, (1, 15), monkeypatch)
    too_old = late(15, 30, 1)
    send(settings, [too_old.message, encode({"event_id": "none"})])
    drain_once(settings)
    lenient = settings.model_copy(update={"events": settings.events.model_copy(update={"max_age_days": 100})})
    retain(settings, client, SHORT)
    report = replay_dead_letters(lenient, LetterFilter(), "run")
    assert (report.landed, report.kept["timestamp_too_old"]) == (0, 1)
    detail = client.query("SELECT replay_detail FROM dead_letters FINAL WHERE reason = 'timestamp_too_old'").result_rows
    assert "retention dropped events of that time" in detail[0][0]
    hour = TODAY - 5 * DAY
    with pytest.raises(ConfigurationError, match="can't be replayed: their events may be of times before"):
        preview_hours(settings, [hour], Mode.FILL)
    assert audit(settings).problems == ()


def test_questions_about_old_days_get_the_rows_that_are_left_or_are_told_what_is_missing(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = load(settings, (8, 23), monkeypatch)
    retain(settings, client, SHORT)

    def asked(day: int, start: int, end: int, *, step: int = 60) -> tuple[int, dict[str, int]]:
        at = midnight(day)
        span = TimeRange(at + timedelta(seconds=start), at + timedelta(seconds=end))
        found = {i.reason: i.minutes for i in incomplete_minutes(client, span)}
        return ask(client, Question(span, step_seconds=step)).requests, found

    assert asked(23, 0, DAY) == (30, {})
    assert asked(8, 0, 1_800) == (18, {})
    assert asked(23, 0, 3_600) == (18, {})
    assert asked(23, 0, 3_600, step=WEEK) == (18, {})
    assert asked(8, 60, 1_800) == (12, {"kept in buckets of 10m": 9})
    assert asked(23, 600, 7_200) == (6, {"kept in buckets of 1h": 50})
    assert asked(23, 600, 3_000) == (0, {"kept in buckets of 1h": 40})
    assert asked(1, 600, 3_000) == (0, {})
    span = TimeRange(midnight(30), midnight(0))
    raw = {i.reason: i.minutes for i in incomplete_minutes(client, span, of_raw=True)}
    assert raw == {"dropped by retention": 30 * 1_440 - 7 * 1_440}
    assert len(events) == 60


def test_days_that_no_rollup_keeps_are_gone_and_said_to_be(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy.model_validate({"rollups": {"1d": 450, "7d": 450}})
    old = next(day for day in range(1_000, 2_000) if partition_end(day, 448) >= 450)
    events = load(settings, (8, old), monkeypatch)
    done = retain(settings, client, policy)
    assert done.refused == []
    assert {d.table for d in done.done} >= {f"rollup_{grain.name}" for grain in GRAINS}
    span = TimeRange(midnight(old), midnight(0))
    assert ask(client, Question(span)).requests == PER_DAY
    (gone,) = [i for i in incomplete_minutes(client, span) if i.reason == "dropped by retention"]
    assert gone.last == datetime.fromtimestamp(TODAY - partition_end(old, 448) * DAY - 60, UTC)
    assert len(events) == 2 * PER_DAY
    assert retain(settings, client, policy).done == []
