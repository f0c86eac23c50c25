"""What a run sent: in numbers, and the file that lists it, so that a test can compare it with what landed."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl

from metrics_pipeline.errors import ConfigurationError, StopError
from metrics_pipeline.lab.loadgen.block import LATE, ODD
from metrics_pipeline.lab.loadgen.malformed import KINDS

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


@dataclass(slots=True)
class LoadSummary:
    """Messages that the log acknowledged: `messages` = unique_events + duplicates + malformed.

    `late` and `odd` are counts of unique events; first and last are timestamps of events, epoch milliseconds,
    None without events; `failed` messages are in no other count, `failures` has their reasons.
    """

    topic: str
    seed: int
    messages: int = 0
    unique_events: int = 0
    duplicates: int = 0
    late: int = 0
    odd: int = 0
    malformed: int = 0
    malformed_kinds: Counter[str] = field(default_factory=Counter)
    malformed_reasons: Counter[str] = field(default_factory=Counter)
    first_timestamp_ms: int | None = None
    last_timestamp_ms: int | None = None
    elapsed_seconds: float = 0.0
    rate: float = 0.0
    """Messages per second, the wait for the last acknowledgement included."""
    partitions: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)

    def add(self, account: pl.DataFrame) -> pl.DataFrame:
        """Count the rows of an account (see `Block.account`); returns those of valid events."""
        self.partitions.update(dict(account.group_by("partition").agg(pl.col("copies").sum()).iter_rows()))
        for kind, events, copies in account.group_by("kind").agg(pl.len(), pl.col("copies").sum()).iter_rows():
            self.messages += copies
            if kind in KINDS:
                self.malformed += copies
                self.malformed_kinds[kind] += copies
                self.malformed_reasons[KINDS[kind][0].value] += copies
            else:
                self.unique_events += events
                self.duplicates += copies - events
                self.late += events if kind == LATE else 0
                self.odd += events if kind == ODD else 0
        valid = account.filter(~pl.col("kind").is_in(list(KINDS)).fill_null(value=False))
        if not valid.is_empty():
            first, last = valid.select(pl.min("timestamp"), last=pl.max("timestamp")).row(0)
            self.first_timestamp_ms = min(first, self.first_timestamp_ms or first)
            self.last_timestamp_ms = max(last, self.last_timestamp_ms or last)
        return valid

    def as_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "malformed_kinds": dict(sorted(self.malformed_kinds.items())),
            "malformed_reasons": dict(sorted(self.malformed_reasons.items())),
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "rate": round(self.rate, 1),
            "partitions": {str(p): n for p, n in sorted(self.partitions.items())},
        }


class SentFile:
    """Takes events as they are acknowledged, and keeps none in memory; this one keeps none at all."""

    def write(self, events: pl.DataFrame) -> None:
        """Add rows; columns other than those of SENT_SCHEMA are left out."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """Complete the file."""


def open_sent(path: Path | None) -> SentFile:
    """A new file, over an old one: Parquet if its name ends so, else NDJSON. Raises ConfigurationError."""
    if path is None:
        return SentFile()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _ParquetFile(path) if path.suffix == ".parquet" else _NdjsonFile(path)
    except OSError as error:
        raise ConfigurationError(f"can't write what is sent to {path}: {error.strerror}") from None


def read_sent(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The events (SENT_SCHEMA) and the summary of a file that a run has completed. Raises StopError if it hasn't."""
    if path.suffix == ".parquet":
        summary = _last_line(_summary_path(path))
        return pl.read_parquet(path), summary
    summary = _last_line(path)
    # The parser of Polars panics on integer types below 64 bits.
    wide = {name: pl.Int64() if kind.is_integer() else kind for name, kind in SENT_SCHEMA.items()}
    rows = pl.scan_ndjson(path, schema=wide).filter(pl.col("event_id").is_not_null()).cast(SENT_SCHEMA)
    return rows.collect(), summary


class _NdjsonFile(SentFile):
    """One line per event; the last line is {"summary": …}."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")

    def write(self, events: pl.DataFrame) -> None:
        events.select(SENT_SCHEMA.names()).write_ndjson(self._file)

    def close(self, summary: Mapping[str, Any]) -> None:
        with self._file:
            self._file.write(json.dumps({"summary": summary}).encode() + b"\n")


class _ParquetFile(SentFile):
    """Parts beside the file, which are put together at the end; the summary is in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = path.with_name(path.name + ".parts")
        self._count = 0
        path.unlink(missing_ok=True)
        _summary_path(path).unlink(missing_ok=True)
        shutil.rmtree(self._parts, ignore_errors=True)
        self._parts.mkdir()

    def write(self, events: pl.DataFrame) -> None:
        events.select(SENT_SCHEMA.names()).cast(SENT_SCHEMA).write_parquet(self._next_part(), compression="lz4")

    def close(self, summary: Mapping[str, Any]) -> None:
        pl.DataFrame(schema=SENT_SCHEMA).write_parquet(self._next_part())
        pl.scan_parquet(self._parts / "*.parquet").sink_parquet(self._path)
        shutil.rmtree(self._parts)
        _summary_path(self._path).write_text(json.dumps({"summary": summary}) + "\n")

    def _next_part(self) -> Path:
        self._count += 1
        return self._parts / f"{self._count:06d}.parquet"


def _summary_path(path: Path) -> Path:
    return path.with_name(path.name + ".summary.json")


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
