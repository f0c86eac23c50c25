"""Replays of dead letters on real engines: what lands by today's rules lands once, whatever happens meanwhile."""

import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.dead_letters import judge as core
from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.dead_letters.replay import ReplayReport
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters
from metrics_pipeline.delivery.steps import ReplayStep, Step
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.errors import FencedError, StopError
from metrics_pipeline.event.contract import Reason
from metrics_pipeline.lab.chaos.proxy import Answer, Exchange, Proxy, error_answer
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import Settings, clickhouse_url, load_settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings, preview_dead_letters, replay_dead_letters
from metrics_pipeline.wiring.drain import DrainRun, prepare, run_drain, until_window_ends
from tests.worlds.events import encode, event
from tests.worlds.hours import command
from tests.worlds.pipeline import CrashError, crash_at, drain_once, send

HOUR_MS = 3_600_000
ALL = LetterFilter()
BAD = (b"{", b"[]", None, b"", b'{"service": "checkout"}', b"\xff\xfe", b"{} {}")
"""Dead by any rules, each for a reason of its own."""


def late_events(count: int, seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Events from ten days ahead, spread over two days: no events by the rules of before, events by those of today."""
    random_ = random.Random(seed)
    now_ms = time.time_ns() // 1_000_000
    return [
        event(random_, timestamp=now_ms + random_.randrange(4 * HOUR_MS, 52 * HOUR_MS), **changes) for _ in range(count)
    ]


def encoded(values: Sequence[dict[str, Any]]) -> list[bytes]:
    return [encode(value) for value in values]


def today(settings: Settings) -> Settings:
    """The rules have changed: clocks may be three days ahead."""
    return settings.model_copy(update={"events": settings.events.model_copy(update={"max_future_seconds": 3 * 86_400})})


def replay(
    settings: Settings, wanted: LetterFilter = ALL, observe: Callable[[ReplayStep], None] = lambda _step: None
) -> ReplayReport:
    return replay_dead_letters(today(settings), wanted, str(uuid.uuid4()), observe=observe)


def crash(step: ReplayStep, occurrence: int = 1) -> Callable[[ReplayStep], None]:
    return crash_at(step, occurrence)  # type: ignore[arg-type]


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with connect(settings) as client:
        return [tuple(row) for row in client.query(sql).result_rows]


def fingerprint(settings: Settings) -> list[tuple[Any, ...]]:
    """raw_events, rollup_1m, the books of rollups, marks and the replays' ledger rows, as hashes and sums."""
    return [
        *query(settings, "SELECT count(), sum(sipHash64(*)) FROM (SELECT * EXCEPT attributes FROM raw_events)"),
        *query(settings, "SELECT sum(requests), sum(errors), round(sum(latency_sum_ms), 6) FROM rollup_1m"),
        *query(settings, "SELECT sum(events) FROM rollup_builds"),
        *query(settings, "SELECT outcome, replay_reason, count() FROM dead_letters FINAL GROUP BY ALL ORDER BY ALL"),
        *query(settings, "SELECT sum(inserted) FROM batches FINAL WHERE source = 'dead_letters'"),
    ]


def outcomes(settings: Settings) -> dict[str, int]:
    return dict(query(settings, "SELECT outcome, count() FROM dead_letters FINAL GROUP BY outcome"))


def assert_landed(settings: Settings, events: int, replayed: int, dead: int) -> None:
    """So many events in all, so many of them replayed, of so many dead letters; the books are exact."""
    ((raw, distinct),) = query(settings, "SELECT count(), uniqExact(event_id) FROM raw_events")
    ((rollup,),) = query(settings, "SELECT sum(requests) FROM rollup_1m")
    assert (raw, distinct, rollup) == (events, events, events)
    verdict = audit(settings, deep=True)
    assert verdict.problems == ()
    assert verdict.books.minutes_in_flight == ()
    assert (verdict.books.ledger.replayed, verdict.books.ledger.counts.dead_letters) == (replayed, dead)
    assert verdict.books.ledger_events == verdict.books.raw_rows == events


@pytest.fixture
def letters(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """100 good events, 60 that are good by today's rules, 7 that never are; chunks of 25, in pages of 30."""
    monkeypatch.setattr(core, "MAX_CHUNK_LETTERS", 25)
    monkeypatch.setattr("metrics_pipeline.dead_letters.store.MAX_PAGE_LETTERS", 30)
    late = encoded(late_events(60))
    send(settings, [*encoded([event(random.Random(n)) for n in range(100)]), *late, *BAD])
    drain_once(settings)
    assert outcomes(settings) == {"": 67}
    return settings


def test_the_good_land_once_and_the_bad_stay_with_their_reasons(letters: Settings) -> None:
    shown = preview_dead_letters(today(letters), ALL)
    assert (shown.landed, shown.duplicates, sum(shown.kept.values())) == (60, 0, 7)
    assert_landed(letters, 100, 0, 67)
    report = replay(letters)
    assert (report.total, report.looked_at, report.landed, report.duplicates) == (67, 67, 60, 0)
    assert report.kept == shown.kept
    assert set(report.kept) == {
        *("truncated", "not_an_object", "tombstone", "empty", "missing_field", "invalid_utf8", "trailing_data")
    }
    assert outcomes(letters) == {"landed": 60, "kept": 7}
    assert_landed(letters, 160, 60, 67)
    before, versions = fingerprint(letters), query(letters, "SELECT count() FROM dead_letters")
    again = replay(letters)
    assert (again.landed, again.duplicates, again.kept) == (0, 0, report.kept)
    assert fingerprint(letters) == before
    assert query(letters, "SELECT count() FROM dead_letters") == versions, "a repeat writes no marks"
    send(letters, encoded([event(random.Random(1_000))]))
    drain_once(letters)
    assert_landed(letters, 161, 60, 67)


def test_a_dry_run_waits_out_what_passes(letters: Settings) -> None:
    """The first look at each table fails: the count, and what is stored."""
    tables = {"FROM dead_letters", "FROM raw_events"}
    failed: set[str] = set()

    def fail_first(exchange: Exchange) -> Answer | None:
        new = {table for table in tables - failed if table in exchange.request.statement}
        failed.update(new)
        return error_answer(202) if new else exchange.forward()

    proxy = Proxy(clickhouse_url(letters))
    clickhouse = letters.clickhouse.model_copy(update={"url": SecretStr(proxy.url)})
    try:
        with proxy.misbehaving(lambda _request: True, fail_first):
            shown = preview_dead_letters(today(letters.model_copy(update={"clickhouse": clickhouse})), ALL)
    finally:
        proxy.close()
    assert (shown.landed, sum(shown.kept.values())) == (60, 7)
    assert failed == tables


def test_without_new_rules_nothing_lands(letters: Settings) -> None:
    report = replay_dead_letters(letters, ALL, "run")
    assert report.landed == 0
    assert report.kept["timestamp_in_future"] == 60
    assert_landed(letters, 100, 0, 67)
    assert replay(letters).landed == 60
    assert_landed(letters, 160, 60, 67)


def test_a_replay_takes_what_its_filter_says(settings: Settings) -> None:
    late = [*late_events(20, seed=1, service="cart"), *late_events(30, seed=2, service="search")]
    send(settings, [*encoded(late), *BAD])
    drain_once(settings)
    assert replay(settings, LetterFilter(reasons=("tombstone",))).kept == {"tombstone": 1}
    assert replay(settings, LetterFilter(services=("cart",))).landed == 20
    past = LetterFilter(end_ms=time.time_ns() // 1_000_000 - HOUR_MS)
    assert replay(settings, past).total == 0
    recent = LetterFilter(("timestamp_in_future",), ("search", "cart"), time.time_ns() // 1_000_000 - HOUR_MS)
    report = replay(settings, recent)
    assert (report.total, report.landed, report.kept) == (30, 30, {})
    assert_landed(settings, 50, 50, 57)


_CRASHES = [
    *((step, 1) for step in ReplayStep if step not in {ReplayStep.RECOVER, ReplayStep.SEARCH}),
    (ReplayStep.LEDGER, 3),
    (ReplayStep.MARK, 2),
    (ReplayStep.CLOSE, 3),
]


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.parametrize("other_filter", [False, True])
@pytest.mark.parametrize(("step", "occurrence"), _CRASHES)
def test_a_replay_that_dies_at_any_step_is_finished_by_the_next_one(
    letters: Settings, step: ReplayStep, occurrence: int, other_filter: bool
) -> None:
    with pytest.raises(CrashError):
        replay(letters, observe=crash(step, occurrence))
    verdict = audit(letters)
    assert verdict.problems == (), "what is half done is in flight"
    if other_filter:
        # With the rules of before, too: the open chunk has its own.
        replay_dead_letters(letters, LetterFilter(services=("nobody",)), "other")
        assert audit(letters).books.minutes_in_flight == ()
    replay(letters)
    assert outcomes(letters) == {"landed": 60, "kept": 7}
    assert_landed(letters, 160, 60, 67)


def test_a_replay_whose_token_is_forgotten_inserts_only_what_is_missing(settings: Settings) -> None:
    short = settings.model_copy(
        update={"clickhouse": settings.clickhouse.model_copy(update={"deduplication_window_blocks": 100})}
    )
    send(settings, encoded(late_events(40)))
    drain_once(settings)
    with pytest.raises(CrashError):
        replay(short, observe=crash(ReplayStep.LEDGER))
    command(settings, "ALTER TABLE raw_events MODIFY SETTING non_replicated_deduplication_window = 1")
    days = range(70)
    now_ms = time.time_ns() // 1_000_000
    send(settings, encoded([event(random.Random(d), timestamp=now_ms - d * 24 * HOUR_MS) for d in days]))
    drain_once(settings.model_copy(update={"events": settings.events.model_copy(update={"max_age_days": len(days)})}))
    replay(short)
    assert outcomes(settings) == {"landed": 40}
    assert_landed(settings, 110, 40, 40)


def overtake_one_that_sleeps(settings: Settings) -> tuple[list[tuple[Any, ...]], ReplayReport]:
    """One replay has proved that it may write, and falls asleep before its first insert; another one does everything.

    Returns what there is before the first one wakes up, and what the other one did.
    """
    is_paused, may_go_on = threading.Event(), threading.Event()

    def pause(step: ReplayStep) -> None:
        if step == ReplayStep.EVENTS and not is_paused.is_set():
            is_paused.set()
            assert may_go_on.wait(120)

    with ThreadPoolExecutor(1) as pool:
        older = pool.submit(replay, settings, ALL, pause)
        assert is_paused.wait(60)
        newer = replay(settings)
        before = fingerprint(settings)
        may_go_on.set()
        with pytest.raises(FencedError):
            older.result(120)
    return before, newer


def test_an_older_replay_that_wakes_up_changes_nothing(letters: Settings) -> None:
    before, newer = overtake_one_that_sleeps(letters)
    assert (newer.recovered, newer.landed) == (25, 35)
    assert fingerprint(letters) == before
    assert_landed(letters, 160, 60, 67)


def test_without_its_token_it_would_double(letters: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = ClickHouseWarehouse.insert_events
    monkeypatch.setattr(
        ClickHouseWarehouse, "insert_events", lambda self, events, token: insert(self, events, str(uuid.uuid4()))
    )
    before, _ = overtake_one_that_sleeps(letters)
    assert fingerprint(letters) != before
    assert not audit(letters, deep=True).is_ok


@pytest.mark.parametrize("seed", [1, 2])
def test_replays_at_once_with_other_filters_double_nothing(letters: Settings, seed: int) -> None:
    """Started together, each with a filter of its own; the fenced ones are repeated until all have come through."""
    services = [f"service-{n}" for n in range(5)]
    random_ = random.Random(seed)
    filters = [ALL, LetterFilter(services=tuple(random_.sample(services, 3))), LetterFilter(services=("service-0",))]

    def until_done(wanted: LetterFilter) -> None:
        while True:
            with suppress(FencedError):
                replay(letters, wanted)
                return

    with ThreadPoolExecutor(len(filters)) as pool:
        list(pool.map(until_done, filters))
    assert outcomes(letters) == {"landed": 60, "kept": 7}
    assert_landed(letters, 160, 60, 67)


def test_an_event_that_came_otherwise_meanwhile_makes_a_duplicate(settings: Settings) -> None:
    late = late_events(30)
    send(settings, encoded([*late, *late[:5]]), partition=0)
    drain_once(settings)
    # The senders repeat some of them, and the drain knows the new rules by now.
    send(settings, encoded(late[:10]), partition=1)
    drain_once(today(settings))
    assert_landed(settings, 10, 0, 35)
    shown = preview_dead_letters(today(settings), ALL)
    report = replay(settings)
    assert (report.landed, report.duplicates) == (shown.landed, shown.duplicates) == (20, 15)
    assert outcomes(settings) == {"landed": 20, "duplicate": 15}
    assert_landed(settings, 30, 20, 35)


def test_copies_among_the_letters_land_once_across_chunks_and_replays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "MAX_CHUNK_LETTERS", 7)
    late = encoded(late_events(20))
    send(settings, late * 3)
    drain_once(settings)
    with pytest.raises(CrashError):
        replay(settings, observe=crash(ReplayStep.INTENT, 2))
    report = replay(settings)
    assert report.landed + report.duplicates == 60 - 7
    assert outcomes(settings) == {"landed": 20, "duplicate": 40}
    assert_landed(settings, 20, 20, 60)


@pytest.mark.parametrize("occurrence", [None, 1, 3])
def test_rows_that_the_server_refuses_stay_and_land_once_it_takes_them(
    letters: Settings, occurrence: int | None
) -> None:
    command(letters, "ALTER TABLE raw_events ADD CONSTRAINT no_services CHECK service != 'service-0'")
    ((refused,),) = query(
        letters, "SELECT count() FROM dead_letters WHERE service = 'service-0' AND reason = 'timestamp_in_future'"
    )
    assert 0 < refused < 30
    if occurrence is not None:
        with pytest.raises(CrashError):
            replay(letters, observe=crash(ReplayStep.SEARCH, occurrence))
    replay(letters)
    assert outcomes(letters) == {"landed": 60 - refused, "kept": 7 + refused}
    ((details,),) = query(
        letters,
        "SELECT uniqExact(replay_detail LIKE '%no_services%' OR replay_detail LIKE '%interrupted%') "
        f"FROM dead_letters FINAL WHERE replay_reason = '{Reason.REFUSED}'",
    )
    assert details == 1
    assert_landed(letters, 160 - refused, 60 - refused, 67)
    command(letters, "ALTER TABLE raw_events DROP CONSTRAINT no_services")
    report = replay(letters, LetterFilter(reasons=(Reason.REFUSED,)))
    assert report.landed == refused
    assert_landed(letters, 160, 60, 67)


def test_letters_that_have_landed_are_not_cut_by_a_constraint_that_comes_after_them(letters: Settings) -> None:
    """Their rows would land once more, as parts under tokens of their own."""
    with pytest.raises(CrashError):
        replay(letters, observe=crash(ReplayStep.LEDGER))
    before = fingerprint(letters)
    command(letters, "ALTER TABLE raw_events ADD CONSTRAINT no_services CHECK service != 'service-0'")
    for _ in range(2):
        with pytest.raises(StopError, match=r"in raw_events already \(25 of 25\).*drop it, the next run goes on"):
            replay(letters)
        assert fingerprint(letters) == before
    command(letters, "ALTER TABLE raw_events DROP CONSTRAINT no_services")
    replay(letters)
    assert outcomes(letters) == {"landed": 60, "kept": 7}
    assert_landed(letters, 160, 60, 67)


def test_letters_of_a_batch_on_its_way_wait_for_it(settings: Settings) -> None:
    send(settings, [*encoded(late_events(20)), *encoded([event(random.Random(1))])], partition=0)
    with pytest.raises(CrashError):
        drain_once(settings, crash_at(Step.LEDGER))
    report = replay(settings)
    assert (report.landed, report.waiting) == (0, 20)
    drain_once(settings)
    assert replay(settings).landed == 20
    assert_landed(settings, 21, 20, 20)


def test_an_event_that_comes_in_the_same_moment_is_told_of_and_found_by_a_deep_audit(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The one thing that no token prevents: a sender that repeats what is just being replayed."""
    late = encoded(late_events(3))
    send(settings, late)
    drain_once(settings)

    def repeat(step: ReplayStep) -> None:
        if step == ReplayStep.EVENTS:
            send(settings, late[:1])
            drain_once(today(settings))

    assert replay(settings, observe=repeat).landed == 3
    assert "1 events landed from other messages in the same moment and are stored twice" in caplog.text
    (problem,) = audit(settings, deep=True).problems
    assert "(1 more than once)" in problem


def test_beside_a_live_drain_the_books_stay_exact(settings: Settings) -> None:
    send(settings, encoded(late_events(3_000)))
    drain_once(settings)
    quick = settings.model_copy(update={"drain": settings.drain.model_copy(update={"flush_seconds": 0.05})})
    plan = LoadPlan(rate=2_000, events=12_000, duplicates=0.02, late=0.05, malformed=0.02, seed=5)
    with ThreadPoolExecutor(3) as pool:
        producing = pool.submit(produce, plan, settings)
        run = DrainRun(str(uuid.uuid4()))
        draining = pool.submit(run_drain, quick, run, until_window_ends(quick), stop=producing.done)
        replaying = pool.submit(replay, settings)
        while not draining.done():
            assert audit(settings).problems == ()
        summary = producing.result()
        draining.result()
        assert replaying.result().landed == 3_000
    drain_once(settings)
    assert_landed(settings, 3_000 + summary.unique_events, 3_000, 3_000 + summary.malformed)


def test_a_table_from_before_gets_the_columns_and_works(letters: Settings) -> None:
    command(
        letters,
        "ALTER TABLE dead_letters DROP COLUMN outcome, DROP COLUMN replayed_at, DROP COLUMN replay_reason, "
        "DROP COLUMN replay_detail",
        "ALTER TABLE batches DROP COLUMN source",
    )
    with connect(letters) as client:
        assert len(schema.plan(client, storage_of(load_settings())).statements) == 5
        prepare(letters)
        assert schema.plan(client, storage_of(load_settings())).is_empty
    assert audit(letters).problems == ()
    replay(letters)
    assert_landed(letters, 160, 60, 67)


def test_letters_are_counted_and_shown(letters: Settings) -> None:
    replay(letters, LetterFilter(services=("service-1",)))
    with connect(letters) as client:
        store = ClickHouseDeadLetters(client, letters.kafka.topic)
        groups = store.groups(ALL, 100)
        assert sum(g.letters for g in groups) == 67
        landed = [g for g in groups if g.landed]
        assert [(g.reason, g.service, g.never_replayed) for g in landed] == [("timestamp_in_future", "service-1", 0)]
        assert len(store.groups(ALL, 3)) == 3
        (tombstone,) = store.show(LetterFilter(reasons=("tombstone",)), 5)
        assert tombstone.payload == b""
        (same,) = store.show(ALL, 5, (tombstone.partition, tombstone.offset))
        assert same == tombstone
        (invalid,) = store.show(LetterFilter(reasons=("invalid_utf8",)), 5)
        assert invalid.payload == b"\xff\xfe"


def test_letters_that_are_dropped_soon_are_warned_of_until_they_are_replayed(letters: Settings) -> None:
    with connect(letters) as client:
        assert dead_letter_warnings(letters, client) == ()
        # As if they were six days old: the broker keeps messages for seven.
        client.command(
            "CREATE TABLE older AS dead_letters",
        )
        client.command(
            "INSERT INTO older SELECT * REPLACE (kafka_timestamp - INTERVAL 6 DAY AS kafka_timestamp) FROM dead_letters"
        )
        client.command("EXCHANGE TABLES older AND dead_letters")
        client.command("DROP TABLE older")
        (warning,) = dead_letter_warnings(letters, client)
        assert warning.startswith("Kafka drops 67 dead letters that were never replayed, the first one at 20")
        client.command("ALTER TABLE dead_letters MODIFY TTL toDateTime(kafka_timestamp) + INTERVAL 7 DAY")
        assert [w.split(" drops")[0] for w in dead_letter_warnings(letters, client)] == ["Kafka", "the table"]
        replay(letters)
        assert dead_letter_warnings(letters, client) == ()
