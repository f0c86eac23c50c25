"""A host whose wall clock is hours ahead: what its runs write down is dated by the server all the same."""

import time

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.dead_letters import replay_dead_letters
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_caught_up
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.hours import past_events, replay
from tests.worlds.pipeline import send

HOURS_AHEAD = 6


class Ahead(SystemClock):
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + HOURS_AHEAD * 3_600_000


@pytest.fixture(autouse=True)
def _host_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "now_ms", Ahead.now_ms)


def test_what_is_written_is_dated_by_the_server(settings: Settings) -> None:
    send(settings, [*past_events(20), b"{"])
    run_drain(settings, DrainRun("drain"), until_caught_up, stop=lambda: False, clock=Ahead())
    with connect(settings) as client:
        # Gone behind the pipeline's back: the replay restores them, and has an account to write.
        client.command("DELETE FROM raw_events WHERE kafka_offset % 2 = 0 SETTINGS lightweight_deletes_sync = 2")
    assert replay(settings).restored > 0
    assert replay_dead_letters(settings, LetterFilter(), "letters").kept
    for table, column in (
        ("batches", "started_at"),
        ("batches", "visible_at"),
        ("replay_plan", "opened_at"),
        ("dead_letters", "replayed_at"),
    ):
        sql = f"""SELECT count(), max(abs(dateDiff('second', {column}, now()))) FROM {table}
            WHERE {column} > '2000-01-01'"""
        with connect(settings) as client:
            dated = client.query(sql)
        rows, seconds = dated.first_row
        assert rows > 0, table
        assert seconds < HOURS_AHEAD * 1_800, (table, column)


@pytest.mark.usefixtures("settings")
def test_no_unit_is_closed_before_the_server_says_so(settings: Settings) -> None:
    with open_rollups(settings) as rollups:
        assert rollups.closed_until() <= time.time()
