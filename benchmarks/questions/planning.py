"""What a call of a view costs before the first row is read: on an empty server, so that reading costs nothing."""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from clickhouse_connect.driver.client import Client

from benchmarks.questions.server import client_of, running
from metrics_pipeline.rollups.cubes import ENDPOINTS, LATENCY_MERGE_FUNCTION
from metrics_pipeline.rollups.grains import BUILT, LIVE
from metrics_pipeline.rollups.views import bucket_selection, rollup_views, source_of

_REPETITIONS = 100
_START = 1_762_732_800
_WHERE = "minute >= {start:DateTime('UTC')} AND minute < {end:DateTime('UTC')}"
_FIGURES = f"SELECT sum(requests), {LATENCY_MERGE_FUNCTION}(latency_ms) FROM"
QUERIES = {
    "a table of one grain": f"{_FIGURES} {ENDPOINTS.table(LIVE)} WHERE {_WHERE}",
    "the tables of all grains as one, without a selection": f"{_FIGURES} {ENDPOINTS.all_grains} WHERE {_WHERE}",
    "the selection of buckets alone": f"SELECT count() FROM ({bucket_selection({})})",
    "the view": f"{_FIGURES} {source_of(ENDPOINTS)}",
    "the view, where retention dropped older rows": f"{_FIGURES} {source_of(ENDPOINTS).replace('(', '_dropped(', 1)}",
}
_CUTOFFS = {grain.seconds: _START - days * 86_400 for grain, days in zip(BUILT, (45, 120, 400), strict=False)}


def planning() -> None:
    """Prints a median per query and step, of an hour and of 13 months."""
    with TemporaryDirectory() as home, running(Path(home)) as server, client_of(server) as client:
        (view,) = (v for v in rollup_views(_CUTOFFS) if v.name == ENDPOINTS.name)
        client.command(replace(view, name=f"{view.name}_dropped").replacement)
        for name, sql in QUERIES.items():
            short = _median_ms(client, sql, 3_600, LIVE.seconds)
            long = _median_ms(client, sql, 395 * 86_400, BUILT[-1].seconds)
            print(f"{name:50} {short:6.1f} ms at a step of a minute, {long:6.1f} ms at one of seven days", flush=True)


def _median_ms(client: Client, sql: str, length_seconds: int, step_seconds: int) -> float:
    took = []
    for number in range(_REPETITIONS):
        start = _START + number * 60
        parameters = {"start": start, "end": start + length_seconds, "step": step_seconds}
        used = {name: value for name, value in parameters.items() if f"{{{name}:" in sql}
        before = time.perf_counter()
        client.query(sql, parameters=used)
        took.append((time.perf_counter() - before) * 1_000)
    return statistics.median(took)
