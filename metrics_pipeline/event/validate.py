"""The contract's rules, applied to one JSON object in plain Python: the reference for the vectorised decoder.

A value passes, is brought into the form of its column, or raises InvalidEventError with the reason.
"""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from json import JSONEncoder
from typing import Any, NoReturn
from uuid import uuid5

from metrics_pipeline.errors import PipelineError
from metrics_pipeline.event.contract import (
    CLASH_PREFIX,
    EVENT_ID_NAMESPACE,
    FIELDS,
    MAX_ATTRIBUTE_KEY_CHARACTERS,
    MAX_ATTRIBUTE_VALUE_CHARACTERS,
    MAX_ATTRIBUTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    Field,
    Kind,
    Reason,
)

_ATTRIBUTES = "attributes"
_PARENTS = tuple(sorted({f.parent for f in FIELDS if f.parent}))
_KNOWN = {
    "": frozenset({*(f.name for f in FIELDS if not f.parent), *_PARENTS}),
    **{parent: frozenset(f.name for f in FIELDS if f.parent == parent) for parent in _PARENTS},
}

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID = re.compile(
    r"(?:urn:uuid:)?(\{)?([0-9a-f]{8})(-?)([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{12})(?(1)\})",
    re.ASCII | re.IGNORECASE,
)
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_SHOWN_CHARACTERS = 80

_compact = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_printable = JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class EventLimits:
    """How far an event's timestamp may be from the time of its Kafka message, milliseconds."""

    max_age_ms: int
    max_future_ms: int


class InvalidEventError(PipelineError):
    """A message is no valid event; `detail` is a sentence for people, without the full stop."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def validate(document: Mapping[str, Any], message_ms: int, limits: EventLimits) -> list[Any]:
    """The event that `document` says, as one value per entry of event.FIELDS.

    The timestamp is epoch milliseconds, attributes are a dict of texts. `message_ms` is the time of the Kafka
    message, 0 or less if it has none. Raises InvalidEventError for the first rule that is broken.
    """
    holders = {parent: _object(parent, document.get(parent)) for parent in _PARENTS} | {"": document}
    row: list[Any] = [
        check(field, value) if (value := holders[parent].get(name)) is not None else _default(field, holders[parent])
        for field, parent, name, check in _PLAN
    ]
    _judge_time(document["timestamp"], row[_TIMESTAMP_INDEX], message_ms, limits)
    row.append(attributes(document))
    return row


def attributes(document: Mapping[str, Any]) -> dict[str, str]:
    """The attributes, and every field that the contract doesn't know, as texts. Raises InvalidEventError."""
    given = _object(_ATTRIBUTES, document.get(_ATTRIBUTES))
    kept = {key: value if type(value) is str else _to_text(key, value) for key, value in given.items()}
    for parent, known in _KNOWN.items():
        holder = _object(parent, document.get(parent)) if parent else document
        for name in holder:
            if name not in known:
                key = _free_key(f"{parent}.{name}" if parent else name, kept)
                kept[key] = _to_text(key, holder[name])
    if len(kept) > MAX_ATTRIBUTES:
        raise InvalidEventError(
            Reason.TOO_MANY_ATTRIBUTES,
            f"there are {len(kept)} attributes, unknown fields included, {MAX_ATTRIBUTES} at most",
        )
    for key, text in kept.items():
        if len(key) > MAX_ATTRIBUTE_KEY_CHARACTERS or not key.isascii():
            _check_text("the name of an attribute", key, MAX_ATTRIBUTE_KEY_CHARACTERS)
        if len(text) > MAX_ATTRIBUTE_VALUE_CHARACTERS or not text.isascii():
            _check_text(key, text, MAX_ATTRIBUTE_VALUE_CHARACTERS)
    return kept


def event_uuid(text: str) -> str:
    """Canonical lower-case UUID: the one that `text` writes in any common form, else its UUIDv5."""
    if _CANONICAL_UUID.fullmatch(text):
        return text
    match = _UUID.fullmatch(text)
    if match is None:
        return str(uuid5(EVENT_ID_NAMESPACE, text))
    return "-".join(match.group(2, 4, 5, 6, 7)).lower()


def timestamp_ms(value: Any) -> int:
    """Epoch milliseconds of RFC 3339 text with an offset, or of whole epoch milliseconds; not yet judged.

    Raises InvalidEventError.
    """
    if type(value) is int:
        return value
    if type(value) is float:
        if not value.is_integer():
            reason = Reason.INVALID_TIMESTAMP if abs(value) < float("inf") else Reason.OUT_OF_RANGE
            raise InvalidEventError(reason, f"timestamp is {shown(value)}, not whole epoch milliseconds")
        return int(value)
    if type(value) is not str:
        _refuse_type("timestamp", value, "a string or an integer")
    try:
        # Python reads more forms than RFC 3339 has, but all of those, down to the day of the month.
        moment = datetime.fromisoformat(value.upper()) if _RFC_3339.fullmatch(value) else None
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidEventError(
            Reason.INVALID_TIMESTAMP,
            f"timestamp is {shown(value)}, not RFC 3339 with an offset, like 2026-11-03T10:15:30.123Z",
        )
    return (moment - _EPOCH) // _MILLISECOND


