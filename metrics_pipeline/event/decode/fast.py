"""The fast path: typed parsing, then whole columns at a time. It never decides that a message is bad.

It leaves to the exact path whatever it isn't sure of, so it may be narrower than the contract but never wider:
the parser refuses what is beyond the limits, and columns are checked for the rest.
"""

from collections.abc import Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Annotated, Any, cast

import polars as pl
from msgspec import Meta, MsgspecError, Struct, ValidationError, defstruct
from msgspec import field as msgspec_field
from msgspec.json import Decoder

from metrics_pipeline.event.contract import (
    FIELDS,
    MAX_ATTRIBUTE_KEY_CHARACTERS,
    MAX_ATTRIBUTE_VALUE_CHARACTERS,
    MAX_ATTRIBUTES,
    MAX_MESSAGE_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    Field,
    Kind,
)
from metrics_pipeline.event.decode.exact import parse
from metrics_pipeline.event.decode.frame import ROW, events_frame
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.validate import EventLimits, InvalidEventError, attributes, event_uuid, timestamp_ms

_CANONICAL_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_COMMON_TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{3}[0-9]*)?(?:Z|\+00:00)$"
_TO_THE_SECOND = "%Y-%m-%dT%H:%M:%S"


def decode_fast(messages: Messages, limits: EventLimits) -> tuple[pl.DataFrame, list[int]]:
    """The events (see `events_frame`) of all messages beyond doubt, and the indices of the others."""
    rows, parsed, doubtful = _parse(messages.values)
    columns = _columns(parsed)
    message_ms = [messages.timestamps_ms[row] for row in rows] if doubtful else messages.timestamps_ms
    columns["event_id"] = _canonical_ids(columns["event_id"])
    columns["timestamp"] = _timestamps_ms(columns["timestamp"])
    good = _are_in_time(columns["timestamp"], pl.Series(message_ms, dtype=pl.Int64), limits)
    events = events_frame(rows, columns)
    if not good.all():
        doubtful = sorted([*doubtful, *events.filter(~good)[ROW].to_list()])
        events = events.filter(good)
    return events, doubtful


_Member = tuple[str, Any] | tuple[str, Any, Any]


def _event_type(*, is_open: bool) -> type[Struct]:
    """The contract as a type to parse into; an open one passes over unknown fields and takes any attributes."""
    # In the order of the contract: a document that keeps it is parsed faster.
    members: dict[str, _Member] = {}
    for field in FIELDS:
        if not field.parent:
            members[field.name] = _member(field, is_open=is_open)
        elif field.parent not in members:
            inner = [_member(f, is_open=is_open) for f in FIELDS if f.parent == field.parent]
            members[field.parent] = (field.parent, _struct(field.parent, inner, is_open=is_open) | None, None)
    return _struct("Event", list(members.values()), is_open=is_open)


def _struct(name: str, members: Sequence[_Member], *, is_open: bool) -> type[Struct]:
    return defstruct(name, members, forbid_unknown_fields=not is_open, gc=False, kw_only=True)


def _member(field: Field, *, is_open: bool) -> _Member:
    if field.kind is Kind.ATTRIBUTES:
        return field.name, Any if is_open else _value_type(field) | None, msgspec_field(default_factory=dict)
    if field.required:
        return field.name, _value_type(field)
    return field.name, _value_type(field) | None, field.default


def _value_type(field: Field) -> Any:
    match field.kind:
        case Kind.TIMESTAMP:
            return str | Annotated[int, Meta(ge=MIN_TIMESTAMP_MS, le=MAX_TIMESTAMP_MS)]
        case Kind.INTEGER:
            return Annotated[int, Meta(ge=int(field.minimum), le=int(field.maximum))]
        case Kind.NUMBER:
            return Annotated[float, Meta(ge=field.minimum, le=field.maximum)]
        case Kind.ATTRIBUTES:
            key = Annotated[str, Meta(max_length=MAX_ATTRIBUTE_KEY_CHARACTERS)]
            value = Annotated[str, Meta(max_length=MAX_ATTRIBUTE_VALUE_CHARACTERS)]
            return Annotated[dict[key, value], Meta(max_length=MAX_ATTRIBUTES)]
    return Annotated[str, Meta(min_length=int(field.required), max_length=field.max_characters)]


