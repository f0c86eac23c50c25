"""The event contract: the one place that says which fields an event has, and what each of them may hold.

Everything else derives from FIELDS: the schema of the decoded frame, the rules of both decoders, the columns
of raw_events, and docs/event.md.
"""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import Self
from uuid import UUID

import polars as pl

IDENTITY = ("service", "endpoint", "timestamp", "event_id")
"""Two events are the same if these columns are equal; also the sort key of raw_events."""

EVENT_ID_NAMESPACE = UUID("6f1d3a52-8c0e-4b77-9a41-2f5f8d0c7e13")
"""An event_id that is no UUID becomes UUIDv5 of itself in this namespace.

Changing it would double every such event that is replayed."""

MAX_MESSAGE_BYTES = 256 << 10
MAX_DEPTH = 64
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_KEY_CHARACTERS = 128
MAX_ATTRIBUTE_VALUE_CHARACTERS = 4_096
MAX_PAYLOAD_BYTES = 2 << 20
"""A dead letter keeps this much of its payload: more than Kafka's default `max.message.bytes`."""

MIN_TIMESTAMP_MS = 0
MAX_TIMESTAMP_MS = 4_291_747_199_999
"""2105-12-31T23:59:59.999Z: later instants don't fit all of ClickHouse's types of dates."""

CLASH_PREFIX = "field."
"""Put before the name of an unknown field, as often as needed, where an attribute has that name already."""

_INSTANT = pl.Datetime("ms", "UTC")
_CLICKHOUSE_INSTANT = "DateTime64(3, 'UTC')"
_ATTRIBUTES = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))


class Kind(Enum):
    """What a field's JSON value may be."""

    ID = auto()
    TIMESTAMP = auto()
    TEXT = auto()
    INTEGER = auto()
    NUMBER = auto()
    ATTRIBUTES = auto()


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the decoded frame and of raw_events. `codec` is "" for the server's default.

    `default` is what the server takes where an insert doesn't name the column, as it prints it.
    """

    name: str
    polars_type: pl.DataType
    clickhouse_type: str
    codec: str
    comment: str
    default: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the JSON document; `path` is its name, or `customer.<name>` for a field of an object within.

    Limits are inclusive; strings are measured in characters (code points). A required one may not be empty.
    """

    path: str
    kind: Kind
    column: Column
    required: bool = False
    default: str = ""
    max_characters: int = 0
    minimum: float = 0
    maximum: float = 0

    @property
    def parent(self) -> str:
        """Name of the object that holds the field; "" for the document itself."""
        return self.path.rpartition(".")[0]

    @property
    def name(self) -> str:
        """Name within the object that holds the field."""
        return self.path.rpartition(".")[2]


def _low_cardinality(name: str, comment: str) -> Column:
    return Column(name, pl.String(), "LowCardinality(String)", "", comment)


def _word(path: str, comment: str, max_characters: int, *, required: bool = False, default: str = "") -> Field:
    """A text of which few values exist, in a column of the same name."""
    column = _low_cardinality(path.rpartition(".")[2], comment)
    return Field(path, Kind.TEXT, column, required, default, max_characters)


FIELDS = (
    Field(
        "event_id",
        Kind.ID,
        Column("event_id", pl.String(), "UUID", "NONE", "Sender's id; UUIDv5 of it if it is no UUID"),
        required=True,
        max_characters=256,
    ),
    Field(
        "timestamp",
        Kind.TIMESTAMP,
        Column("timestamp", _INSTANT, _CLICKHOUSE_INSTANT, "Delta, ZSTD(1)", "When the request was handled"),
        required=True,
        minimum=MIN_TIMESTAMP_MS,
        maximum=MAX_TIMESTAMP_MS,
    ),
    _word("service", "Service that handled the request", 128, required=True),
    _word("endpoint", "Route pattern, not the path with its ids", 512, required=True),
    _word("method", "HTTP method or kind of call", 32),
    Field(
        "status",
        Kind.INTEGER,
        Column("status", pl.UInt16(), "UInt16", "T64, ZSTD(1)", "HTTP status code"),
        required=True,
        minimum=100,
        maximum=599,
    ),
    Field(
        "latency_ms",
        Kind.NUMBER,
        Column("latency_ms", pl.Float64(), "Float64", "ZSTD(1)", "Time until the answer, milliseconds"),
        required=True,
        minimum=0,
        maximum=86_400_000,
    ),
    Field(
        "customer.id",
        Kind.TEXT,
        Column("customer_id", pl.String(), "String", "ZSTD(1)", "Customer that sent the request"),
        max_characters=256,
    ),
    _word("customer.tier", "Customer's tier", 64, default="unknown"),
    _word("region", "Region of the service", 64),
    _word("host", "Host or pod of the service", 256),
    Field(
        "attributes",
        Kind.ATTRIBUTES,
        Column(
            "attributes",
            _ATTRIBUTES,
            "Map(LowCardinality(String), String)",
            "ZSTD(1)",
            "Anything else: keys to texts, unknown fields included",
        ),
    ),
)