def has_lone_surrogate(text: str) -> bool:
    """Does the text hold half of a UTF-16 pair, which no UTF-8 can say?"""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def shown(value: Any) -> str:
    """The value as ASCII JSON, cut to a readable length."""
    if isinstance(value, str):
        value = value[: _SHOWN_CHARACTERS + 1]
    text = _printable(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"


def _judge_time(given: Any, event_ms: int, message_ms: int, limits: EventLimits) -> None:
    ahead_ms = event_ms - message_ms
    if message_ms > 0 and ahead_ms > limits.max_future_ms:
        raise InvalidEventError(
            Reason.TIMESTAMP_IN_FUTURE,
            f"timestamp {shown(given)} is {_seconds(ahead_ms)} ahead of its message, "
            f"{_seconds(limits.max_future_ms)} at most",
        )
    if message_ms > 0 and -ahead_ms > limits.max_age_ms:
        in_seconds = type(given) is int and -limits.max_age_ms <= given * 1_000 - message_ms <= limits.max_future_ms
        raise InvalidEventError(
            Reason.TIMESTAMP_TOO_OLD,
            f"timestamp {shown(given)} is {_seconds(-ahead_ms)} behind its message, "
            f"{_seconds(limits.max_age_ms)} at most" + ("; seconds instead of milliseconds?" if in_seconds else ""),
        )
    if not MIN_TIMESTAMP_MS <= event_ms <= MAX_TIMESTAMP_MS:
        raise InvalidEventError(Reason.OUT_OF_RANGE, f"timestamp {shown(given)} is not within 1970-2105")


def _seconds(ms: int) -> str:
    return f"{shown(ms // 1_000)} s"


def _object(path: str, value: Any) -> Mapping[str, Any]:
    """An optional object: null is like absent."""
    if value is None:
        return {}
    if type(value) is not dict:
        _refuse_type(path, value, "an object")
    return value


def _default(field: Field, holder: Mapping[str, Any]) -> str:
    if not field.required:
        return field.default
    if field.name in holder:
        raise InvalidEventError(Reason.NULL_FIELD, f"{field.path} is null")
    raise InvalidEventError(Reason.MISSING_FIELD, f"{field.path} is missing")


def _text(field: Field, value: Any) -> str:
    if type(value) is not str:
        _refuse_type(field.path, value, "a string")
    if not value and field.required:
        raise InvalidEventError(Reason.EMPTY_FIELD, f"{field.path} is empty")
    if len(value) > field.max_characters or not value.isascii():
        _check_text(field.path, value, field.max_characters)
    return value


def _integer(field: Field, value: Any) -> int:
    _check_number(field, value, "an integer")
    if type(value) is float and not value.is_integer():
        _refuse_type(field.path, value, "an integer")
    return int(value)


def _number(field: Field, value: Any) -> float:
    _check_number(field, value, "a number")
    return float(value)


_CHECKS: Mapping[Kind, Callable[[Field, Any], Any]] = {
    Kind.ID: lambda field, value: event_uuid(_text(field, value)),
    Kind.TIMESTAMP: lambda _field, value: timestamp_ms(value),
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
}
_PLAN = tuple((f, f.parent, f.name, _CHECKS[f.kind]) for f in FIELDS if f.kind is not Kind.ATTRIBUTES)
_TIMESTAMP_INDEX = next(i for i, (f, *_) in enumerate(_PLAN) if f.kind is Kind.TIMESTAMP)


def _check_number(field: Field, value: Any, wanted: str) -> None:
    # Exact types: bool is a subclass of int, and true is no number.
    if type(value) is not int and type(value) is not float:
        _refuse_type(field.path, value, wanted)
    if not field.minimum <= value <= field.maximum:
        raise InvalidEventError(
            Reason.OUT_OF_RANGE,
            f"{field.path} is {shown(value)}, not from {field.minimum:.0f} to {field.maximum:.0f}",
        )


def _check_text(path: str, value: str, max_characters: int) -> None:
    if len(value) > max_characters:
        raise InvalidEventError(
            Reason.TOO_LONG,
            f"{_bare(path)} has {len(value)} characters, {max_characters} at most: {shown(value)}",
        )
    if has_lone_surrogate(value):
        raise InvalidEventError(Reason.LONE_SURROGATE, f"{_bare(path)} holds a lone surrogate: {shown(value)}")


def _bare(name: str) -> str:
    return shown(name).strip('"')


def _free_key(key: str, taken: Container[str]) -> str:
    while key in taken:
        key = CLASH_PREFIX + key
    return key


def _to_text(key: str, value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    try:
        return _compact(value)
    except ValueError:
        raise InvalidEventError(
            Reason.OUT_OF_RANGE, f"attribute {shown(key)} holds a number that is not finite: {shown(value)}"
        ) from None


def _refuse_type(path: str, value: Any, wanted: str) -> NoReturn:
    raise InvalidEventError(Reason.WRONG_TYPE, f"{path} is {shown(value)}, not {wanted}")
