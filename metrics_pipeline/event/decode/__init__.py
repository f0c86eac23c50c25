"""Messages to events and dead letters: a fast path for what is beyond doubt, an exact path for all else.

Every message becomes exactly one event or one dead letter, and which one depends on the message alone:
neither on its neighbours, nor on the path it took, nor on any clock.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from metrics_pipeline.event.contract import FIELDS
from metrics_pipeline.event.decode.exact import DeadLetter, decode_exact
from metrics_pipeline.event.decode.fast import decode_fast
from metrics_pipeline.event.decode.frame import ROW, dead_letters_frame, events_frame, lineage_frame
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.validate import EventLimits

BLOCK_MESSAGES = 4_000
"""Decoded at once: more objects don't fit into a processor's cache, with fewer the fixed cost shows."""

__all__ = ["Decoded", "EventLimits", "decode"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What messages say, in their order: `events` has EVENT_SCHEMA, `dead_letters` has DEAD_LETTER_SCHEMA."""

    events: pl.DataFrame
    dead_letters: pl.DataFrame


def decode(messages: Messages, limits: EventLimits) -> Decoded:
    """Decode and validate; len(events) + len(dead_letters) = len(messages).

    Never raises, whatever the messages hold.
    """
    if len(messages) <= BLOCK_MESSAGES:
        return _decode_block(messages, limits)
    starts = range(0, len(messages), BLOCK_MESSAGES)
    blocks = [_decode_block(messages[start : start + BLOCK_MESSAGES], limits) for start in starts]
    return Decoded(
        events=pl.concat([block.events for block in blocks]),
        dead_letters=pl.concat([block.dead_letters for block in blocks]),
    )


def _decode_block(messages: Messages, limits: EventLimits) -> Decoded:
    events, doubtful = decode_fast(messages, limits)
    lineage = lineage_frame(messages)
    others, dead_letters = _decode_exactly(messages, doubtful, limits)
    if others:
        columns = {f.path: [event[i] for event in others.values()] for i, f in enumerate(FIELDS)}
        events = pl.concat([events, events_frame(list(others), columns)]).sort(ROW)
    origins = lineage if len(events) == len(messages) else lineage[events[ROW]]
    return Decoded(
        events=pl.DataFrame([*events.get_columns()[1:], *origins.get_columns()]),
        dead_letters=dead_letters_frame(dead_letters, messages, lineage),
    )


def _decode_exactly(
    messages: Messages, rows: list[int], limits: EventLimits
) -> tuple[dict[int, list[Any]], dict[int, DeadLetter]]:
    """Index among the messages -> event, and index -> dead letter, both in order."""
    events: dict[int, list[Any]] = {}
    dead_letters: dict[int, DeadLetter] = {}
    for row in rows:
        outcome = decode_exact(messages.values[row], messages.timestamps_ms[row], limits)
        if isinstance(outcome, DeadLetter):
            dead_letters[row] = outcome
        else:
            events[row] = outcome
    return events, dead_letters
