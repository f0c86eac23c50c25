"""The rules, value by value."""

import json
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.event.contract import EVENT_ID_NAMESPACE, FIELDS, Reason
from metrics_pipeline.event.validate import EventLimits, InvalidEventError, event_uuid, shown, timestamp_ms, validate

ID = "0191d3a5-28c0-7b77-9a41-2f5f8d0c7e13"
MESSAGE_MS = 1_793_700_931_000
LIMITS = EventLimits(max_age_ms=86_400_000, max_future_ms=3_600_000)
REQUIRED: dict[str, Any] = {
    "event_id": ID,
    "timestamp": MESSAGE_MS - 877,
    "service": "checkout",
    "endpoint": "/cart/:id/pay",
    "status": 200,
    "latency_ms": 12.5,
}


def valid(**changes: Any) -> dict[str, Any]:
    """The columns of a valid document with changes."""
    row = validate(REQUIRED | changes, MESSAGE_MS, LIMITS)
    return dict(zip([f.column.name for f in FIELDS], row, strict=True))


def refused(message_ms: int = MESSAGE_MS, **changes: Any) -> tuple[Reason, str]:
    with pytest.raises(InvalidEventError) as caught:
        validate(REQUIRED | changes, message_ms, LIMITS)
    return caught.value.reason, caught.value.detail


def test_optional_fields_have_defaults() -> None:
    assert valid() == REQUIRED | {
        "method": "",
        "customer_id": "",
        "tier": "unknown",
        "region": "",
        "host": "",
        "attributes": {},
    }


def test_null_is_like_absent_for_optional_fields() -> None:
    nulls = {"method": None, "customer": None, "region": None, "host": None, "attributes": None}
    assert valid(**nulls) == valid()
    assert valid(customer={"id": None, "tier": None}) == valid()


@pytest.mark.parametrize(
    "text",
    [
        ID,
        ID.upper(),
        ID.replace("-", ""),
        f"{{{ID}}}",
        f"urn:uuid:{ID}",
        f"URN:UUID:{ID.upper()}",
    ],
)
def test_forms_of_a_uuid_are_that_uuid(text: str) -> None:
    assert event_uuid(text) == ID


@pytest.mark.parametrize(
    "text",
    [
        "c42",
        f" {ID}",
        f"{ID}\n",
        f"{{{ID}",
        f"{ID}}}",
        ID[:-1],
        ID.replace("-", "", 1),
        "é",
        "\0",
        ID.replace("0", "\u0660", 1),
    ],
)
def test_other_ids_become_uuid_5(text: str) -> None:
    assert event_uuid(text) == str(uuid5(EVENT_ID_NAMESPACE, text))


@given(st.uuids())
def test_any_uuid_stays_what_it_is(identity: UUID) -> None:
    assert event_uuid(str(identity)) == event_uuid(identity.hex.upper()) == str(identity)


@pytest.mark.parametrize(
    ("given_value", "expected_ms"),
    [
        ("2026-11-03T10:15:30.123Z", 1_793_700_930_123),
        ("2026-11-03T10:15:30.123+00:00", 1_793_700_930_123),
        ("2026-11-03t10:15:30.123z", 1_793_700_930_123),
        ("2026-11-03 10:15:30.123Z", 1_793_700_930_123),
        ("2026-11-03T12:15:30.123+02:00", 1_793_700_930_123),
        ("2026-11-03T06:45:30.123-03:30", 1_793_700_930_123),
        ("2026-11-03T10:15:30Z", 1_793_700_930_000),
        ("2026-11-03T10:15:30.1Z", 1_793_700_930_100),
        ("2026-11-03T10:15:30.12Z", 1_793_700_930_120),
        ("2026-11-03T10:15:30.123999999999999Z", 1_793_700_930_123),
        ("2024-02-29T23:59:59.999Z", 1_709_251_199_999),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
        (1_793_700_930_123, 1_793_700_930_123),
        (1_793_700_930_123.0, 1_793_700_930_123),
        (10**40, 10**40),
    ],
)
def test_timestamps_that_can_be_read(given_value: Any, expected_ms: int) -> None:
    assert timestamp_ms(given_value) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-11-03",
        "2026-11-03T10:15:30",
        "2026-11-03T10:15:30.123",
        "2026-11-03T10:15Z",
        "2026-11-03T10:15:30.Z",
        "2026-11-03T10:15:30,123Z",
        "2026-11-03T10:15:60Z",
        "2026-11-03T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-03T10:15:30+24:00",
        "2026-11-03T10:15:30+0200",
        "2026-11-03T10:15:30Z\n",
        " 2026-11-03T10:15:30Z",
        "20261103T101530Z",
        "2026-W45-2T10:15:30Z",
        "1793700930123",
        "\u0662\u0660\u0662\u0666-11-03T10:15:30Z",
    ],
)
def test_timestamps_that_cannot_be_read(text: str) -> None:
    reason, detail = refused(timestamp=text)
    assert reason is Reason.INVALID_TIMESTAMP
    assert shown(text) in detail


