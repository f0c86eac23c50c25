"""Inserts that a repeat does not double, and deletes that wait: for any table."""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.external import ExternalData

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.query import run_command

_INSERT_SETTINGS: Mapping[str, Any] = {
    # A token is worth something only if the server writes the block now, as one block, and the views take part.
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_insert_threads": 1,
    "max_insert_block_size": 4_000_000,
    "min_insert_block_size_rows": 4_000_000,
    "min_insert_block_size_bytes": 4 << 30,
    "max_partitions_per_insert_block": 1_000,
    "input_format_parallel_parsing": 0,
}


def insert_once(client: Client, table: str, rows: pl.DataFrame, token: str) -> None:
    """Insert as one block, once, however often it is sent under this token."""
    calling(
        f"inserting {len(rows)} rows into {table}",
        lambda: client.raw_insert(
            table,
            rows.columns,
            arrow_stream(rows),
            fmt="ArrowStream",
            settings={**_INSERT_SETTINGS, "insert_deduplication_token": token},
        ),
    )


def arrow_stream(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    # One record batch, with the layouts of strings that every server version reads.
    frame.rechunk().write_ipc_stream(buffer, compat_level=pl.CompatLevel.oldest())
    return buffer.getvalue()


def external(name: str, structure: Sequence[str], rows: pl.DataFrame) -> ExternalData:
    """Rows that go with a query, which reads them as the table `name`."""
    return ExternalData(
        file_name=f"{name}.arrow", fmt="ArrowStream", structure=list(structure), data=arrow_stream(rows)
    )


def delete_rows(client: Client, table: str, where: str, parameters: Mapping[str, Any]) -> None:
    """Delete the rows that the condition holds for, without a mutation where there are none."""
    count = f"SELECT count() FROM {table} WHERE {where}"
    found = calling(f"looking for old rows of {table}", partial(client.query, count, dict(parameters))).result_rows
    if found[0][0]:
        delete = f"DELETE FROM {table} WHERE {where}"
        run_command(client, f"deleting old rows of {table}", delete, parameters)
