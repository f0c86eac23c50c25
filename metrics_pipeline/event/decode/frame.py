"""Columns of Python values to frames of the contract's schemas.

Each call of a Polars engine costs as much as hundreds of events do, so a frame is built in one.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import polars as pl

from metrics_pipeline.event.contract import (
    FIELDS,
    LINEAGE,
    MAX_PAYLOAD_BYTES,
    MAX_TIMESTAMP_MS,
    MIN_TIMESTAMP_MS,
    NO_DEAD_LETTERS,
    Field,
    Kind,
)
from metrics_pipeline.event.decode.exact import DeadLetter
from metrics_pipeline.event.messages import Messages

ROW = "row"
"""Name of the column that holds an event's index among the messages, until the frame is put together."""

Columns = Mapping[str, Sequence[Any] | pl.Series]
"""Path of field -> values: timestamps as epoch milliseconds, attributes as dicts, None for defaults."""


def events_frame(rows: Sequence[int], columns: Columns) -> pl.DataFrame:
    """Events without lineage, after a column ROW that holds `rows`."""
    return pl.DataFrame([pl.Series(ROW, rows, pl.UInt32), *(_series(f, columns[f.path]) for f in FIELDS)])


def lineage_frame(messages: Messages) -> pl.DataFrame:
    """Where each message comes from."""
    partitions, offsets, timestamps = LINEAGE
    return pl.DataFrame(
        [
            pl.Series(partitions.name, messages.partitions, partitions.polars_type),
            pl.Series(offsets.name, messages.offsets, offsets.polars_type),
            pl.Series(timestamps.name, messages.timestamps_ms, pl.Int64),
        ]
    ).with_columns(pl.col(timestamps.name).clip(MIN_TIMESTAMP_MS, MAX_TIMESTAMP_MS).cast(timestamps.polars_type))


def dead_letters_frame(
    dead_letters: Mapping[int, DeadLetter], messages: Messages, lineage: pl.DataFrame
) -> pl.DataFrame:
    """`dead_letters` holds index among the messages -> why."""
    if not dead_letters:
        return NO_DEAD_LETTERS
    found = dead_letters.values()
    payloads = [(messages.values[row] or b"")[:MAX_PAYLOAD_BYTES] for row in dead_letters]
    return lineage[list(dead_letters)].with_columns(
        pl.Series("reason", [d.reason.value for d in found], pl.String),
        pl.Series("detail", [d.detail for d in found], pl.String),
        pl.Series("service", [d.service for d in found], pl.String),
        pl.Series("payload", payloads, pl.Binary),
    )


def _series(field: Field, values: Sequence[Any] | pl.Series) -> pl.Series:
    name, polars_type = field.column.name, field.column.polars_type
    match field.kind:
        case Kind.ATTRIBUTES:
            return _maps(name, values)
        case Kind.TIMESTAMP:
            return pl.Series(name, values, pl.Int64).cast(polars_type)
        case Kind.NUMBER:
            # No number may be negative, and -0.0 becomes 0.0.
            return pl.Series(name, values, polars_type).abs()
    series = pl.Series(name, values, polars_type)
    return series.fill_null(field.default) if series.null_count() else series


def _maps(name: str, values: Sequence[Mapping[str, str] | None] | pl.Series) -> pl.Series:
    """One list of {key, value} per mapping.

    Polars builds lists from Python objects slowly: build one flat column of all pairs, gather slices of it.
    """
    maps = [m or {} for m in values]
    keys = pl.Series(list(chain.from_iterable(maps)), dtype=pl.String)
    texts = pl.Series(list(chain.from_iterable([m.values() for m in maps])), dtype=pl.String)
    lengths = pl.lit(pl.Series(list(map(len, maps)), dtype=pl.Int64))
    pairs = pl.struct(pl.lit(keys).alias("key"), pl.lit(texts).alias("value"))
    ends = lengths.cum_sum()
    slices = pl.int_ranges(ends - lengths, ends)
    return pl.select(pairs.implode().list.gather(slices).alias(name)).to_series()
