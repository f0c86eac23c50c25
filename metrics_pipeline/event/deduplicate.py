"""Duplicates within one micro-batch. Those of other batches are looked up in the table."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from metrics_pipeline.event.contract import IDENTITY


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """`events` holds each identity once, sorted by IDENTITY.

    `duplicates` is kafka_partition -> rows dropped, for partitions that lost any.
    """

    events: pl.DataFrame
    duplicates: Mapping[int, int]


def deduplicate(events: pl.DataFrame) -> Deduplicated:
    """Keep the first of each identity by (kafka_partition, kafka_offset), in whatever order rows come.

    `events` has EVENT_SCHEMA; the result depends on the set of its rows alone.
    """
    ordered = events.sort(*IDENTITY, "kafka_partition", "kafka_offset")
    is_first = ordered.select(pl.any_horizontal(pl.col(name) != pl.col(name).shift() for name in IDENTITY))
    kept = is_first.to_series().fill_null(value=True)
    if kept.all():
        return Deduplicated(ordered, {})
    dropped = ordered.filter(~kept)["kafka_partition"].value_counts().sort("kafka_partition")
    return Deduplicated(ordered.filter(kept), dict(dropped.iter_rows()))
