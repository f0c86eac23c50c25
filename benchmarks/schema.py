"""Changes of the schema under load: `python -m benchmarks.schema [--rate 20000] [--seconds 60] [--events 2000000]`

Starts engines of its own, lands a history, then sends live events, starts drains one after the other as the relay does,
and asks the dashboards' questions all the time. Applies versions that want another schema, one after the other, and
says how long each took, how fresh live events were meanwhile, and how long questions took. In the end drains of the
last version take over, no question may have failed, and the audit has to be exact.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import Error

from benchmarks.skip_to_head import command, drains, engines, freshness, live, rate_and_events, run
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dashboards.panel import panel_query
from metrics_pipeline.dashboards.panels import PANELS
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.drain import prepare

VERSIONS = (
    "tables",
    "tables,promoted",
    "tables,promoted,grain",
    "tables,promoted,grain,dimension",
)
WARM_UP_SECONDS = 10
QUESTION_PAUSE_SECONDS = 0.5
"""Two questions a second and a little: as several people with open dashboards ask."""


class Questions:
    """Asks all panels in turn, and counts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = Event()
        self.seconds: list[float] = []
        self.failed: list[str] = []

    def ask(self) -> None:
        with connect(self._settings) as client:
            while not self._stop.is_set():
                for panel in PANELS:
                    end = datetime.now(UTC)
                    sql, parameters = panel_query(panel, end - timedelta(hours=1), end)
                    began = time.monotonic()
                    try:
                        client.query(sql, parameters=parameters)
                    except Error as error:
                        self.failed.append(f"{panel.name}: {str(error)[:300]}")
                    self.seconds.append(time.monotonic() - began)
                    if self._stop.wait(QUESTION_PAUSE_SECONDS):
                        return

    @contextmanager
    def asked(self) -> Iterator[None]:
        thread = Thread(target=self.ask)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(60)

    def told(self, since: int) -> str:
        seconds = sorted(self.seconds[since:]) or [0.0]
        return f"{len(seconds)} questions, p50 {statistics.median(seconds):.2f} s, max {seconds[-1]:.2f} s"


def watched(name: str, client: Client, questions: Questions, seconds: float, version: str = "") -> None:
    """Applies the version, if one is given, and goes on until so many seconds are over."""
    began, since = time.time(), len(questions.seconds)
    took = ""
    if version:
        arguments = [sys.executable, "-m", "benchmarks.next_version", version, "schema", "apply"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        took = f"applied in {time.time() - began:.1f} s, "
    time.sleep(max(0.0, seconds - (time.time() - began)))
    print(f"{name}: {took}{freshness(client, began, time.time())}; {questions.told(since)}", flush=True)


def drain_all(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(home: Path, rate: int, seconds: float, events: int) -> None:
    os.environ["METRICS_KAFKA__TOPIC"] = os.environ["METRICS_KAFKA__GROUP"] = "schema"
    settings = load_settings()
    prepare(settings)
    produce(LoadPlan(rate=0, events=events, duplicates=0.02, late=0.05, malformed=0.001), settings)
    drain_all(command("drain", "--once"))
    questions = Questions(settings)
    with connect(settings) as client:
        with drains(home), live(home, rate), questions.asked():
            time.sleep(WARM_UP_SECONDS)
            watched("no change", client, questions, seconds)
            for version in VERSIONS:
                watched(version, client, questions, seconds, version)
        last = [sys.executable, "-m", "benchmarks.next_version", VERSIONS[-1]]
        drain_all([*last, "drain", "--once"])
        subprocess.run([*last, "rollups", "rebuild", "--when", "last 30 days", "--stale"], check=False)
        rows = client.query("SELECT count(), uniqExact(event_id) FROM raw_events").result_rows[0]
        print(f"raw_events: {rows[0]:,} rows, {rows[1]:,} identities", flush=True)
    print(f"failed questions: {len(questions.failed)} {questions.failed[:3]}", flush=True)
    verdict = run("audit", "--json", accepts=(0, 1))
    print(f"audit: {'exact' if verdict['ok'] else verdict['problems'][:3]}", flush=True)


def main() -> None:
    arguments = rate_and_events(__doc__, 60, 2_000_000)
    with engines() as home:
        measure(home, arguments.rate, arguments.seconds, arguments.events)


if __name__ == "__main__":
    main()
