"""Events that are legal but look odd: each must land like its plain form."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from metrics_pipeline.event.contract import FIELDS
from metrics_pipeline.event.validate import event_uuid, timestamp_ms

_REQUIRED = ("event_id", "timestamp", "service", "endpoint", "status", "latency_ms")
_NO_TIER = next(field.default for field in FIELDS if field.path == "customer.tier")
_OFFSET = timezone(timedelta(hours=2))


@dataclass(frozen=True, slots=True)
class Odd:
    """How a kind is written. `new_id` turns the event's id into the one that is sent."""

    write: Callable[[dict[str, Any]], str]
    new_id: Callable[[str], str] = str
    loses_tier: bool = False


def kind_at(ordinal: int) -> str:
    """The kind of the odd event number `ordinal`: all in rotation."""
    return list(KINDS)[ordinal % len(KINDS)]


def stored(kind: str, event_id: str, tier: str) -> tuple[str, str]:
    """The event's id and tier as the pipeline stores them."""
    return event_uuid(KINDS[kind].new_id(event_id)), _NO_TIER if KINDS[kind].loses_tier else tier


def disguise(kind: str, text: str) -> str:
    """The event of this JSON text in another form."""
    document = json.loads(text)
    form = KINDS[kind]
    return form.write(document | {"event_id": form.new_id(document["event_id"])})


def compact(document: Any) -> str:
    """The shortest JSON text."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def _escaped(document: dict[str, Any]) -> str:
    text = compact(document).replace("/", r"\/")
    service = document["service"]
    return text.replace(f'"{service}"', '"' + "".join(f"\\u{ord(c):04x}" for c in service) + '"')


def _number_forms(document: dict[str, Any]) -> str:
    return (
        compact(document | {"status": "\0", "latency_ms": "\1"})
        .replace(r'"\u0000"', f"{document['status']}.0")
        .replace(r'"\u0001"', f"{document['latency_ms']!r}E+0")
    )


def _with_offset(timestamp: str) -> str:
    return datetime.fromisoformat(timestamp).astimezone(_OFFSET).isoformat(timespec="milliseconds")


def _with_unicode(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"host": "wéb-七", "attributes": {"note": "naïve 🚀 \u202eשלום\u0000", "": '\\"\t'}}


def _with_unknown_fields(document: dict[str, Any]) -> dict[str, Any]:
    customer = document["customer"] | {"plan": None}
    return document | {"customer": customer, "trace_id": document["event_id"][:8], "spans": [1, {"deep": [True]}]}


KINDS: Mapping[str, Odd] = {
    "pretty_printed": Odd(lambda d: json.dumps(d, indent=2)),
    "escaped": Odd(_escaped),
    "unicode": Odd(lambda d: compact(_with_unicode(d))),
    "escaped_unicode": Odd(lambda d: json.dumps(_with_unicode(d))),
    "plain_id": Odd(compact, new_id=lambda event_id: f"request {event_id}"),
    "upper_case_id": Odd(compact, new_id=str.upper),
    "urn_id": Odd(compact, new_id=lambda event_id: f"urn:uuid:{event_id}"),
    "id_without_dashes": Odd(compact, new_id=lambda event_id: event_id.replace("-", "")),
    "unknown_fields": Odd(lambda d: compact(_with_unknown_fields(d))),
    "required_fields_only": Odd(lambda d: compact({k: d[k] for k in _REQUIRED}), loses_tier=True),
    "null_fields": Odd(lambda d: compact(d | {"customer": None, "attributes": None, "region": None}), loses_tier=True),
    "epoch_milliseconds": Odd(lambda d: compact(d | {"timestamp": timestamp_ms(d["timestamp"])})),
    "utc_offset": Odd(lambda d: compact(d | {"timestamp": _with_offset(d["timestamp"])})),
    "duplicate_keys": Odd(lambda d: '{"status":"first",' + compact(d)[1:]),
    "number_forms": Odd(_number_forms),
    "typed_attributes": Odd(lambda d: compact(d | {"attributes": {"retries": 3, "hit": True, "ms": [1, 2.5]}})),
    "reversed_fields": Odd(lambda d: compact(dict(reversed(d.items())))),
    "byte_order_mark": Odd(lambda d: "\ufeff" + compact(d)),
    "white_space": Odd(lambda d: f"\r\n\t {compact(d)} \n"),
}
