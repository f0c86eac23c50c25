"""docs/event.md, printed from the contract: `make generated`."""

from collections.abc import Iterator

from metrics_pipeline.event.contract import (
    CLASH_PREFIX,
    EVENT_ID_NAMESPACE,
    FIELDS,
    IDENTITY,
    MAX_ATTRIBUTE_KEY_CHARACTERS,
    MAX_ATTRIBUTE_VALUE_CHARACTERS,
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_MESSAGE_BYTES,
    MAX_PAYLOAD_BYTES,
    RAW_COLUMNS,
    Field,
    Kind,
    Reason,
)

_JSON_TYPES = {
    Kind.ID: "string",
    Kind.TIMESTAMP: "string or integer",
    Kind.TEXT: "string",
    Kind.INTEGER: "integer",
    Kind.NUMBER: "number",
    Kind.ATTRIBUTES: "object",
}


_INTRODUCTION = """\
<!-- Generated: make generated -->
# An event

A message holds one event: a JSON object in UTF-8, of these fields.
"""

_RULES = f"""\
## Rules

- **Optional fields** that are absent or null have their default: `""`, or the one in the table.
- **`event_id`**: a UUID in any case, also without dashes, in braces or after `urn:uuid:`, is that UUID.
  Any other string becomes UUIDv5 of itself in the namespace `{EVENT_ID_NAMESPACE}`.
- **`timestamp`** is RFC 3339 with an offset (`Z`, `+02:00`), or epoch milliseconds as an integer.
  Digits beyond milliseconds are cut off. A leap second (`:60`) can't be read.
- **How far** a timestamp may be from the time of its Kafka message is a setting
  (`METRICS_EVENTS__MAX_AGE_DAYS`, `METRICS_EVENTS__MAX_FUTURE_SECONDS`). The pipeline's clock plays no part,
  so an event that is read again is judged as before. A message without a time isn't judged.
- **Numbers**: `200.0` and `2e2` are the integer 200. A boolean is no number, nor is a string of digits.
  `-0` is 0.
- **Unknown fields** are kept in `attributes` under their name, those within `customer` as `customer.<name>`.
  Where an attribute has that name, `{CLASH_PREFIX}` is put before it, as often as needed.
- **Attributes** are texts. A value that is no string is kept as compact JSON (`3`, `true`, `{{"a":[1,2]}}`),
  null as `""`.
- **Duplicate keys**: the last one wins, in every object, whatever the ones before it held.
- **Characters**: any that Unicode has, NUL included. A byte order mark before the document is skipped.
- **Two events are the same** if {", ".join(f"`{name}`" for name in IDENTITY)} are equal; the first is kept.
- **A message** has at most {MAX_MESSAGE_BYTES:,} bytes and {MAX_DEPTH} levels of nesting.
"""

_DEAD_LETTERS = f"""
## Dead letters

A message that is no valid event is kept in `dead_letters` with its payload (its first {MAX_PAYLOAD_BYTES:,}
bytes), partition and offset, a sentence that names the field and its value, the service where it could be
read, and a reason:

| reason | what it means |
|---|---|"""


def reference() -> str:
    """The contract as Markdown: docs/event.md."""
    return "\n".join([_INTRODUCTION, *_field_table(), "", _RULES, *_column_table(), *_reason_table(), ""])


def _field_table() -> Iterator[str]:
    yield "| field | JSON type | required | limits | what |"
    yield "|---|---|---|---|---|"
    for field in FIELDS:
        required = "yes" if field.required else f"no: `{field.default}`" if field.default else "no"
        json_type, comment = _JSON_TYPES[field.kind], field.column.comment
        yield f"| `{field.path}` | {json_type} | {required} | {_limits(field)} | {comment} |"


def _limits(field: Field) -> str:
    match field.kind:
        case Kind.ATTRIBUTES:
            return (
                f"{MAX_ATTRIBUTES} names of {MAX_ATTRIBUTE_KEY_CHARACTERS} characters, "
                f"values of {MAX_ATTRIBUTE_VALUE_CHARACTERS:,}"
            )
        case Kind.TIMESTAMP:
            return "1970-2105"
        case Kind.INTEGER | Kind.NUMBER:
            return f"{field.minimum:,} to {field.maximum:,}"
    smallest = "1 to " if field.required else "up to "
    return f"{smallest}{field.max_characters} characters"


def _column_table() -> Iterator[str]:
    yield "## Columns of `raw_events`"
    yield ""
    yield "| column | ClickHouse | Polars | from | what |"
    yield "|---|---|---|---|---|"
    paths = {f.column.name: f"`{f.path}`" for f in FIELDS}
    for column in RAW_COLUMNS:
        source = paths.get(column.name, "Kafka")
        types = f"`{column.clickhouse_type}` | `{column.polars_type}`"
        yield f"| `{column.name}` | {types} | {source} | {column.comment} |"


def _reason_table() -> Iterator[str]:
    yield _DEAD_LETTERS
    for reason in Reason:
        yield f"| `{reason}` | {reason.description} |"
