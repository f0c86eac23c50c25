"""Duplicates within one micro-batch. Those of other batches are looked up in the table."""

import polars as pl

from metrics_pipeline.event.contract import IDENTITY


def deduplicate(events: pl.DataFrame) -> pl.DataFrame:
    """Keep the first of each identity by (kafka_partition, kafka_offset), in whatever order rows come.

    `events` has EVENT_SCHEMA; the result is sorted by IDENTITY, and depends on the set of its rows alone.
    """
    ordered = events.sort(*IDENTITY, "kafka_partition", "kafka_offset")
    is_first = ordered.select(pl.any_horizontal(pl.col(name) != pl.col(name).shift() for name in IDENTITY))
    kept = is_first.to_series().fill_null(value=True)
    return ordered if kept.all() else ordered.filter(kept)