@given(st.datetimes(), st.integers(-1439, 1439))
def test_an_instant_is_the_same_at_every_offset(moment: Any, offset_minutes: int) -> None:
    text = f"{moment.isoformat(timespec='milliseconds')}"
    sign, offset = "-" if offset_minutes < 0 else "+", abs(offset_minutes)
    there = timestamp_ms(f"{text}{sign}{offset // 60:02}:{offset % 60:02}")
    assert there == timestamp_ms(f"{text}Z") - offset_minutes * 60_000


def test_time_is_judged_against_the_message() -> None:
    edges = MESSAGE_MS - LIMITS.max_age_ms, MESSAGE_MS + LIMITS.max_future_ms
    assert [valid(timestamp=edge)["timestamp"] for edge in edges] == list(edges)
    assert refused(timestamp=edges[0] - 1)[0] is Reason.TIMESTAMP_TOO_OLD
    assert refused(timestamp=edges[1] + 1)[0] is Reason.TIMESTAMP_IN_FUTURE


def test_epoch_seconds_are_pointed_out() -> None:
    assert "seconds instead of milliseconds?" in refused(timestamp=MESSAGE_MS // 1_000)[1]
    assert "seconds instead of milliseconds?" not in refused(timestamp=1)[1]


@pytest.mark.parametrize("message_ms", [0, -1])
def test_without_a_time_of_the_message_only_the_years_count(message_ms: int) -> None:
    row = validate(REQUIRED | {"timestamp": 0}, message_ms, LIMITS)
    assert row[1] == 0
    for year in ("1969", "2106", "9999"):
        assert refused(message_ms, timestamp=f"{year}-12-31T00:00:00Z")[0] is Reason.OUT_OF_RANGE


@pytest.mark.parametrize(("value", "status"), [(100, 100), (599, 599), (200.0, 200)])
def test_status_is_an_integer_however_written(value: Any, status: int) -> None:
    assert valid(status=value)["status"] == status
    assert type(valid(status=value)["status"]) is int


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": 99}, Reason.OUT_OF_RANGE),
        ({"status": 600}, Reason.OUT_OF_RANGE),
        ({"status": -(10**40)}, Reason.OUT_OF_RANGE),
        ({"status": float("nan")}, Reason.OUT_OF_RANGE),
        ({"status": 200.5}, Reason.WRONG_TYPE),
        ({"status": "200"}, Reason.WRONG_TYPE),
        ({"status": True}, Reason.WRONG_TYPE),
        ({"status": [200]}, Reason.WRONG_TYPE),
        ({"latency_ms": -0.001}, Reason.OUT_OF_RANGE),
        ({"latency_ms": 86_400_000.1}, Reason.OUT_OF_RANGE),
        ({"latency_ms": 10**40}, Reason.OUT_OF_RANGE),
        ({"latency_ms": float("inf")}, Reason.OUT_OF_RANGE),
        ({"latency_ms": float("nan")}, Reason.OUT_OF_RANGE),
        ({"latency_ms": "1"}, Reason.WRONG_TYPE),
        ({"latency_ms": False}, Reason.WRONG_TYPE),
        ({"timestamp": True}, Reason.WRONG_TYPE),
        ({"timestamp": {}}, Reason.WRONG_TYPE),
        ({"timestamp": 1.5}, Reason.INVALID_TIMESTAMP),
        ({"timestamp": float("inf")}, Reason.OUT_OF_RANGE),
        ({"timestamp": float("nan")}, Reason.OUT_OF_RANGE),
        ({"timestamp": 10**40}, Reason.TIMESTAMP_IN_FUTURE),
        ({"timestamp": -1}, Reason.TIMESTAMP_TOO_OLD),
        ({"event_id": 7}, Reason.WRONG_TYPE),
        ({"service": None}, Reason.NULL_FIELD),
        ({"service": ""}, Reason.EMPTY_FIELD),
        ({"event_id": ""}, Reason.EMPTY_FIELD),
        ({"service": "s" * 129}, Reason.TOO_LONG),
        ({"service": "\ud800"}, Reason.LONE_SURROGATE),
        ({"customer": "c42"}, Reason.WRONG_TYPE),
        ({"customer": {"id": 42}}, Reason.WRONG_TYPE),
        ({"customer": {"tier": "t" * 65}}, Reason.TOO_LONG),
        ({"attributes": ["a"]}, Reason.WRONG_TYPE),
        ({"attributes": {"k" * 129: ""}}, Reason.TOO_LONG),
        ({"attributes": {"k": "v" * 4_097}}, Reason.TOO_LONG),
        ({"attributes": {"k": ["v" * 4_093]}}, Reason.TOO_LONG),
        ({"attributes": {"k": "\udfff"}}, Reason.LONE_SURROGATE),
        ({"attributes": {"\udfff": "v"}}, Reason.LONE_SURROGATE),
        ({"attributes": {"k": ["\udfff"]}}, Reason.LONE_SURROGATE),
        ({"attributes": {"k": [float("inf")]}}, Reason.OUT_OF_RANGE),
        ({"attributes": {str(i): "" for i in range(65)}}, Reason.TOO_MANY_ATTRIBUTES),
        ({"attributes": {str(i): "" for i in range(64)}, "unknown": 1}, Reason.TOO_MANY_ATTRIBUTES),
        ({"k" * 129: 1}, Reason.TOO_LONG),
    ],
)
def test_what_is_refused(changes: dict[str, Any], reason: Reason) -> None:
    found, detail = refused(**changes)
    assert found is reason
    assert len(detail) < 400
    assert detail.isprintable()