LINEAGE = (
    Column("kafka_partition", pl.UInt32(), "UInt32", "T64, ZSTD(1)", "Partition of the message"),
    Column("kafka_offset", pl.UInt64(), "UInt64", "Delta, ZSTD(1)", "Offset of the message"),
    Column(
        "kafka_timestamp",
        _INSTANT,
        _CLICKHOUSE_INSTANT,
        "Delta, ZSTD(1)",
        "Time of the message, cut to 1970-2105; 1970-01-01 if it has none",
    ),
)

RAW_COLUMNS: tuple[Column, ...] = (*(f.column for f in FIELDS), *LINEAGE)
"""The columns of raw_events that drains write, in order."""


def promoted(key: str, name: str = "", comment: str = "") -> Column:
    """An attribute as a column of its own, which is read without its map.

    Drains don't write it. The server takes it from the attributes, so rows from before have it, too, and rows that an
    older version inserts.
    """
    text = key.replace("\\", "\\\\").replace("'", "\\'")
    return replace(_low_cardinality(name or key, comment or f"Attribute {key}"), default=f"attributes['{text}']")


PROMOTED: tuple[Column, ...] = ()
"""Attributes that are columns, too: `promoted("version")`. Put new ones at the end, and run `schema apply`."""

TABLE_COLUMNS: tuple[Column, ...] = (*RAW_COLUMNS, *PROMOTED)
"""The columns of raw_events, in order."""

EVENT_SCHEMA = pl.Schema({c.name: c.polars_type for c in RAW_COLUMNS})
DEAD_LETTER_SCHEMA = pl.Schema(
    {c.name: c.polars_type for c in LINEAGE}
    | dict.fromkeys(("reason", "detail", "service"), pl.String())
    | {"payload": pl.Binary()}
)
NO_EVENTS = pl.DataFrame(schema=EVENT_SCHEMA)
NO_DEAD_LETTERS = pl.DataFrame(schema=DEAD_LETTER_SCHEMA)


class Reason(StrEnum):
    """Why a message became a dead letter. The code is what the table holds."""

    TOMBSTONE = "tombstone", "The message has no value (null)."
    EMPTY = "empty", "The message has no bytes, or white space only."
    TOO_LARGE = "too_large", f"The message has more than {MAX_MESSAGE_BYTES:,} bytes; it is not parsed."
    INVALID_UTF8 = "invalid_utf8", "The bytes are no UTF-8."
    TRUNCATED = "truncated", "The JSON document ends before it is complete."
    INVALID_JSON = "invalid_json", "The text is no JSON."
    TRAILING_DATA = "trailing_data", "Something follows the JSON object: a second document, say."
    TOO_DEEP = "too_deep", f"Objects and arrays are nested more than {MAX_DEPTH} levels deep."
    NOT_AN_OBJECT = "not_an_object", "The JSON document is an array, a string, a number, a boolean or null."
    MISSING_FIELD = "missing_field", "A required field is absent."
    NULL_FIELD = "null_field", "A required field is null."
    EMPTY_FIELD = "empty_field", "A required string is empty."
    WRONG_TYPE = "wrong_type", "A field has another JSON type than the contract says."
    OUT_OF_RANGE = "out_of_range", "A number is outside its limits, or not finite, or has too many digits."
    INVALID_TIMESTAMP = "invalid_timestamp", "The timestamp can't be read, or names no offset from UTC."
    TIMESTAMP_IN_FUTURE = "timestamp_in_future", "The timestamp is too far ahead of the message's own."
    TIMESTAMP_TOO_OLD = "timestamp_too_old", "The timestamp is too far behind the message's own."
    TOO_LONG = "too_long", "A string is longer than its limit."
    TOO_MANY_ATTRIBUTES = (
        "too_many_attributes",
        f"There are more than {MAX_ATTRIBUTES} attributes, unknown fields included.",
    )
    LONE_SURROGATE = (
        "lone_surrogate",
        "A string holds half of a UTF-16 pair (like \\ud800), which is no character.",
    )
    REFUSED = (
        "refused",
        "ClickHouse refuses the row, by a constraint on raw_events for instance; `detail` has its words.",
    )

    def __new__(cls, code: str, description: str) -> Self:
        member = str.__new__(cls, code)
        member._value_ = code
        member.description = description
        return member

    description: str
