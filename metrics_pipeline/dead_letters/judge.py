"""Dead letters once more: which ones, what today's rules say of them, and in which chunks they land. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from metrics_pipeline.delivery.chunk import ORIGIN, POSITION, cuts, open_chunk, own_rows, ranges_of
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.event.contract import DEAD_LETTER_SCHEMA, EVENT_SCHEMA, IDENTITY, MAX_PAYLOAD_BYTES, Reason
from metrics_pipeline.event.decode.exact import DeadLetter, decode_exact
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OpenBatch
from metrics_pipeline.runtime.timerange import TimeRange

LETTERS_SCHEMA = pl.Schema({name: EVENT_SCHEMA[name] for name in POSITION} | {"outcome": pl.String()})


SOURCE = "dead_letters"
"""Of ledger rows that a replay writes."""
GROUP_SUFFIX = ".dead-letters"
"""The side group whose one slot holds the open chunk of a replay, and whose owner may replay."""

MAX_CHUNK_LETTERS = 2_000
"""The search bits of this many rows fit beside the positions, even if the server refuses every row."""

DROPPED_DETAIL = "retention dropped events of that time, so a second copy would not be recognised"
CUT_DETAIL = f"the payload was cut to its first {MAX_PAYLOAD_BYTES} bytes when it was stored: the table can't replay it"

LETTER_SCHEMA = pl.Schema(
    {"topic_id": pl.String(), **DEAD_LETTER_SCHEMA}
    | dict.fromkeys(("batch", "outcome", "replay_reason", "replay_detail"), pl.String())
)
MARK_SCHEMA = pl.Schema({n: LETTER_SCHEMA[n] for n in (*POSITION, "outcome", "replay_reason", "replay_detail")})


class Outcome(StrEnum):
    """What a replay made of a dead letter; a letter that was never replayed has none ("")."""

    LANDED = "landed"
    DUPLICATE = "duplicate"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters: by present reason, by service, by the time of their messages, [start_ms, end_ms).

    Empty or None: any.
    """

    reasons: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    start_ms: int | None = None
    end_ms: int | None = None


def letter_filter(reasons: Sequence[str], services: Sequence[str], span: TimeRange | None) -> LetterFilter:
    """As people ask for it. Raises ConfigurationError for an unknown reason."""
    if unknown := [reason for reason in reasons if reason not in set(Reason)]:
        raise ConfigurationError(f"there is no reason {unknown[0]!r}; the reasons are {', '.join(Reason)}")
    bounds_ms = () if span is None else (round(moment.timestamp() * 1_000) for moment in (span.start, span.end))
    return LetterFilter(tuple(reasons), tuple(services), *bounds_ms)


def position_of(words: str) -> tuple[int, int]:
    """PARTITION:OFFSET as numbers. Raises ConfigurationError."""
    partition, _, offset = words.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()) or int(partition) >= 1 << 32 or int(offset) >= 1 << 63:
        raise ConfigurationError(f"{words!r} is no position: write it like 3:1042, partition and offset")
    return int(partition), int(offset)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What today's rules say of one letter; `reason` and `detail` are empty for an event."""

    is_event: bool
    reason: str
    detail: str


def verdict_on(payload: bytes, reason: str, message_ms: int, rules: Rules) -> Verdict:
    """Judge one letter; whether the server would take its row is not known."""
    if len(payload) >= MAX_PAYLOAD_BYTES:
        return Verdict(is_event=False, reason=Reason.TOO_LARGE, detail=CUT_DETAIL)
    outcome = decode_exact(_value(payload, reason), message_ms, rules.limits)
    if isinstance(outcome, DeadLetter):
        return Verdict(is_event=False, reason=outcome.reason, detail=outcome.detail)
    return Verdict(is_event=True, reason="", detail="")


@dataclass(frozen=True, slots=True)
class Judged:
    """What today's rules say of letters: `events` has EVENT_SCHEMA, `kept` has MARK_SCHEMA."""

    events: pl.DataFrame
    kept: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Sorted:
    """Events of letters by what has to be done: all have EVENT_SCHEMA.

    `landed` were landed by an earlier try of their own letters, `duplicates` are stored by another message, `missing`
    is to be inserted, and `copies` repeats events of `missing`.
    """

    landed: pl.DataFrame
    duplicates: pl.DataFrame
    missing: pl.DataFrame
    copies: pl.DataFrame