_PARSER = Decoder(_event_type(is_open=False))
_OPEN_PARSER = Decoder(_event_type(is_open=True))
_ABSENT = {
    parent: SimpleNamespace(**{f.name: f.default for f in FIELDS if f.parent == parent})
    for parent in dict.fromkeys(f.parent for f in FIELDS if f.parent)
}
"""What stands in for inner objects that are absent."""


def _parse(values: Sequence[bytes | None]) -> tuple[list[int], list[Struct], list[int]]:
    """Indices and parsed events of what the parser takes, and the indices of the rest."""
    rows, parsed, doubtful = [], [], []
    decode = _PARSER.decode
    for row, value in enumerate(values):
        event: Struct | None = None
        if value is not None and len(value) <= MAX_MESSAGE_BYTES:
            try:
                event = decode(value)
            except ValidationError:
                event = _parse_despite_unknown_fields(value)
            except (MsgspecError, UnicodeError):
                event = None
        if event is None:
            doubtful.append(row)
        else:
            rows.append(row)
            parsed.append(event)
    return rows, parsed, doubtful


def _parse_despite_unknown_fields(value: bytes) -> Struct | None:
    """The event, if unknown fields and attributes that are no texts are all that the parser minds.

    A service may begin to send a new field with every event, so this has to be quick, too.
    """
    try:
        # First of all the whole document: an open parser doesn't look at what it passes over.
        kept = attributes(parse(value))
        event: Any = _OPEN_PARSER.decode(value)
    except (InvalidEventError, MsgspecError):
        return None
    event.attributes = kept
    return cast("Struct", event)


def _columns(parsed: Sequence[Struct]) -> dict[str, Any]:
    """Path of each field -> its values."""
    holders: dict[str, Sequence[Any]] = {"": parsed}
    for parent, absent in _ABSENT.items():
        holders[parent] = [holder or absent for holder in map(attrgetter(parent), parsed)]
    # No tuple per event: the garbage collector would count and walk them.
    return {f.path: list(map(attrgetter(f.name), holders[f.parent])) for f in FIELDS}


def _canonical_ids(ids: Sequence[str]) -> pl.Series:
    given = pl.Series(ids, dtype=pl.String)
    is_canonical = given.str.contains(_CANONICAL_UUID)
    if is_canonical.all():
        return given
    canonical = [text if fine else event_uuid(text) for text, fine in zip(ids, is_canonical, strict=True)]
    return pl.Series(canonical, dtype=pl.String)


def _timestamps_ms(given: Sequence[str | int]) -> pl.Series:
    """Epoch milliseconds; null where they can't be read."""
    texts = pl.Series([v if type(v) is str else None for v in given], dtype=pl.String)
    numbers = pl.Series([v if type(v) is int else None for v in given], dtype=pl.Int64)
    times_ms = pl.DataFrame({"text": texts, "number": numbers}).select(_COMMON_FORM_MS).to_series()
    if not times_ms.null_count():
        return times_ms
    uncommon = (_uncommon_ms(v) if ms is None else ms for ms, v in zip(times_ms, given, strict=True))
    return pl.Series(list(uncommon), dtype=pl.Int64)


def _uncommon_ms(given: str | int) -> int | None:
    try:
        return timestamp_ms(given)
    except InvalidEventError:
        return None


def _common_form_ms() -> pl.Expr:
    text = pl.col("text")
    # The fraction apart: to the second, Polars has a parser that is several times faster.
    seconds = text.str.slice(0, 19).str.to_datetime(_TO_THE_SECOND, time_unit="ms", strict=False)
    fraction_ms = text.str.slice(20, 3).cast(pl.Int64, strict=False).fill_null(0)
    is_common = text.str.contains(_COMMON_TIMESTAMP)
    return pl.when(is_common).then(seconds.cast(pl.Int64) + fraction_ms).otherwise("number")


_COMMON_FORM_MS = _common_form_ms()


def _are_in_time(event_ms: pl.Series, message_ms: pl.Series, limits: EventLimits) -> pl.Series:
    event, message = pl.lit(event_ms), pl.lit(message_ms)
    is_near = (event - message).is_between(-limits.max_age_ms, limits.max_future_ms)
    is_possible = event.is_between(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS)
    return pl.select((is_possible & (is_near | (message <= 0))).fill_null(value=False)).to_series()
