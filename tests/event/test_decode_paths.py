"""The fast path, the exact path and the standard library's parser say the same about every message."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import polars as pl
from hypothesis import example, given, note, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from metrics_pipeline.event.contract import FIELDS, MAX_TIMESTAMP_MS
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.decode.exact import DeadLetter, decode_exact, parse
from metrics_pipeline.event.decode.fast import decode_fast
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.validate import InvalidEventError

MESSAGE_MS = 1_793_700_931_000
DAY_MS = 86_400_000
LIMITS = EventLimits(max_age_ms=400 * DAY_MS, max_future_ms=3_600_000)

EXAMPLES_FACTOR = int(os.environ.get("DECODE_EXAMPLES_FACTOR", "1"))
"""Above 1: so many times the examples, other ones in each run."""


def seeded(max_examples: int) -> settings:
    return settings(max_examples=max_examples * EXAMPLES_FACTOR, derandomize=EXAMPLES_FACTOR == 1, deadline=None)


def one_of(*groups: list[str]) -> st.SearchStrategy[str]:
    return st.sampled_from([text for group in groups for text in group])


def quoted(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda text, as_ascii: json.dumps(text, ensure_ascii=as_ascii), texts, st.booleans())


# Without an offset, so that one can be appended.
FIRST, LAST = datetime(2026, 1, 1), datetime(2026, 11, 1)  # noqa: DTZ001


def instants(separators: str, fractions: list[str], offsets: list[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda moment, separator, fraction, offset: f"{moment:%Y-%m-%d}{separator}{moment:%H:%M:%S}{fraction}{offset}",
        st.datetimes(FIRST, LAST),
        st.sampled_from(separators),
        st.sampled_from(fractions),
        st.sampled_from(offsets),
    )


TEXTS = st.one_of(
    st.text(max_size=12),
    one_of(["", "\0", "😀", "é", "a" * 300, "field.x", "tier"], ["\ud800", "\udc00x", "\u2028", "\x7f"]),
)
OTHER_JSON = one_of(
    ["null", "true", "[]", "{}", "0", "-0", "1.5", "1e400", "NaN", "-Infinity", "9" * 40, "9" * 4_400],
    ['""', '{"a":1,"a":"2"}', "[" * 70 + "]" * 70, '"\\ud83d\\ude00"', '"\\ud83d"', '"\\u0000"'],
    ["1.", "01", "tru", "'a'"],
)
UUID_FORMS: list[Callable[[str], str]] = [
    str.upper,
    lambda s: s[:8].upper() + s[8:],
    "{{{}}}".format,
    "urn:uuid:{}".format,
]
UUID_TEXTS = st.one_of(
    st.uuids().map(str),
    st.builds(lambda identity, form: form(str(identity)), st.uuids(), st.sampled_from(UUID_FORMS)),
    st.uuids().map(lambda identity: identity.hex),
    st.uuids().map(lambda identity: str(identity)[:-1]),
)
INSTANTS = instants("T", ["", ".123", ".123", ".123456", ".123999999"], ["Z", "Z", "Z", "+00:00"])
SLOW_INSTANTS = instants("Tt ", ["", ".1", ".12", "." + "9" * 30], ["Z", "z", "-00:00", "+02:00", "-23:59"])
ODD_INSTANTS = st.one_of(
    instants("T", ["", ".123"], ["+24:00", "+0000", "+02"]),
    instants("T_", [".", ",123", ".123"], ["Z", "", "z\n", " Z"]),
    one_of(
        ["2026-11-03T10:15:60Z", "2026-11-03T24:00:00Z", "2026-02-29T00:00:00Z", "0000-01-01T00:00:00.000Z"],
        ["9999-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z", "2105-12-31T23:59:59.999Z"],
        ["2106-01-01T00:00:00Z", "2026-11-3T10:15:30Z", "+2026-11-03T10:15:30Z", "2026-11- 3T10:15:30Z"],
        ["1793700930123", "2026-11-03T10:15:30.12aZ", "\u0662026-11-03T10:15:30Z", ""],
    ),
)
NUMBERS = st.one_of(
    st.integers(-1, 700).map(str),
    st.floats(-1, 1e8).map(repr),
    st.sampled_from(["99", "100", "599", "600", "-0", "-0.0", "200.0", "2e2", "200.5", "86400000", "86400000.1"]),
    st.sampled_from(["5e-324", "1e-400", "0.1000000000000000055511151231257827", "9007199254740993", "1E+2"]),
)
EPOCHS = st.one_of(
    st.integers(MESSAGE_MS - 500 * DAY_MS, MESSAGE_MS + 2 * 3_600_000),
    st.sampled_from([-1, 0, MESSAGE_MS // 1_000, MAX_TIMESTAMP_MS, MAX_TIMESTAMP_MS + 1, 2**63, 10**40]),
).map(str)
MAPS = st.lists(st.tuples(quoted(TEXTS), st.one_of(quoted(TEXTS), OTHER_JSON)), max_size=4).map(
    lambda pairs: "{" + ",".join(f"{key}: {value}" for key, value in pairs) + "}"
)
CUSTOMERS = st.lists(
    st.tuples(st.sampled_from(["id", "tier", "plan"]), st.one_of(quoted(TEXTS), OTHER_JSON)), max_size=3
).map(lambda pairs: "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}")

VALID: dict[str, st.SearchStrategy[str]] = {
    "event_id": quoted(UUID_TEXTS),
    "timestamp": st.one_of(
        quoted(INSTANTS), quoted(SLOW_INSTANTS), st.integers(MESSAGE_MS - 300 * DAY_MS, MESSAGE_MS).map(str)
    ),
    "service": st.just('"checkout"'),
    "endpoint": st.just('"/cart/:id/pay"'),
    "method": st.just('"POST"'),
    "status": st.one_of(st.integers(100, 599).map(str), st.just("200.0")),
    "latency_ms": st.floats(0, 1e4).map(repr),
    "customer": st.just('{"id": "c42", "tier": "enterprise"}'),
    "region": st.just('"eu-west-1"'),
    "host": quoted(st.text(max_size=8).filter(lambda s: s.isascii())),
    "attributes": st.just('{"version": "1.2.3"}'),
}
ODD: dict[str, st.SearchStrategy[str]] = {
    "event_id": quoted(TEXTS),
    "timestamp": st.one_of(quoted(ODD_INSTANTS), NUMBERS, EPOCHS),
    "status": st.one_of(NUMBERS, quoted(NUMBERS)),
    "latency_ms": NUMBERS,
    "customer": CUSTOMERS,
    "attributes": MAPS,
}
UNKNOWN_NAMES = st.sampled_from(["unknown", "customer.id", "customer.plan", "version", "field.version", "tier", ""])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """The text of a valid event with a few fields dropped, doubled, replaced or added, in any order."""
    pairs = [(name, draw(values)) for name, values in VALID.items()]
    for _ in range(draw(st.integers(0, 2))):
        match draw(st.sampled_from(["unknown", "unknown", "drop", "replace", "add", "shuffle"])):
            case "unknown":
                pairs.append((draw(UNKNOWN_NAMES), draw(st.one_of(quoted(st.text(max_size=8)), MAPS))))
            case "drop" if pairs:
                pairs.pop(draw(st.integers(0, len(pairs) - 1)))
            case "replace" if pairs:
                at = draw(st.integers(0, len(pairs) - 1))
                name = pairs[at][0]
                pairs[at] = (name, draw(st.one_of(ODD.get(name, quoted(TEXTS)), OTHER_JSON)))
            case "add":
                name = draw(st.sampled_from([*VALID, "\\u0068ost"]))
                pairs.append((name, draw(st.one_of(ODD.get(name, quoted(TEXTS)), VALID["host"], OTHER_JSON))))
            case _:
                pairs = draw(st.permutations(pairs))
    space = draw(st.sampled_from(["", "", " ", "\n\t", "\r\n"]))
    return "{" + ",".join(f'{space}"{name}":{space}{value}' for name, value in pairs) + space + "}"


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """The bytes of a document, now and then damaged, or any bytes at all."""
    whole = draw(documents()).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 2)):
        return whole
    at = draw(st.integers(0, len(whole)))
    extra = draw(st.sampled_from([b"\0", b"\xff", b"\xef\xbb\xbf", b"\xc3", b" ", b'"', b"\\", b"}", b"["]))
    damaged = [
        whole[:at],
        whole[:at] + extra + whole[at + 1 :],
        whole[:at] + extra + whole[at:],
        whole + draw(st.sampled_from([b"", b"\n", b" "])) + whole,
        b"\xef\xbb\xbf" + whole,
        draw(st.binary(max_size=40)),
        None,
    ]
    return draw(st.sampled_from(damaged))


MESSAGE_TIMES = st.one_of(
    st.just(MESSAGE_MS),
    st.just(MESSAGE_MS),
    st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]),
    st.integers(MESSAGE_MS - 500 * DAY_MS, MESSAGE_MS + 500 * DAY_MS),
)
BATCHES = st.lists(st.tuples(values(), MESSAGE_TIMES), max_size=8).map(
    lambda pairs: Messages(
        [i % 3 for i in range(len(pairs))],
        [10 * i for i in range(len(pairs))],
        [time for _, time in pairs],
        [value for value, _ in pairs],
    )
)


def as_exact(row: dict[str, Any]) -> list[Any]:
    """A row of the decoded frame in the form in which the exact path gives it."""
    attributes = {pair["key"]: pair["value"] for pair in row["attributes"]}
    return [attributes if f.path == "attributes" else row[f.column.name] for f in FIELDS]


@seeded(400)
@given(BATCHES)
def test_both_paths_agree_on_every_message(messages: Messages) -> None:
    decoded = decode(messages, LIMITS)
    events = decoded.events.with_columns(pl.col("timestamp").cast(pl.Int64)).rows(named=True)
    dead_letters = decoded.dead_letters.rows(named=True)
    for value, message_ms, offset in zip(messages.values, messages.timestamps_ms, messages.offsets, strict=True):
        note(repr(value))
        exact = decode_exact(value, message_ms, LIMITS)
        row = (dead_letters if isinstance(exact, DeadLetter) else events).pop(0)
        assert row["kafka_offset"] == offset
        if isinstance(exact, DeadLetter):
            assert (row["reason"], row["detail"], row["service"]) == (
                exact.reason,
                exact.detail,
                exact.service,
            )
            assert row["payload"] == (value or b"")
        else:
            assert as_exact(row) == exact
            # Equal says nothing about the sign of zero, nor does a dict about its order.
            assert math.copysign(1, row["latency_ms"]) == 1
            assert [pair["key"] for pair in row["attributes"]] == list(exact[-1])
    assert events == dead_letters == []


@seeded(150)
@given(BATCHES)
def test_a_message_is_judged_without_its_neighbours(messages: Messages) -> None:
    together = decode(messages, LIMITS)
    alone = [decode(messages[i : i + 1], LIMITS) for i in range(len(messages))]
    nothing = decode(messages[:0], LIMITS)
    assert_frame_equal(together.events, pl.concat([nothing.events, *(d.events for d in alone)]))
    assert_frame_equal(together.dead_letters, pl.concat([nothing.dead_letters, *(d.dead_letters for d in alone)]))


@seeded(400)
@given(values())
@example(b'{"a":-0,"b":-0.0,"c":1e22,"d":12345678901234567890123}')
def test_the_quick_parser_reads_what_the_standard_library_reads(value: bytes | None) -> None:
    try:
        document = parse(value)
    except InvalidEventError:
        return
    text = (value or b"").decode().removeprefix("\ufeff")
    # As text: 1, 1.0 and true are equal in Python, and NaN isn't.
    assert repr(document) == repr(json.loads(text))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@seeded(200)
@given(st.dictionaries(st.text(), JSON, max_size=5), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_any_json_object_is_parsed(document: dict[str, Any], indent: Any, as_ascii: bool) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=as_ascii)
    assert repr(parse(text.encode())) == repr(json.loads(text))


def test_the_generator_reaches_both_paths() -> None:
    counts: Counter[tuple[str, str]] = Counter()

    @seeded(200)
    @given(documents())
    def count(document: str) -> None:
        value = document.encode("utf-8", "surrogatepass")
        _, doubtful = decode_fast(Messages([0], [0], [MESSAGE_MS], [value]), LIMITS)
        is_dead = isinstance(decode_exact(value, MESSAGE_MS, LIMITS), DeadLetter)
        counts["exact" if doubtful else "fast", "dead" if is_dead else "event"] += 1

    count()
    assert counts.keys() == {("fast", "event"), ("exact", "event"), ("exact", "dead")}
    assert min(counts.values()) >= 20, counts
