"""Replays of hours beside live events: `python -m benchmarks.replay [--rate 20000] [--seconds 120] [--events 3000000]`

Starts engines of its own, lands a history of which some events are days late, then sends live events and starts drains
one after the other as the relay does. Says how fresh live events are alone, and while hours are replayed all the time:
first with a loss that is restored (the late events are deleted from raw_events), then with nothing to do, then in mode
replace. At the end the audit has to be exact.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from clickhouse_connect.driver.client import Client

from benchmarks.skip_to_head import command, drains, engines, live, rate_and_events, run
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.drain import prepare

LATE_SHARE = 0.05
WARM_UP_SECONDS = 10
GOAL_RATIO = 1.5

_AGES = """
    SELECT quantilesExactWeighted(0.5, 0.99, 1)(age, weight), sum(weight) FROM batches
    ARRAY JOIN freshness_ms AS age, freshness_events AS weight
    WHERE source = 'drain' AND visible_at >= {since:DateTime64(3, 'UTC')} AND visible_at < {until:DateTime64(3, 'UTC')}
"""


def replays(home: Path, seconds: float, mode: str) -> list[dict[str, object]]:
    """One replay of the last hours after the other, for so long; returns what each reported. The last one is told to
    stop: the hours hold the live events, too, so each would take longer than the one before."""
    reports: list[dict[str, object]] = []
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        arguments = command("replay", "--from", "2 hours ago", "--mode", mode, "--yes", "--json")
        with (home / "replay.log").open("ab") as log:
            process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            said, _ = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a replay ended with {process.returncode}: see {home / 'replay.log'}")
        reports.append(json.loads(said))
    return reports


def watched(client: Client, name: str, since: float) -> float:
    """Says how fresh live events were since then; returns the 99th percentile."""
    ages, events = client.query(_AGES, parameters={"since": since, "until": time.time()}).result_rows[0]
    p50, p99, most = (age / 1_000 for age in ages)
    print(f"{name}: {events:,} live events, p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s", flush=True)
    return float(p99)


def told(reports: list[dict[str, object]], seconds: float) -> str:
    def total(name: str) -> int:
        return sum(int(str(report[name])) for report in reports)

    rate = total("messages") / seconds
    return (
        f"  {len(reports)} replays, {total('messages'):,} messages looked at ({rate:,.0f}/s), {total('restored'):,} "
        f"rows restored, {total('replaced'):,} replaced, {total('units_repaired'):,} units repaired"
    )


def measure(home: Path, rate: int, seconds: float, events: int) -> None:
    os.environ["METRICS_KAFKA__TOPIC"] = os.environ["METRICS_KAFKA__GROUP"] = "replay"
    settings = load_settings()
    prepare(settings)
    produce(LoadPlan(rate=0, events=events, duplicates=0.02, late=LATE_SHARE, malformed=0.001), settings)
    subprocess.run(command("drain", "--once"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with connect(settings, lightweight_deletes_sync=2) as client:
        with drains(home), live(home, rate):
            time.sleep(WARM_UP_SECONDS)
            began = time.time()
            time.sleep(seconds)
            alone = watched(client, "alone", began)
            client.command("DELETE FROM raw_events WHERE timestamp < now64(3) - INTERVAL 1 HOUR")
            for name, mode in (("restoring", "fill"), ("nothing to restore", "fill"), ("comparing", "replace")):
                began = time.time()
                reports = replays(home, seconds, mode)
                p99 = watched(client, name, began)
                print(told(reports, time.time() - began))
                print(f"  p99 is {p99 / alone:.2f} times that of live events alone; goal {GOAL_RATIO}", flush=True)
            began = time.time()
        subprocess.run(command("drain", "--once"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The replays were told to stop: what is still lost is restored by one that is not.
        print(told([run("replay", "--from", "2 hours ago", "--yes", "--json")], time.time() - began), flush=True)
    verdict = run("audit", "--json", accepts=(0, 1))
    print(f"audit: {'exact' if verdict['ok'] else verdict['problems'][:3]}", flush=True)


def main() -> None:
    arguments = rate_and_events(__doc__, 120, 3_000_000)
    with engines() as home:
        measure(home, arguments.rate, arguments.seconds, arguments.events)


if __name__ == "__main__":
    main()
