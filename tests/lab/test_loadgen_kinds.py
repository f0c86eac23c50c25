"""Malformed and odd messages are what they say they are, to the pipeline's own decoder."""

import json
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.event.contract import Reason
from metrics_pipeline.event.decode import Decoded, EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.lab.loadgen import malformed, odd
from metrics_pipeline.lab.loadgen.malformed import Payload, malform
from metrics_pipeline.lab.loadgen.traffic import traffic

NOW_MS = 1_793_700_930_123
LIMITS = EventLimits(max_age_ms=10_000 * 86_400_000, max_future_ms=864_000_000)
"""The widest that settings allow."""


def event(number: int = 0) -> tuple[str, dict[str, Any]]:
    row = traffic(3, number, NOW_MS, 1.0, 1).row(0, named=True)
    text = f'{{"event_id":"{row["event_id"]}","timestamp":"2026-11-03T10:15:30.123Z{row.pop("rest")}'
    return text, row


def decoded(payload: Payload) -> Decoded:
    value = payload.encode() if isinstance(payload, str) else payload
    return decode(Messages([0], [0], [NOW_MS], [value]), LIMITS)


@pytest.mark.parametrize("kind", malformed.KINDS)
@pytest.mark.parametrize("number", range(5))
def test_a_malformed_message_has_the_reason_of_its_kind(kind: str, number: int) -> None:
    text, _ = event(number)
    result = decoded(malform(kind, text, NOW_MS))
    assert result.events.is_empty()
    assert result.dead_letters["reason"].to_list() == [malformed.KINDS[kind][0].value]


def test_all_reasons_have_a_kind() -> None:
    assert {reason for reason, _ in malformed.KINDS.values()} == set(Reason) - {Reason.REFUSED}


def test_malformed_kinds_rotate_and_the_large_one_is_rare() -> None:
    kinds = [malformed.kind_at(n) for n in range(100 * len(malformed.KINDS))]
    assert set(kinds[: len(malformed.KINDS)]) == set(malformed.KINDS)
    assert kinds.count(malformed.RARE_KIND) == 2
    common = [kinds.count(kind) for kind in malformed.KINDS if kind != malformed.RARE_KIND]
    assert max(common) - min(common) <= 4


def test_the_large_message_fits_into_a_default_topic() -> None:
    payload = malform("large_message", event()[0], NOW_MS)
    assert isinstance(payload, str)
    assert len(payload.encode()) == 1_000_000
    json.loads(payload)


@pytest.mark.parametrize("kind", odd.KINDS)
@pytest.mark.parametrize("number", range(3))
def test_an_odd_event_lands_as_its_plain_form_would(kind: str, number: int) -> None:
    text, row = event(number)
    disguised = odd.disguise(kind, text)
    assert disguised != text
    result = decoded(disguised)
    assert result.dead_letters.is_empty()
    landed = result.events.row(0, named=True)
    event_id, tier = odd.stored(kind, row["event_id"], row["tier"])
    timestamp = decoded(text).events["timestamp"].item()
    expected = row | {"event_id": event_id, "tier": tier, "timestamp": timestamp}
    assert {name: landed[name] for name in expected} == expected
    assert odd.KINDS[kind].new_id(row["event_id"]) in (json.loads(disguised.lstrip("\ufeff"))["event_id"],)


def test_an_id_that_is_no_uuid_is_among_the_odd_ones() -> None:
    text, row = event()
    changed = {kind for kind in odd.KINDS if odd.stored(kind, row["event_id"], "")[0] != row["event_id"]}
    assert changed == {"plain_id"}
    assert decoded(odd.disguise("plain_id", text)).events["event_id"].item() != row["event_id"]


def test_odd_kinds_rotate() -> None:
    assert [odd.kind_at(n) for n in range(2 * len(odd.KINDS))] == [*odd.KINDS, *odd.KINDS]


def test_unknown_fields_are_kept() -> None:
    landed = decoded(odd.disguise("unknown_fields", event()[0])).events["attributes"].explode().struct.field("key")
    assert {"trace_id", "spans", "customer.plan"} <= set(landed)
    assert isinstance(landed, pl.Series)
