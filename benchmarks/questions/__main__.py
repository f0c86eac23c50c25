"""`python -m benchmarks.questions fill|run|plot`; see --help."""

import argparse
from pathlib import Path

from benchmarks.questions.fill import fill

_HOME = Path("/tmp/metrics-pipeline-questions")  # noqa: S108 - gigabytes that nobody wants in a checkout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.questions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill", help="fill the server of --home, or bring it up to now")
    filling.add_argument("--home", type=Path, default=_HOME)
    filling.add_argument("--raw-hours", type=float, default=6.0)
    filling.add_argument("--raw-rate", type=int, default=4_000, help="raw events per second, below the rollups' 40,000")
    given = parser.parse_args()
    given.home.mkdir(parents=True, exist_ok=True)
    if given.command == "fill":
        fill(given.home, raw_hours=given.raw_hours, raw_rate=given.raw_rate)


if __name__ == "__main__":
    main()
