"""What a chaos run expects to find, and what it puts down to which fault."""

from collections import Counter

import polars as pl

from metrics_pipeline.lab.chaos.compare import expected_events
from metrics_pipeline.lab.chaos.faults.kafka import cleaned_until
from metrics_pipeline.lab.chaos.journal import Injected, Result
from metrics_pipeline.lab.chaos.load import Eaten, Sent
from metrics_pipeline.lab.chaos.plan import Injection
from metrics_pipeline.lab.chaos.report import AFTERMATH_SECONDS, Sight, put_down
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA


def sent(**copies: int) -> Sent:
    rows = {
        "event_id": list(copies),
        "timestamp": [0] * len(copies),
        "service": ["s"] * len(copies),
        "endpoint": ["e"] * len(copies),
        "tier": ["t"] * len(copies),
        "status": [200] * len(copies),
        "latency_ms": [1.0] * len(copies),
        "copies": list(copies.values()),
    }
    return Sent(pl.DataFrame(rows, schema=SENT_SCHEMA), 0)


def test_an_event_is_expected_once_however_often_and_by_whomever_it_was_sent() -> None:
    expected = expected_events([sent(a=1, b=3), sent(b=2, c=1)], Eaten())
    assert sorted(expected["event_id"]) == ["a", "b", "c"]


def test_an_event_is_gone_only_if_retention_ate_every_copy() -> None:
    eaten = Eaten(events=Counter(a=1, b=2, c=3))
    expected = expected_events([sent(a=1, b=3, d=1), sent(c=2), sent(c=1)], eaten)
    assert sorted(expected["event_id"]) == ["b", "d"]


def test_the_brokers_note_says_up_to_where_a_partition_is_compacted() -> None:
    note = "0\n2\nchaos-1-ab 3 120\nchaos-1 3 77\n"
    assert cleaned_until(note, "chaos-1", 3) == 77
    assert cleaned_until(note, "chaos-1", 4) == -1
    assert cleaned_until("", "chaos-1", 3) == -1


def injected(kind: str, began: float, ended: float, result: Result = Result.INJECTED) -> Injected:
    return Injected(Injection(1, 0, kind, 0), began, ended, result, "")


def test_a_sight_is_put_down_to_the_only_kind_that_lasted() -> None:
    tried = [injected("a", 0, 10), injected("b", 5, 15), injected("a", 30, 31)]
    sights = [Sight(1, "x"), Sight(7, "x"), Sight(12, "x"), Sight(31 + AFTERMATH_SECONDS, "y"), Sight(90, "x")]
    assert put_down(sights, tried) == {"a": Counter(x=1, y=1), "b": Counter(x=1)}
