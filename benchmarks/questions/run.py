"""Asks everything, cold and warm, alone or during ingest, and writes what it took to results-<phase>.json."""

import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

from clickhouse_connect.driver.client import Client

from benchmarks.questions.ask import Cell, Query, beside, cells, states_query
from benchmarks.questions.fill import describe
from benchmarks.questions.load import ingesting
from benchmarks.questions.series import EVENTS_PER_SECOND
from benchmarks.questions.server import client_of, filled_until, running

_SETTLE_SECONDS = 20
_RAW_RANGES = ("1 h", "6 h")


def run(
    home: Path, *, ingest: bool, repetitions: int, seconds: float, cold: int, seed: int, only: str, per_second: float
) -> None:
    """One phase over all cells; the results of the other phase stay."""
    phase = "ingest" if ingest else "alone"
    filled = filled_until(home)
    if filled is None:
        raise SystemExit(f"{home} is not filled: run `python -m benchmarks.questions fill --home {home}`")
    with running(home) as server, client_of(server) as client:
        load: AbstractContextManager[list[tuple[float, int]]] = (
            ingesting(home, server, EVENTS_PER_SECOND) if ingest else nullcontext([])
        )
        with load as lags:
            if ingest:
                time.sleep(_SETTLE_SECONDS)
            began = time.time()
            wanted = [cell for cell in cells() if only in cell.key]
            asker = _Asker(client, phase, home, lambda: int(time.time()) // 60 * 60 if ingest else filled, per_second)
            results = asker.measure(wanted, repetitions, seconds, cold, Random(seed))
            ratios = asker.compare(repetitions, Random(seed)) if not only and not ingest else []
            document = {
                "phase": phase,
                "seed": seed,
                "per_second": per_second,
                "seconds": round(time.time() - began),
                "stored": describe(client),
                "cells": results,
                "ratios": ratios,
                "load_averages": asker.load_averages,
                "lags": lags,
                "pipeline": _pipeline(client, began) if ingest else {},
            }
        name = f"results-{phase}{'-' + only.replace('/', '_').replace(' ', '') if only else ''}.json"
        (home / name).write_text(json.dumps(document, indent=1))
        print(f"wrote {home / name} after {document['seconds']} s")


class _Asker:
    def __init__(self, client: Client, phase: str, home: Path, now: Any, per_second: float) -> None:
        self._client, self._phase, self._home, self._now = client, phase, home, now
        self._per_second = per_second
        self.load_averages: list[float] = []
        """Of the minute before the end of each round: tells rounds that others disturbed."""

    def measure(
        self, wanted: Sequence[Cell], repetitions: int, seconds: float, cold: int, rng: Random
    ) -> list[dict[str, Any]]:
        """Warm ones round by round over all cells, so that a slow moment of the machine is spread over all."""
        found: dict[str, dict[str, Any]] = {
            c.key: {"group": c.group, "name": c.name, "range": c.range_name, "cold_ms": [], "warm_ms": [],
                    "server_ms": [], "rows": [], "bytes": [], "states": 0}
            for c in wanted
        }  # fmt: skip
        for cell in wanted:
            entry = found[cell.key]
            for _ in range(cold):
                self._drop_caches()
                entry["cold_ms"].append(self._ask(cell.query(self._now(), rng), f"cold {cell.key}")[0])
            entry["states"] = self._states(cell.query(self._now(), rng))
        until = time.monotonic() + seconds
        for round_number in range(repetitions):
            if time.monotonic() > until:
                break
            due = time.monotonic()
            for cell in wanted:
                if self._per_second:
                    time.sleep(max(0.0, due - time.monotonic()))
                    due += 1 / self._per_second
                took_ms, server_ms, rows, size_bytes = self._ask(cell.query(self._now(), rng), cell.key)
                entry = found[cell.key]
                entry["warm_ms"].append(took_ms)
                entry["server_ms"].append(server_ms)
                entry["rows"].append(rows)
                entry["bytes"].append(size_bytes)
            self.load_averages.append(round(os.getloadavg()[0], 2))
            print(
                f"{self._phase} round {round_number + 1}: {_summary(e['warm_ms'][-1] for e in found.values())}",
                flush=True,
            )
        return list(found.values())

    def compare(self, repetitions: int, rng: Random) -> list[dict[str, Any]]:
        """On rollups and on raw events in turns."""
        took: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
        for _ in range(repetitions):
            for range_name in _RAW_RANGES:
                for name, rollup, raw in beside(self._now(), range_name, rng):
                    of_rollup, of_raw = took.setdefault((name, range_name), ([], []))
                    of_rollup.append(self._ask(rollup, f"rollup {name}")[0])
                    of_raw.append(self._ask(raw, f"raw {name}")[0])
        return [
            {"name": name, "range": range_name, "rollup_ms": of_rollup, "raw_ms": of_raw}
            for (name, range_name), (of_rollup, of_raw) in took.items()
        ]

    def _ask(self, query: Query, comment: str) -> tuple[float, float, int, int]:
        """Milliseconds until the answer was here, those that the server took, rows and bytes that it read."""
        sql, parameters = query
        before = time.perf_counter()
        answer = self._client.query(sql, parameters=parameters, settings={"log_comment": f"{self._phase} {comment}"})
        took_ms = (time.perf_counter() - before) * 1_000
        summary = answer.summary
        return (
            round(took_ms, 2),
            round(int(summary.get("elapsed_ns", 0)) / 1e6, 2),
            int(summary.get("read_rows", 0)),
            int(summary.get("read_bytes", 0)),
        )

    def _states(self, query: Query) -> int:
        sql, parameters = query
        counting = states_query(sql)
        return int(self._client.query(counting, parameters=parameters).result_rows[0][0]) if counting else 0

    def _drop_caches(self) -> None:
        """The server's, and the pages of its files: these are asked for file by file, which needs no rights."""
        for cache in ("MARK CACHE", "UNCOMPRESSED CACHE", "QUERY CONDITION CACHE", "COMPILED EXPRESSION CACHE"):
            self._client.command(f"SYSTEM DROP {cache}")
        for folder, _, files in os.walk(self._home / "clickhouse" / "data" / "store"):
            for name in files:
                _forget(Path(folder) / name)


def _forget(file: Path) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _pipeline(client: Client, began: float) -> dict[str, Any]:
    sql = """SELECT sum(inserted), count(), quantileExact(0.5)(age), quantileExact(0.99)(age), max(age)
        FROM (SELECT inserted, dateDiff('millisecond', first_message, visible_at) AS age FROM batches
            WHERE visible_at >= fromUnixTimestamp64Milli({began:Int64}))"""
    row = client.query(sql, {"began": int(began * 1_000)}).result_rows[0]
    names = ("events", "batches", "oldest_of_batch_p50_ms", "oldest_of_batch_p99_ms", "oldest_of_batch_max_ms")
    return {**dict(zip(names, row, strict=True)), "seconds": round(time.time() - began, 1)}


def _summary(values: Iterable[float]) -> str:
    known = sorted(values)
    return f"{len(known)} answers, median {statistics.median(known):.0f} ms, max {known[-1]:.0f} ms"
