"""Every kind of message that is no event, made from one that is."""

import json
from collections.abc import Callable, Mapping

from metrics_pipeline.event.contract import MAX_ATTRIBUTES, MAX_DEPTH, Reason
from metrics_pipeline.lab.loadgen.odd import compact

Payload = str | bytes | None
"""The value of a message: None is a tombstone, text goes as UTF-8."""

_LARGE_BYTES = 1_000_000
"""Below Kafka's default `max.message.bytes` of 1,048,588."""

RARE_KIND = "large_message"
_RARE_EVERY = 50
_AHEAD_MS = 400 * 86_400_000
"""Farther ahead than any setting allows."""


def kind_at(ordinal: int) -> str:
    """The kind of the malformed message number `ordinal`: all in rotation, the large one only every 50th time."""
    turn, position = divmod(ordinal, len(_COMMON_KINDS) + 1)
    if position < len(_COMMON_KINDS):
        return _COMMON_KINDS[position]
    return RARE_KIND if turn % _RARE_EVERY == 0 else _COMMON_KINDS[turn % len(_COMMON_KINDS)]


def malform(kind: str, text: str, now_ms: int) -> Payload:
    """A message of this kind, made from the JSON text of an event."""
    return KINDS[kind][1](text, now_ms)


def _with_json(field: str, raw: str) -> Callable[[str, int], Payload]:
    """The event with `raw` in place of the JSON text of a field."""
    return lambda text, _: compact(json.loads(text) | {field: "\0"}).replace(r'"\u0000"', raw)


def _without(field: str) -> Callable[[str, int], Payload]:
    return lambda text, _: compact({k: v for k, v in json.loads(text).items() if k != field})


def _large(text: str, _: int) -> str:
    padding = "x" * (_LARGE_BYTES - len(text) - len(',"padding":""'))
    return f'{text[:-1]},"padding":"{padding}"}}'


KINDS: Mapping[str, tuple[Reason, Callable[[str, int], Payload]]] = {
    "not_json": (Reason.INVALID_JSON, lambda _text, _: "GET /cart/17/pay 200 12.5ms"),
    "truncated": (Reason.TRUNCATED, lambda text, _: text[: len(text) // 2]),
    "array": (Reason.NOT_AN_OBJECT, lambda text, _: f"[{text}]"),
    "bare_number": (Reason.NOT_AN_OBJECT, lambda _text, _: "42"),
    "empty": (Reason.EMPTY, lambda _text, _: b""),
    "blank": (Reason.EMPTY, lambda _text, _: " \n"),
    "tombstone": (Reason.TOMBSTONE, lambda _text, _: None),
    "two_documents": (Reason.TRAILING_DATA, lambda text, _: f"{text}\n{text}"),
    "invalid_utf8": (Reason.INVALID_UTF8, lambda text, _: text.encode().replace(b'"region":"', b'"region":"\xc3\x28')),
    "missing_field": (Reason.MISSING_FIELD, _without("latency_ms")),
    "null_field": (Reason.NULL_FIELD, _with_json("status", "null")),
    "empty_field": (Reason.EMPTY_FIELD, _with_json("endpoint", '""')),
    "text_for_number": (Reason.WRONG_TYPE, _with_json("latency_ms", '"12.5"')),
    "object_for_text": (Reason.WRONG_TYPE, _with_json("service", '{"name":"checkout"}')),
    "not_a_number": (Reason.OUT_OF_RANGE, _with_json("latency_ms", "NaN")),
    "huge_exponent": (Reason.OUT_OF_RANGE, _with_json("latency_ms", "1e400")),
    "forty_digits": (Reason.OUT_OF_RANGE, _with_json("status", "2" * 40)),
    "negative_latency": (Reason.OUT_OF_RANGE, _with_json("latency_ms", "-12.5")),
    "unreadable_timestamp": (Reason.INVALID_TIMESTAMP, _with_json("timestamp", '"yesterday at noon"')),
    "local_timestamp": (Reason.INVALID_TIMESTAMP, _with_json("timestamp", '"2026-11-03T10:15:30"')),
    "future_timestamp": (
        Reason.TIMESTAMP_IN_FUTURE,
        lambda text, now_ms: _with_json("timestamp", str(now_ms + _AHEAD_MS))(text, now_ms),
    ),
    "old_timestamp": (Reason.TIMESTAMP_TOO_OLD, _with_json("timestamp", '"1980-01-01T00:00:00Z"')),
    "long_text": (Reason.TOO_LONG, _with_json("endpoint", f'"/{"x" * 5_000}"')),
    "many_attributes": (
        Reason.TOO_MANY_ATTRIBUTES,
        _with_json("attributes", compact({f"a{i}": "x" for i in range(MAX_ATTRIBUTES + 1)})),
    ),
    "deep_nesting": (Reason.TOO_DEEP, _with_json("attributes", '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH)),
    "lone_surrogate": (Reason.LONE_SURROGATE, _with_json("host", r'"web-\ud800"')),
    RARE_KIND: (Reason.TOO_LARGE, _large),
}
"""Kind -> the reason that its dead letter has, and how it is made."""

_COMMON_KINDS = tuple(kind for kind in KINDS if kind != RARE_KIND)
