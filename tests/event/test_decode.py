"""Messages to events and dead letters: every kind of bad input, and everything legal that looks odd."""

import json
from typing import Any

import polars as pl
import pytest

from metrics_pipeline.event.contract import (
    DEAD_LETTER_SCHEMA,
    EVENT_SCHEMA,
    MAX_DEPTH,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_TIMESTAMP_MS,
    Reason,
)
from metrics_pipeline.event.decode import Decoded, EventLimits, decode
from metrics_pipeline.event.decode.fast import decode_fast
from metrics_pipeline.event.messages import Messages

MESSAGE_MS = 1_793_700_931_000
LIMITS = EventLimits(max_age_ms=86_400_000, max_future_ms=3_600_000)
EVENT: dict[str, Any] = {
    "event_id": "0191d3a5-28c0-7b77-9a41-2f5f8d0c7e13",
    "timestamp": "2026-11-03T10:15:30.123Z",
    "service": "checkout",
    "endpoint": "/cart/:id/pay",
    "method": "POST",
    "status": 200,
    "latency_ms": 12.5,
    "customer": {"id": "c42", "tier": "enterprise"},
    "region": "eu-west-1",
    "host": "web-7",
    "attributes": {"version": "1.2.3", "build": "77"},
}
TEXT = json.dumps(EVENT)


def text(**changes: Any) -> str:
    return json.dumps(EVENT | changes)


def with_raw(field: str, raw: str) -> bytes:
    """The event with `raw` as the JSON text of a field."""
    return text(**{field: "\0here"}).replace(r'"\u0000here"', raw).encode()


def decoded(*values: bytes | None, message_ms: int = MESSAGE_MS) -> Decoded:
    n = len(values)
    return decode(Messages([3] * n, list(range(100, 100 + n)), [message_ms] * n, list(values)), LIMITS)


def landed(value: bytes | str, message_ms: int = MESSAGE_MS) -> dict[str, Any]:
    result = decoded(value.encode() if isinstance(value, str) else value, message_ms=message_ms)
    assert result.dead_letters.rows() == []
    (row,) = result.events.rows(named=True)
    return row | {"attributes": {pair["key"]: pair["value"] for pair in row["attributes"]}}


def dead(value: bytes | str | None) -> dict[str, Any]:
    result = decoded(value.encode() if isinstance(value, str) else value)
    assert len(result.events) == 0
    (row,) = result.dead_letters.rows(named=True)
    return row


