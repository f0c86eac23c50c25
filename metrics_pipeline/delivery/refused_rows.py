"""Rows that the server refuses, as dead letters."""

from collections.abc import Iterable, Mapping, Set

import polars as pl

from metrics_pipeline.event.contract import DEAD_LETTER_SCHEMA, LINEAGE, MAX_PAYLOAD_BYTES, Reason
from metrics_pipeline.event.messages import Messages

UNKNOWN_ERROR = "the server refused the row before the run was interrupted"


def refused_dead_letters(
    messages: Iterable[Messages], events: pl.DataFrame, errors: Mapping[int, str], row: str
) -> pl.DataFrame:
    """A dead letter for each of `events`, with the message as it was; column `row` leads to the server's error."""
    lineage = [column.name for column in LINEAGE]
    places = list(zip(events[lineage[0]].to_list(), events[lineage[1]].to_list(), strict=True))
    payloads = _payloads(messages, set(places))
    return events.select(
        *lineage,
        pl.lit(Reason.REFUSED.value).alias("reason"),
        pl.Series("detail", [errors.get(number, UNKNOWN_ERROR) for number in events[row].to_list()], pl.String),
        "service",
        pl.Series("payload", [payloads[place][:MAX_PAYLOAD_BYTES] for place in places], pl.Binary),
    ).cast(DEAD_LETTER_SCHEMA)


def _payloads(messages: Iterable[Messages], positions: Set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
    """(partition, offset) -> value of the message there."""
    return {
        (partition, offset): value or b""
        for chunk in messages
        for partition, offset, value in zip(chunk.partitions, chunk.offsets, chunk.values, strict=True)
        if (partition, offset) in positions
    }
