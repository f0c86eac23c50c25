"""Skip to head with a long backlog: `python -m benchmarks.skip_to_head [--events 10000000] [--rate 5000]`.

Starts engines of its own, fills a topic while nothing drains it, then sends live events, starts drains one after the
other as the relay does, skips to the head, and backfills what was skipped; all of it as processes of the command
line. Says how long it takes until 99% of the live events are fresh, how long and how fast the backfill is, how fresh
live events are beside it, and what the audit says in the end.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.local import stack
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import prepare

FRESH_SECONDS = 2.0
LOOK_BACK_SECONDS = 2
CHECK_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 300
BEHIND_SECONDS = 10
"""Drains work on the backlog for so long before the skip to head."""
LIVE_SECONDS = 20
"""Live events alone are watched for so long before the backfill begins."""

_RECENT = f"""
    SELECT count(), quantileExactWeighted(0.99)(age, weight) / 1000 FROM batches
    ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE visible_at > now64(3) - {LOOK_BACK_SECONDS} AND started_at >= {{since:DateTime64(3, 'UTC')}}
"""
_SPAN = """
    SELECT quantilesExactWeighted(0.5, 0.99, 1)(age, weight) FROM batches
    ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE visible_at >= {since:DateTime64(3, 'UTC')} AND visible_at < {until:DateTime64(3, 'UTC')}
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "metrics_pipeline", *arguments]


def run(*arguments: str, accepts: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The JSON that a command prints."""
    done = subprocess.run(command(*arguments), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in accepts:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def engines() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as home:
        os.environ["METRICS_LOCAL__HOME"] = home
        stack.up(engines_only=True)
        try:
            yield Path(home)
        finally:
            stack.down()


@contextmanager
def drains(home: Path) -> Iterator[None]:
    """One drain process after the other: the next one starts when one ends."""
    stop = Event()

    def relay() -> None:
        with (home / "drains.log").open("wb") as log:
            while not stop.is_set():
                process = subprocess.Popen(command("drain"), stdout=log, stderr=log)
                while process.poll() is None:
                    if stop.wait(CHECK_SECONDS):
                        process.send_signal(signal.SIGTERM)
                        process.wait(60)

    thread = Thread(target=relay)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(90)


@contextmanager
def live(home: Path, rate: int) -> Iterator[None]:
    with (home / "produce.log").open("wb") as log:
        producer = subprocess.Popen(
            command("produce", "--rate", str(rate), "--duration", "3600", "--odd", "0"), stdout=log, stderr=log
        )
        try:
            yield
        finally:
            producer.send_signal(signal.SIGTERM)
            producer.wait(60)


def seconds_until_fresh(client: Client, since: float) -> float:
    while time.time() - since < LONGEST_WAIT_SECONDS:
        ((batches, p99),) = client.query(_RECENT, parameters={"since": since}).result_rows
        if batches and p99 < FRESH_SECONDS:
            return time.time() - since
        time.sleep(CHECK_SECONDS)
    raise SystemExit(f"live events are not fresh {LONGEST_WAIT_SECONDS} s after the skip to head")


def freshness(client: Client, since: float, until: float) -> str:
    ages = client.query(_SPAN, parameters={"since": since, "until": until}).result_rows[0][0]
    p50, p99, most = (age / 1_000 for age in ages)
    return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s"


def measure(home: Path, events: int, rate: int) -> None:
    os.environ["METRICS_KAFKA__TOPIC"] = os.environ["METRICS_KAFKA__GROUP"] = "skip-to-head"
    settings = load_settings()
    prepare(settings)
    produce(LoadPlan(rate=0, events=events, duplicates=0.02, late=0.002, malformed=0.001), settings)
    with connect(settings) as client, drains(home), live(home, rate):
        time.sleep(BEHIND_SECONDS)
        began = time.time()
        deferred = run("skip-to-head", "--yes", "--json")["deferred_offsets"]
        skipped = time.time()
        print(f"the skip to head: {skipped - began:.1f} s, {deferred:,} offsets deferred", flush=True)
        print(f"fresh {seconds_until_fresh(client, skipped):.1f} s after that", flush=True)
        alone = time.time()
        time.sleep(LIVE_SECONDS)
        began = time.time()
        print(f"live events, alone: {freshness(client, alone, began)}", flush=True)
        verdict = run("audit", "--json")
        print(f"audit while deferred: ok {verdict['ok']}, deferred {verdict['deferred']['offsets']:,}", flush=True)
        began = time.time()
        backfilled = run("backfill", "--json")
        ended = time.time()
        print(
            f"the backfill: {backfilled['backfilled']:,} offsets in {ended - began:.1f} s, "
            f"{backfilled['backfilled'] / (ended - began):,.0f} a second; {backfilled['batches']} batches, "
            f"{backfilled['inserted']:,} inserted, {backfilled['taken_back']} taken back",
            flush=True,
        )
        print(f"live events, beside the backfill: {freshness(client, began, ended)}", flush=True)
    run("drain", "--once", "--json")
    verdict = run("audit", "--json", accepts=(0, 1))
    print(
        f"audit: ok {verdict['ok']}, deferred {verdict['deferred']['offsets']}, "
        f"{verdict['raw_rows']:,} rows in raw_events"
    )
    for problem in verdict["problems"][:5]:
        print(f"  {problem}")


def rate_and_events(about: str | None, seconds: float, events: int) -> argparse.Namespace:
    """The options of a benchmark beside live events, with its own defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rate", type=int, default=20_000, help="live events per second")
    parser.add_argument("--seconds", type=float, default=seconds)
    parser.add_argument("--events", type=int, default=events, help="history")
    return parser.parse_args()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.skip_to_head", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000, help="backlog")
    parser.add_argument("--rate", type=int, default=5_000, help="live events per second")
    given = parser.parse_args()
    with engines() as home:
        measure(home, given.events, given.rate)


if __name__ == "__main__":
    main()