BAD: list[tuple[str, bytes | None, Reason]] = [
    ("tombstone", None, Reason.TOMBSTONE),
    ("no bytes", b"", Reason.EMPTY),
    ("white space", b" \t\r\n", Reason.EMPTY),
    ("byte order mark alone", b"\xef\xbb\xbf\n", Reason.EMPTY),
    ("prose", b"not json", Reason.INVALID_JSON),
    ("log line", b"2026-11-03 GET /", Reason.INVALID_JSON),
    ("single quotes", b"{'service': 'checkout'}", Reason.INVALID_JSON),
    ("trailing comma", TEXT[:-1].encode() + b",}", Reason.INVALID_JSON),
    ("comment", b"/* event */ " + TEXT.encode(), Reason.INVALID_JSON),
    ("bare control character", TEXT.replace("web-7", "web\n7").encode(), Reason.INVALID_JSON),
    ("bad escape", TEXT.replace("web-7", r"web\x7").encode(), Reason.INVALID_JSON),
    ("leading zero", with_raw("status", "0200"), Reason.INVALID_JSON),
    ("plus sign", with_raw("status", "+200"), Reason.INVALID_JSON),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", Reason.INVALID_UTF8),
    ("latin-1", TEXT.replace("web-7", "caf\xe9 x").encode("latin-1"), Reason.INVALID_UTF8),
    ("utf-16", TEXT.encode("utf-16"), Reason.INVALID_UTF8),
    (
        "surrogate in utf-8",
        TEXT.replace("web-7", "\ud800").encode("utf-8", "surrogatepass"),
        Reason.INVALID_UTF8,
    ),
    ("overlong nul", TEXT.encode().replace(b"web-7", b"\xc0\x80"), Reason.INVALID_UTF8),
    ("cut in half", TEXT[:150].encode(), Reason.TRUNCATED),
    ("two documents", (TEXT + TEXT).encode(), Reason.TRAILING_DATA),
    ("two lines", (TEXT + "\n" + TEXT).encode(), Reason.TRAILING_DATA),
    ("nul behind", TEXT.encode() + b"\0", Reason.TRAILING_DATA),
    ("array", f"[{TEXT}]".encode(), Reason.NOT_AN_OBJECT),
    ("number", b"5", Reason.NOT_AN_OBJECT),
    ("null", b"null", Reason.NOT_AN_OBJECT),
    ("NaN alone", b"NaN", Reason.NOT_AN_OBJECT),
    ("string", b'"event"', Reason.NOT_AN_OBJECT),
    ("empty object", b"{}", Reason.MISSING_FIELD),
    ("no latency", text(latency_ms=None).encode(), Reason.NULL_FIELD),
    ("empty service", text(service="").encode(), Reason.EMPTY_FIELD),
    ("empty id", text(event_id="").encode(), Reason.EMPTY_FIELD),
    ("status as a string", text(status="200").encode(), Reason.WRONG_TYPE),
    ("latency as a boolean", text(latency_ms=True).encode(), Reason.WRONG_TYPE),
    ("status 99", text(status=99).encode(), Reason.OUT_OF_RANGE),
    ("status 600", text(status=600).encode(), Reason.OUT_OF_RANGE),
    ("negative latency", text(latency_ms=-1).encode(), Reason.OUT_OF_RANGE),
    ("NaN", with_raw("latency_ms", "NaN"), Reason.OUT_OF_RANGE),
    ("Infinity", with_raw("latency_ms", "-Infinity"), Reason.OUT_OF_RANGE),
    ("1e400", with_raw("latency_ms", "1e400"), Reason.OUT_OF_RANGE),
    ("40 digits", with_raw("latency_ms", "9" * 40), Reason.OUT_OF_RANGE),
    ("status of 40 digits", with_raw("status", "9" * 40), Reason.OUT_OF_RANGE),
    ("5000 digits", with_raw("latency_ms", "9" * 5_000), Reason.OUT_OF_RANGE),
    ("1e400 in an attribute", with_raw("attributes", '{"a": 1e400}'), Reason.OUT_OF_RANGE),
    ("no offset", text(timestamp="2026-11-03T10:15:30").encode(), Reason.INVALID_TIMESTAMP),
    ("leap second", text(timestamp="2026-11-03T10:15:60Z").encode(), Reason.INVALID_TIMESTAMP),
    ("no such day", text(timestamp="2026-02-30T10:15:00Z").encode(), Reason.INVALID_TIMESTAMP),
    ("hour 24", text(timestamp="2026-11-03T24:00:00.000Z").encode(), Reason.INVALID_TIMESTAMP),
    ("year 0", text(timestamp="0000-01-01T00:00:00.000Z").encode(), Reason.INVALID_TIMESTAMP),
    ("digits as a string", text(timestamp=str(MESSAGE_MS)).encode(), Reason.INVALID_TIMESTAMP),
    ("year 9999", text(timestamp="9999-12-31T23:59:59.999Z").encode(), Reason.TIMESTAMP_IN_FUTURE),
    ("epoch microseconds", text(timestamp=MESSAGE_MS * 1_000).encode(), Reason.TIMESTAMP_IN_FUTURE),
    ("timestamp of 40 digits", with_raw("timestamp", "9" * 40), Reason.TIMESTAMP_IN_FUTURE),
    ("last year", text(timestamp="2025-11-03T10:15:30Z").encode(), Reason.TIMESTAMP_TOO_OLD),
    ("epoch seconds", text(timestamp=MESSAGE_MS // 1_000).encode(), Reason.TIMESTAMP_TOO_OLD),
    ("long service", text(service="s" * 129).encode(), Reason.TOO_LONG),
    ("long attribute", text(attributes={"a": "v" * 4_097}).encode(), Reason.TOO_LONG),
    (
        "many attributes",
        text(attributes={str(i): "" for i in range(65)}).encode(),
        Reason.TOO_MANY_ATTRIBUTES,
    ),
    ("lone surrogate", with_raw("host", r'"\ud800"'), Reason.LONE_SURROGATE),
    ("lone surrogate in a name", with_raw("attributes", r'{"\udc00": "a"}'), Reason.LONE_SURROGATE),
    ("one byte too much", TEXT.encode().ljust(MAX_MESSAGE_BYTES + 1), Reason.TOO_LARGE),
    ("1 MB", text(attributes={"a": "v" * 1_000_000}).encode(), Reason.TOO_LARGE),
    ("deep", with_raw("attributes", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), Reason.TOO_DEEP),
    ("deep and cut", b"[" * 200_000, Reason.TOO_DEEP),
    ("deep objects", b'{"a":' * 40_000 + b"1" + b"}" * 40_000, Reason.TOO_DEEP),
]


@pytest.mark.parametrize(("value", "reason"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input_is_a_dead_letter_with_its_reason(value: bytes | None, reason: Reason) -> None:
    row = dead(value)
    assert row["reason"] == reason
    assert row["payload"] == (value or b"")
    assert (row["kafka_partition"], row["kafka_offset"]) == (3, 100)
    assert row["kafka_timestamp"].timestamp() * 1_000 == MESSAGE_MS
    assert 0 < len(row["detail"]) < 400
    assert row["detail"].isprintable()


def test_every_reason_is_tried() -> None:
    assert {reason for *_, reason in BAD} == set(Reason) - {Reason.REFUSED}


def test_the_rest_of_a_batch_lands() -> None:
    good = [text(event_id=f"good-{i}").encode() for i in range(len(BAD) + 1)]
    mixed = [value for pair in zip(good, (b[1] for b in BAD), strict=False) for value in pair] + good[-1:]
    result = decoded(*mixed)
    assert result.events["kafka_offset"].to_list() == list(range(100, 100 + len(mixed), 2))
    assert result.dead_letters["kafka_offset"].to_list() == list(range(101, 100 + len(mixed), 2))
    assert result.dead_letters["reason"].to_list() == [b[2].value for b in BAD]
    assert result.events.schema == EVENT_SCHEMA
    assert result.dead_letters.schema == DEAD_LETTER_SCHEMA


def test_the_columns_of_an_event() -> None:
    (row,) = decoded(TEXT.encode()).events.select(pl.exclude("timestamp", "kafka_timestamp")).rows(named=True)
    assert row == {
        "event_id": EVENT["event_id"],
        "service": "checkout",
        "endpoint": "/cart/:id/pay",
        "method": "POST",
        "status": 200,
        "latency_ms": 12.5,
        "customer_id": "c42",
        "tier": "enterprise",
        "region": "eu-west-1",
        "host": "web-7",
        "attributes": [{"key": "version", "value": "1.2.3"}, {"key": "build", "value": "77"}],
        "kafka_partition": 3,
        "kafka_offset": 100,
    }
    times = decoded(TEXT.encode()).events.select(pl.col("timestamp", "kafka_timestamp").cast(pl.Int64))
    assert times.rows() == [(1_793_700_930_123, MESSAGE_MS)]


ORDINARY = [
    TEXT,
    text(timestamp=MESSAGE_MS),
    text(timestamp="2026-11-03T10:15:30Z"),
    text(timestamp="2026-11-03T10:15:30.123456+00:00"),
    text(event_id="no uuid"),
    text(latency_ms=12),
    json.dumps(EVENT, indent=4),
    json.dumps(dict(reversed(EVENT.items()))),
    json.dumps({k: v for k, v in EVENT.items() if k not in ("method", "customer", "region", "host", "attributes")}),
    text(customer=None, host=None, attributes=None, customer_absent=None).replace(', "customer_absent": null', ""),
    text(host="caf\u00e9 \U0001f600"),
    text(attributes={}),
]


def test_ordinary_events_take_the_fast_path() -> None:
    values: list[bytes | None] = [value.encode() for value in ORDINARY]
    n = len(values)
    events, doubtful = decode_fast(Messages([0] * n, list(range(n)), [MESSAGE_MS] * n, values), LIMITS)
    assert doubtful == []
    assert len(events) == n


@pytest.mark.parametrize(
    "odd",
    [
        json.dumps(EVENT, indent="\t").replace("\n", "\r\n"),
        f"\ufeff{TEXT}",
        f"\n\t {TEXT} \r\n",
        TEXT.replace("/", r"\/").replace("checkout", r"\u0063heckout"),
        TEXT.replace('"host"', r'"\u0068ost"'),
    ],
    ids=["pretty", "byte order mark", "white space around", "escapes", "escapes in names"],
)
def test_odd_spellings_are_the_same_event(odd: str) -> None:
    assert landed(odd) == landed(TEXT)


@pytest.mark.parametrize("host", ["\0", "a\0b", "😀", "\u202e", "\x7f", "\uffff", "𝄞é\u0301", " ", "\n", '"\\'])
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_any_unicode_lands(host: str, ensure_ascii: bool) -> None:
    value = json.dumps(EVENT | {"host": host, "attributes": {host: host}}, ensure_ascii=ensure_ascii)
    row = landed(value)
    assert (row["host"], row["attributes"]) == (host, {host: host})


def test_an_id_that_is_no_uuid_is_the_same_on_both_paths() -> None:
    plain, with_unknown = landed(text(event_id="c42-7")), landed(text(event_id="c42-7", unknown=1))
    assert plain["event_id"] == with_unknown["event_id"] == "1e9d4376-e730-562d-b7b0-57080c9c7d56"


@pytest.mark.parametrize("unknown", [{}, {"unknown": 1}, {"unknown": "\ufeff"}], ids=["fast", "open", "text"])
def test_null_is_the_default(unknown: dict[str, Any]) -> None:
    nulls = {"method": None, "region": None, "host": None, "attributes": None}
    row = landed(text(**nulls, customer={"id": None, "tier": None}, **unknown))
    columns = ("method", "region", "host", "customer_id", "tier")
    assert [row[column] for column in columns] == ["", "", "", "", "unknown"]
    assert row["attributes"].keys() == unknown.keys()
    assert landed(text(**nulls, customer=None, **unknown)) == row


def test_unknown_fields_land_in_attributes() -> None:
    row = landed(text(trace={"id": [1, None]}, retries=3))
    assert row["attributes"] == {
        "version": "1.2.3",
        "build": "77",
        "trace": '{"id":[1,null]}',
        "retries": "3",
    }


@pytest.mark.parametrize(
    ("duplicates", "column", "expected"),
    [
        ('"host": "a", "host": "b"', "host", "b"),
        ('"host": 7, "host": "b"', "host", "b"),
        ('"host": "\\ud800", "host": "b"', "host", "b"),
        ('"latency_ms": 1e400, "latency_ms": 1', "latency_ms", 1.0),
        ('"host": "a", "host": null', "host", ""),
        ('"customer": {"id": "a", "tier": "b"}, "customer": {"id": "c"}', "tier", "unknown"),
        ('"customer": {"id": "a", "id": "b"}', "customer_id", "b"),
        ('"customer": 7, "customer": {"id": "b"}', "customer_id", "b"),
        ('"attributes": {"a": "1", "b": "2", "a": "3"}', "attributes", {"a": "3", "b": "2"}),
        ('"attributes": {"a": "1"}, "attributes": {"b": "2"}', "attributes", {"b": "2"}),
        ('"attributes": {}, "x": 1, "x": {"y": 1, "y": 2}', "attributes", {"x": '{"y":2}'}),
    ],
)
def test_the_last_of_equal_keys_wins(duplicates: str, column: str, expected: Any) -> None:
    assert landed(f"{TEXT[:-1]}, {duplicates}}}")[column] == expected


def test_the_last_of_equal_keys_wins_even_if_it_is_bad() -> None:
    assert dead(f'{TEXT[:-1]}, "status": "200"}}')["reason"] == Reason.WRONG_TYPE


@pytest.mark.parametrize("raw", ["-0", "-0.0", "-0e5", "1e-400"])
def test_nothing_is_minus_zero(raw: str) -> None:
    assert str(landed(with_raw("latency_ms", raw))["latency_ms"]) == "0.0"
    assert str(landed(with_raw("latency_ms", raw)[:-1] + b',"x":1}')["latency_ms"]) == "0.0"


@pytest.mark.parametrize("raw", ["200.0", "2e2", "20000e-2"])
def test_an_integer_may_be_written_as_a_float(raw: str) -> None:
    assert landed(with_raw("status", raw))["status"] == 200


def test_limits_are_inclusive() -> None:
    deepest = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
    assert landed(with_raw("attributes", f'{{"a": {deepest}}}'))["attributes"]["a"] == deepest
    assert dead(with_raw("attributes", f'{{"a": [{deepest}]}}'))["reason"] == Reason.TOO_DEEP
    assert landed(TEXT.encode().ljust(MAX_MESSAGE_BYTES))
    assert landed(text(service="s" * 128, attributes={str(i): "v" * 1_000 for i in range(64)}))


def test_brackets_within_strings_are_not_nested() -> None:
    assert landed(text(host='["\\' * 50))["host"] == '["\\' * 50


def test_every_cut_of_an_event_is_truncated() -> None:
    whole = TEXT.replace("web-7", r"\u00e9\\é\n").replace("12.5", "-1.5e+3").replace("null", "true").encode()
    whole = whole[:-1] + b', "x": [true, false, null]}'
    reasons = decoded(*(whole[:end] for end in range(1, len(whole)))).dead_letters["reason"]
    assert set(reasons) == {Reason.TRUNCATED}


def test_a_message_without_a_time_is_judged_by_the_years_alone() -> None:
    assert landed(text(timestamp=0), message_ms=-1)["kafka_timestamp"].timestamp() == 0
    assert landed(text(timestamp=MAX_TIMESTAMP_MS), message_ms=-1)
    assert len(decoded(text(timestamp=MAX_TIMESTAMP_MS + 1).encode(), message_ms=-1).dead_letters) == 1


@pytest.mark.parametrize("message_ms", [-(2**63), -1, 0, 1, 2**62, 2**63 - 1])
def test_absurd_times_of_messages_are_survived(message_ms: int) -> None:
    result = decoded(TEXT.encode(), b"", message_ms=message_ms)
    assert len(result.events) == (message_ms <= 0)
    times = pl.concat([result.events["kafka_timestamp"], result.dead_letters["kafka_timestamp"]]).cast(pl.Int64)
    assert set(times) == {min(max(message_ms, 0), MAX_TIMESTAMP_MS)}


@pytest.mark.parametrize(
    ("value", "service"),
    [
        (text(status=99), "checkout"),
        (TEXT[:150], "checkout"),
        (text(attributes={"a": "v" * 1_000_000}), "checkout"),
        (text(service="caf\u00e9")[:150], "caf\u00e9"),
        (text(service=7), ""),
        (text(service="s" * 129), ""),
        (with_raw("service", r'"\ud800"'), ""),
        ("not json", ""),
        (None, ""),
    ],
)
def test_a_dead_letter_names_the_service_where_it_can(value: Any, service: str) -> None:
    assert dead(value)["service"] == service


def test_a_huge_payload_is_cut_and_says_so() -> None:
    row = dead(b"x" * (MAX_PAYLOAD_BYTES + 1))
    assert row["payload"] == b"x" * MAX_PAYLOAD_BYTES
    assert "cut to its first" in row["detail"]
    assert "cut" not in dead(b"x" * MAX_PAYLOAD_BYTES)["detail"]


# Linear time is milliseconds, quadratic time is minutes.
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "value",
    [
        b'{"' + b'\\"' * 120_000,
        b'"\\' * 80_000 + b"[" * 65,
        b'"' * 200_000 + b"{" * 65,
        b'"service":"' * 20_000,
        b"[{" * 60_000 + b'\\"' * 60_000,
        b'{"a":' + b"1" * 200_000,
        b'{"a":"' + b"\\u0041" * 40_000,
    ],
    ids=range(7),
)
def test_no_message_takes_quadratic_time(value: bytes) -> None:
    assert dead(value)["payload"] == value
