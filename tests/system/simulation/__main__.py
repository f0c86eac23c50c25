"""Replay a schedule, or look for one that fails: python -m tests.system.simulation --seed N [--trace]"""

import argparse
import sys
import time

from tests.system.simulation.run import failure_of, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this schedule alone")
    parser.add_argument("--trace", action="store_true", help="print its steps")
    parser.add_argument("--schedules", type=int, default=2_000, help="how many to run without --seed")
    parser.add_argument("--first-seed", type=int, default=0)
    given = parser.parse_args()
    seeds = range(given.first_seed, given.first_seed + given.schedules) if given.seed is None else [given.seed]
    started = time.perf_counter()
    failures = 0
    for seed in seeds:
        result = run_seed(seed, print if given.trace else None)
        if result.problems:
            failures += 1
            print(failure_of(result))
    seconds = time.perf_counter() - started
    print(f"{len(seeds)} schedules, {failures} failed, {seconds:.1f} s")
    return 1 if failures else 0


sys.exit(main())
