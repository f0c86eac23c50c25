"""The exact path: one message after the other, clarity first.

It decides what a message is, and why it is no event.
"""

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from msgspec import MsgspecError
from msgspec.json import Decoder

from metrics_pipeline.event.contract import FIELDS, MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, Reason
from metrics_pipeline.event.validate import EventLimits, InvalidEventError, has_lone_surrogate, shown, validate

_parse_quickly = Decoder().decode

_WHITE_SPACE = " \t\n\r"
_BYTE_ORDER_MARK = "\ufeff"
_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[{\[]|[}\]]', re.DOTALL)
"""A string without an end reaches to the end: trying again at each quote within it would take quadratic time."""
_STEPS = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}

_CUT_TOKEN = re.compile(r"t|tr|tru|f|fa|fal|fals|n|nu|nul|-|\.|[eE][+-]?|\\?u?[0-9a-fA-F]{0,4}")
"""What may be left of a document behind the position of an error if the document was cut there."""

_SERVICE_HINT = re.compile(rb'"service"\s*:\s*("(?:[^"\\]|\\.){1,1000}")')
_HINT_BYTES = 4_096
_MAX_SERVICE_CHARACTERS = next(f.max_characters for f in FIELDS if f.path == "service")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message is no event. `service` is "" where it could not be read."""

    reason: Reason
    detail: str
    service: str


def decode_exact(value: bytes | None, message_ms: int, limits: EventLimits) -> list[Any] | DeadLetter:
    """One message: an event (see `validate`) or why it is none. Never raises, whatever the bytes."""
    document: dict[str, Any] | None = None
    try:
        document = parse(value)
        return validate(document, message_ms, limits)
    except InvalidEventError as error:
        service = _service_hint(value) if document is None else document.get("service")
        return DeadLetter(error.reason, _detail(error, value), _known_service(service))


def parse(value: bytes | None) -> dict[str, Any]:
    """The JSON object that a message holds; the last one of equal keys wins. Raises InvalidEventError."""
    if value is None:
        raise InvalidEventError(Reason.TOMBSTONE, "the value is null")
    if len(value) > MAX_MESSAGE_BYTES:
        raise InvalidEventError(Reason.TOO_LARGE, f"the value has {len(value)} bytes, {MAX_MESSAGE_BYTES} at most")
    if _is_too_deep(value):
        raise InvalidEventError(Reason.TOO_DEEP, f"the value is nested more than {MAX_DEPTH} levels deep")
    try:
        document = _parse_quickly(value)
    except (MsgspecError, UnicodeError):
        document = _parse_with_reasons(value)
    if type(document) is not dict:
        raise InvalidEventError(Reason.NOT_AN_OBJECT, f"the document is {shown(document)}")
    return document


def _is_too_deep(value: bytes) -> bool:
    """Exact up to the first error in the text, and a parser that stops there never goes deeper."""
    if value.count(b"{") + value.count(b"[") <= MAX_DEPTH:
        return False
    tokens = _STRING_OR_BRACKET.findall(value)
    return max(accumulate(_STEPS.get(token, 0) for token in tokens)) > MAX_DEPTH


def _parse_with_reasons(value: bytes) -> Any:
    """The standard library's parser is the judge: slower, takes a little more, and says where it fails."""
    text = _to_text(value).removeprefix(_BYTE_ORDER_MARK)
    if not text.strip(_WHITE_SPACE):
        raise InvalidEventError(Reason.EMPTY, f"the value is {len(value)} bytes of nothing")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidEventError(
            _why_no_json(text, error), f"{error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except ValueError as error:
        # Python refuses to convert integers of thousands of digits.
        raise InvalidEventError(Reason.OUT_OF_RANGE, f"an integer is too large: {error}") from None


def _to_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        was_cut = error.end == len(value) and error.reason == "unexpected end of data"
        reason = Reason.TRUNCATED if was_cut and value.lstrip().startswith(b"{") else Reason.INVALID_UTF8
        raise InvalidEventError(reason, f"byte {error.start} is no UTF-8: {error.reason}") from None


def _why_no_json(text: str, error: json.JSONDecodeError) -> Reason:
    is_object = text.lstrip(_WHITE_SPACE).startswith("{")
    if error.msg.startswith("Extra data"):
        return Reason.TRAILING_DATA if is_object else Reason.INVALID_JSON
    rest = text[error.pos :].strip(_WHITE_SPACE)
    was_cut = error.msg.startswith("Unterminated string") or not rest or _CUT_TOKEN.fullmatch(rest)
    return Reason.TRUNCATED if was_cut and is_object else Reason.INVALID_JSON


def _detail(error: InvalidEventError, value: bytes | None) -> str:
    if value is None or len(value) <= MAX_PAYLOAD_BYTES:
        return error.detail
    return f"{error.detail}; the payload is cut to its first {MAX_PAYLOAD_BYTES} bytes"


def _service_hint(value: bytes | None) -> Any:
    """Something that looks like the service, near the start of a message that can't be parsed."""
    match = _SERVICE_HINT.search(value[:_HINT_BYTES]) if value else None
    try:
        return json.loads(match[1]) if match else None
    except ValueError:
        return None


def _known_service(service: Any) -> str:
    """The service, if it is one that an event could have: dead letters are filtered by it."""
    if not isinstance(service, str) or len(service) > _MAX_SERVICE_CHARACTERS or has_lone_surrogate(service):
        return ""
    return service
