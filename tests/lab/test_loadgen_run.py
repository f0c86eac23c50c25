"""Plans, pace and the sent file."""

import itertools
import json
from pathlib import Path
from random import Random

import polars as pl
import pytest

from metrics_pipeline.errors import ConfigurationError, StopError
from metrics_pipeline.lab.loadgen.plan import TICK_SECONDS, LoadPlan, Pacer
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA, open_sent, read_sent

ROW = {
    "event_id": "0191d3a5-28c0-7b77-9a41-2f5f8d0c7e13",
    "timestamp": 1_793_700_930_123,
    "service": "checkout",
    "endpoint": "/cart/:id/pay",
    "tier": "enterprise",
    "status": 200,
    "latency_ms": 12.345,
    "copies": 2,
}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"events": 1, "duration_seconds": 1.0}, "not both"),
        ({"events": -1}, "events is -1"),
        ({"duration_seconds": 0.0}, "duration is 0.0"),
        ({"duration_seconds": float("nan")}, "duration is nan"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"rate": float("inf")}, "rate is inf"),
        ({"late": -0.1}, "late is -0.1"),
        ({"malformed": float("nan")}, "malformed is nan"),
        ({"duplicates": 0.5, "malformed": 0.5}, "add up to"),
    ],
)
def test_a_wrong_plan_is_named(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        LoadPlan(**wrong)  # type: ignore[arg-type]


def paced(plan: LoadPlan, ticks: list[float]) -> list[int]:
    pacer = Pacer(plan)
    return [pacer.due(seconds) for seconds in ticks]


def even_ticks(seconds: float) -> list[float]:
    return [TICK_SECONDS * n for n in range(1, round(seconds / TICK_SECONDS) + 1)]


@pytest.mark.parametrize("rate", [0.5, 3.0, 1_000.0, 40_000.0])
def test_the_rate_is_held_evenly(rate: float) -> None:
    sent = paced(LoadPlan(rate=rate), even_ticks(20))
    assert sum(sent) == pytest.approx(20 * rate, abs=1)
    assert max(sent) <= rate * TICK_SECONDS + 1


@pytest.mark.parametrize("rate", [3.0, 40_000.0])
def test_ticks_that_jitter_lose_nothing(rate: float) -> None:
    rng = Random(5)
    ticks = list(itertools.accumulate(rng.uniform(0.5, 1.4) * TICK_SECONDS for _ in range(2_000)))
    assert sum(paced(LoadPlan(rate=rate), ticks)) == pytest.approx(rate * ticks[-1], abs=1)


def test_after_a_stall_it_catches_up_at_no_more_than_twice_the_rate() -> None:
    rate, stall_seconds = 10_000.0, 7.0
    ticks = [*even_ticks(1), *(1 + stall_seconds + t for t in even_ticks(10))]
    sent = paced(LoadPlan(rate=rate), ticks)
    per_second = round(1 / TICK_SECONDS)
    after = sent[per_second:]
    assert max(sum(after[i : i + per_second]) for i in range(len(after))) <= 2 * rate * 1.05
    assert sum(sent) == pytest.approx(rate * ticks[-1], abs=1)
    assert after[-1] == pytest.approx(rate * TICK_SECONDS, abs=1)


def test_a_number_of_events_is_met_exactly() -> None:
    plan = LoadPlan(rate=1_000, events=1_234)
    pacer = Pacer(plan)
    seconds = 0.0
    total = 0
    while not pacer.is_over(seconds):
        seconds += TICK_SECONDS
        total += pacer.due(seconds)
    assert total == 1_234
    assert seconds == pytest.approx(1.25, abs=2 * TICK_SECONDS)


def test_a_duration_is_met_exactly() -> None:
    plan = LoadPlan(rate=1_000, duration_seconds=1.5)
    pacer = Pacer(plan)
    ticks = [TICK_SECONDS * 1.3 * n for n in range(1, 40)]
    sent = [pacer.due(seconds) for seconds in ticks]
    assert sum(sent) == 1_500
    assert not pacer.is_over(1.49)
    assert pacer.is_over(1.5)


def test_without_a_rate_there_is_no_waiting() -> None:
    pacer = Pacer(LoadPlan(rate=0, events=10_000))
    assert pacer.wait_seconds(0.01) == 0
    assert pacer.due(0.0) > 1_000
    assert Pacer(LoadPlan(rate=10)).wait_seconds(0.01) == pytest.approx(TICK_SECONDS - 0.01)


@pytest.mark.parametrize("name", ["sent.ndjson", "sent.parquet", "new/folder/sent.ndjson"])
def test_what_is_written_can_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = pl.DataFrame([ROW, ROW | {"event_id": "b", "endpoint": '/"ü'}]).with_columns(kind=pl.lit("late"))
    for _ in range(2):  # over an old one
        file = open_sent(path)
        file.write(rows)
        file.write(rows.head(1))
        file.close({"messages": 3})
    events, summary = read_sent(path)
    assert summary == {"messages": 3}
    assert events.schema == SENT_SCHEMA
    assert events.rows(named=True) == [*rows.drop("kind").rows(named=True), ROW]
    assert not list(tmp_path.rglob("*.parts"))


@pytest.mark.parametrize("name", ["sent.ndjson", "sent.parquet"])
def test_nothing_sent_is_a_file_too(tmp_path: Path, name: str) -> None:
    open_sent(tmp_path / name).close({"messages": 0})
    events, summary = read_sent(tmp_path / name)
    assert (len(events), events.schema, summary) == (0, SENT_SCHEMA, {"messages": 0})


def test_ndjson_is_one_object_a_line_and_the_summary_last(tmp_path: Path) -> None:
    file = open_sent(tmp_path / "sent.ndjson")
    file.write(pl.DataFrame([ROW]))
    file.close({"messages": 2})
    lines = (tmp_path / "sent.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [ROW, {"summary": {"messages": 2}}]


@pytest.mark.parametrize("name", ["sent.ndjson", "sent.parquet"])
def test_a_file_without_an_end_is_named(tmp_path: Path, name: str) -> None:
    open_sent(tmp_path / name).write(pl.DataFrame([ROW]))
    with pytest.raises(StopError, match="incomplete"):
        read_sent(tmp_path / name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't write"):
        open_sent(tmp_path / "file" / "sent.ndjson")


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = open_sent(None)
    file.write(pl.DataFrame([ROW]))
    file.close({})
    assert list(tmp_path.iterdir()) == []
