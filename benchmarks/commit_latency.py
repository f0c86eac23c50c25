"""What a fenced commit costs: `python benchmarks/commit_latency.py [COMMITS]`, against the Kafka of the settings."""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from metrics_pipeline.kafka.committed import FencedOffsets
from metrics_pipeline.kafka.intents import Commit, Intent, Owner
from metrics_pipeline.settings import kafka_address, load_settings


def timed_ms(action: Callable[[], object]) -> float:
    before = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - before)


def main() -> None:
    settings = load_settings()
    kafka = settings.kafka.model_copy(update={"group": f"benchmark-{time.time_ns()}"})
    owner = Owner(1, 0)
    commits = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with FencedOffsets(kafka_address(settings), kafka, owner, range(8)) as store:
        fence_ms = timed_ms(lambda: store.fence(owner))
        took = sorted(
            timed_ms(partial(store.commit, {p: Commit(n, Intent(n + 1, "0" * 32), "id") for p in range(8)}))
            for n in range(commits)
        )
    print(f"fence {fence_ms:.0f} ms; commit p50 {statistics.median(took):.1f} ms, max {took[-1]:.1f} ms, n {commits}")


if __name__ == "__main__":
    main()
