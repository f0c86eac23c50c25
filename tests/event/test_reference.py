"""The contract: what derives from it agrees with it."""

from pathlib import Path
from uuid import UUID

import pytest

from deploy.generate.event import reference
from metrics_pipeline.event.contract import (
    DEAD_LETTER_SCHEMA,
    EVENT_ID_NAMESPACE,
    EVENT_SCHEMA,
    FIELDS,
    IDENTITY,
    NO_DEAD_LETTERS,
    NO_EVENTS,
    RAW_COLUMNS,
    Kind,
    Reason,
)
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages

REFERENCE = Path(__file__).parents[2] / "docs" / "event.md"


def test_the_reference_page_is_current() -> None:
    assert REFERENCE.read_text() == reference(), "run: python -m deploy.generate.event > docs/event.md"


def test_the_required_fields() -> None:
    assert {f.path for f in FIELDS if f.required} == {
        "event_id",
        "timestamp",
        "service",
        "endpoint",
        "latency_ms",
        "status",
    }


def test_columns_are_named_once_and_hold_the_identity() -> None:
    names = [column.name for column in RAW_COLUMNS]
    assert len(set(names)) == len(names)
    assert set(IDENTITY) < set(names)


def test_every_field_has_a_limit() -> None:
    for field in FIELDS:
        match field.kind:
            case Kind.ID | Kind.TEXT:
                assert field.max_characters > 0, field.path
            case Kind.TIMESTAMP | Kind.INTEGER | Kind.NUMBER:
                assert field.maximum > field.minimum, field.path


def test_the_namespace_of_ids_never_changes() -> None:
    assert UUID("6f1d3a52-8c0e-4b77-9a41-2f5f8d0c7e13") == EVENT_ID_NAMESPACE


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_a_code_with_a_sentence(reason: Reason) -> None:
    assert reason.value == reason.name.lower()
    assert Reason(reason.value) is reason  # type: ignore[call-arg] # looked up by its code alone
    assert reason.description.endswith(".")


def test_frames_of_nothing_have_the_schemas() -> None:
    decoded = decode(Messages([], [], [], []), EventLimits(max_age_ms=1, max_future_ms=1))
    assert decoded.events.schema == NO_EVENTS.schema == EVENT_SCHEMA
    assert decoded.dead_letters.schema == NO_DEAD_LETTERS.schema == DEAD_LETTER_SCHEMA