def judge(letters: pl.DataFrame, rules: Rules) -> Judged:
    """Decode letters (LETTER_SCHEMA, one incarnation of the topic) as a drain does: against the time of their
    messages."""
    decoded = rules.decode(_messages(letters))
    is_cut = letters.select(*POSITION, is_cut=pl.col("payload").bin.size() >= MAX_PAYLOAD_BYTES)
    kept = (
        decoded.dead_letters.join(is_cut, on=POSITION, how="left", maintain_order="left")
        .with_columns(
            outcome=pl.lit(Outcome.KEPT.value),
            replay_reason="reason",
            replay_detail=pl.when("is_cut").then(pl.lit(CUT_DETAIL)).otherwise("detail"),
        )
        .select(MARK_SCHEMA.names())
    )
    cut = decoded.events.join(is_cut.filter("is_cut"), on=POSITION, how="semi")
    events = decoded.events.join(cut, on=POSITION, how="anti", maintain_order="left") if len(cut) else decoded.events
    return Judged(events, pl.concat([kept, marks(cut, Outcome.KEPT, Reason.TOO_LARGE, CUT_DETAIL)]))


def without_dropped(judged: Judged, from_ms: int) -> Judged:
    """Keep events of times before that (epoch milliseconds; 0: none): whether they were there once can't be told."""
    if not from_ms:
        return judged
    is_dropped = pl.col("timestamp").cast(pl.Int64) < from_ms
    dropped = judged.events.filter(is_dropped)
    kept = marks(dropped, Outcome.KEPT, Reason.TIMESTAMP_TOO_OLD, DROPPED_DETAIL)
    return Judged(judged.events.filter(~is_dropped), pl.concat([judged.kept, kept]))


def sort_out(events: pl.DataFrame, stored: pl.DataFrame) -> Sorted:
    """Sort events of letters by what raw_events has already: `stored` are identities with their origins."""
    ordered = events.sort(*POSITION)
    own = own_rows(ordered, stored)
    others = ordered.join(own, on=ORIGIN, how="anti", maintain_order="left")
    is_stored = others.join(stored, on=IDENTITY, how="semi")
    absent = others.join(is_stored, on=ORIGIN, how="anti", maintain_order="left")
    missing = absent.unique(IDENTITY, keep="first", maintain_order=True)
    return Sorted(own, is_stored, missing, absent.join(missing, on=ORIGIN, how="anti", maintain_order="left"))


def marks(letters: pl.DataFrame, outcome: Outcome, reason: str = "", detail: str = "") -> pl.DataFrame:
    """A mark (MARK_SCHEMA) of `outcome` for each row of a frame that has the columns POSITION."""
    return letters.select(
        *POSITION,
        outcome=pl.lit(outcome.value),
        replay_reason=pl.lit(str(reason)),
        replay_detail=pl.lit(detail),
    ).cast(MARK_SCHEMA)


def changed(wanted: pl.DataFrame, letters: pl.DataFrame) -> pl.DataFrame:
    """The marks that say something new of `letters` (LETTER_SCHEMA): a repeat has nothing to write."""
    return wanted.join(letters, on=MARK_SCHEMA.names(), how="anti", maintain_order="left")


def chunks_of(
    topic_id: str, group: str, missing: pl.DataFrame, rules: Rules, opened_ms: int
) -> Iterator[tuple[OpenBatch, pl.DataFrame]]:
    """Cut events (ordered by position) into chunks that can be written down, each with its events."""
    start = 0
    for ranges in cuts(ranges_of(missing.select(POSITION).iter_rows()), MAX_CHUNK_LETTERS):
        chunk = open_chunk(SOURCE, group, topic_id, ranges, rules, opened_ms)
        yield chunk, missing[start : start + chunk.offsets]
        start += chunk.offsets


def _messages(letters: pl.DataFrame) -> Messages:
    payloads, reasons = letters["payload"].to_list(), letters["reason"].to_list()
    values = [_value(payload, reason) for payload, reason in zip(payloads, reasons, strict=True)]
    return Messages(
        letters["kafka_partition"].to_list(),
        letters["kafka_offset"].to_list(),
        letters["kafka_timestamp"].cast(pl.Int64).to_list(),
        values,
    )


def _value(payload: bytes, reason: str) -> bytes | None:
    """The message's value: the table has no null."""
    return None if reason == Reason.TOMBSTONE else payload
