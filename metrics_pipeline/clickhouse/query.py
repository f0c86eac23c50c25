"""Questions and commands to a server; the driver's errors become ours."""

import io
from collections.abc import Mapping
from typing import Any

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling

Given = Mapping[str, Any] | None


def query_rows(
    client: Client, doing: str, sql: str, parameters: Given = None, settings: Given = None
) -> list[tuple[Any, ...]]:
    """The rows of an answer. `doing` is for the words of an error."""
    asked = calling(doing, lambda: client.query(sql, parameters=dict(parameters or {}), settings=dict(settings or {})))
    return [tuple(row) for row in asked.result_rows]


def query_frame(client: Client, doing: str, sql: str, parameters: Given = None, settings: Given = None) -> pl.DataFrame:
    """Likewise, for answers of many rows."""
    given = {"output_format_arrow_string_as_string": 1, **(settings or {})}
    answer = calling(
        doing, lambda: client.raw_query(sql, parameters=dict(parameters or {}), fmt="ArrowStream", settings=given)
    )
    return pl.read_ipc_stream(io.BytesIO(answer))


def run_command(client: Client, doing: str, sql: str, parameters: Given = None, settings: Given = None) -> None:
    """A statement without an answer."""
    calling(doing, lambda: client.command(sql, parameters=dict(parameters or {}), settings=dict(settings or {})))
