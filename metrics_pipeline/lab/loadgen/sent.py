"""The file that lists what was sent, so that a test can compare it with what landed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from metrics_pipeline.errors import ConfigurationError, StopError

SENT_SCHEMA = pl.Schema(
    {
        "event_id": pl.String(),
        "timestamp": pl.Int64(),
        "service": pl.String(),
        "endpoint": pl.String(),
        "tier": pl.String(),
        "status": pl.UInt16(),
        "latency_ms": pl.Float64(),
        "copies": pl.UInt32(),
    }
)
"""One row per unique valid event, in no particular order: the values that land, the timestamp as epoch
milliseconds, and in how many messages the event was sent."""

_TAIL_BYTES = 1 << 16


class SentFile:
    """NDJSON: a line per event, and {"summary": …} as the last one. Nothing is kept in memory, and without a path
    nothing is written.

    It goes over an old file. Raises ConfigurationError where it can't be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb")
        except OSError as error:
            raise ConfigurationError(f"can't write what is sent to {path}: {error.strerror}") from None

    def write(self, events: pl.DataFrame) -> None:
        """Add rows as they are acknowledged; columns other than those of SENT_SCHEMA are left out."""
        if self._file is not None:
            events.select(SENT_SCHEMA.names()).write_ndjson(self._file)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Complete the file."""
        if self._file is not None:
            with self._file:
                self._file.write(json.dumps({"summary": summary}).encode() + b"\n")


def read_sent(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The events (SENT_SCHEMA) and the summary of a file that a run has completed. Raises StopError if it hasn't."""
    summary = _last_line(path)
    # The parser of Polars panics on integer types below 64 bits.
    wide = {name: pl.Int64() if kind.is_integer() else kind for name, kind in SENT_SCHEMA.items()}
    rows = pl.scan_ndjson(path, schema=wide).filter(pl.col("event_id").is_not_null()).cast(SENT_SCHEMA)
    return rows.collect(), summary


def _last_line(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
        summary: dict[str, Any] = json.loads(lines[-1])["summary"]
    except (FileNotFoundError, IndexError, KeyError, ValueError):
        raise StopError(
            f"{path} holds no summary: its producer still runs or was killed, so what was sent is incomplete"
        ) from None
    return summary