@pytest.mark.parametrize("path", [f.path for f in FIELDS if f.required])
def test_a_missing_field_is_named(path: str) -> None:
    with pytest.raises(InvalidEventError) as caught:
        validate({k: v for k, v in REQUIRED.items() if k != path}, MESSAGE_MS, LIMITS)
    assert (caught.value.reason, caught.value.detail) == (Reason.MISSING_FIELD, f"{path} is missing")


@pytest.mark.parametrize("field", [f for f in FIELDS if f.max_characters], ids=lambda f: f.path)
def test_a_string_may_be_as_long_as_its_limit_in_any_script(field: Any) -> None:
    text = "😀" * field.max_characters
    changes = {field.parent: {field.name: text}} if field.parent else {field.name: text}
    assert valid(**changes)
    longer = json.loads(json.dumps(changes).replace(r"\ud83d\ude00", r"\ud83d\ude00\ud83d\ude00", 1))
    assert refused(**longer)[0] is Reason.TOO_LONG


def test_unknown_fields_are_kept_as_attributes() -> None:
    row = valid(
        attributes={"version": "1.2.3"},
        trace="abc",
        retries=3,
        nested={"a": [1, 2.5, None, "é"]},
        nothing=None,
        customer={"id": "c42", "plan": "gold"},
    )
    assert row["attributes"] == {
        "version": "1.2.3",
        "trace": "abc",
        "retries": "3",
        "nested": '{"a":[1,2.5,null,"é"]}',
        "nothing": "",
        "customer.plan": "gold",
    }


def test_a_name_that_is_taken_is_prefixed() -> None:
    row = valid(
        attributes={"a": "attribute", "field.a": "taken too"},
        a="field",
        **{"customer.b": "field"},
        customer={"b": "of customer"},
    )
    assert row["attributes"] == {
        "a": "attribute",
        "field.a": "taken too",
        "field.field.a": "field",
        "customer.b": "field",
        "field.customer.b": "of customer",
    }


def test_names_of_columns_are_unknown_fields_too() -> None:
    assert valid(customer_id="x", kafka_offset=1)["attributes"] == {"customer_id": "x", "kafka_offset": "1"}


def test_attributes_that_are_no_strings_are_compact_json() -> None:
    row = valid(attributes={"i": 3, "t": True, "n": None, "f": 1.5, "l": [1, "a"], "big": 10**40})
    assert row["attributes"] == {
        "i": "3",
        "t": "true",
        "n": "",
        "f": "1.5",
        "l": '[1,"a"]',
        "big": "1" + "0" * 40,
    }
