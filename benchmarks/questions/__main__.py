"""`python -m benchmarks.questions fill|run|plot|planning`; see --help."""

import argparse
from pathlib import Path

from benchmarks.questions.fill import fill
from benchmarks.questions.planning import planning
from benchmarks.questions.plots import plot
from benchmarks.questions.report import write
from benchmarks.questions.run import run

_HOME = Path("/tmp/metrics-pipeline-questions")  # noqa: S108 - gigabytes that nobody wants in a checkout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.questions", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("fill", help="fill the server of --home, or bring it up to now")
    filling.add_argument("--home", type=Path, default=_HOME)
    filling.add_argument("--raw-hours", type=float, default=6.0)
    filling.add_argument("--raw-rate", type=int, default=4_000, help="raw events per second, below the rollups' 40,000")
    running = commands.add_parser("run", help="measure everything, alone or with --ingest")
    running.add_argument("--home", type=Path, default=_HOME)
    running.add_argument("--ingest", action="store_true", help="during 40,000 events/s into the same server")
    running.add_argument("--repetitions", type=int, default=20)
    running.add_argument("--seconds", type=float, default=3_600, help="no further round of repetitions after so long")
    running.add_argument("--per-second", type=float, default=0, help="questions per second; 0: without a pause between")
    running.add_argument("--cold", type=int, default=1, help="cold repetitions of each question")
    running.add_argument("--seed", type=int, default=1)
    running.add_argument("--only", default="", help="questions whose dashboard/panel/range holds this text")
    plotting = commands.add_parser("plot", help="tables and charts of what was measured")
    plotting.add_argument("--home", type=Path, default=_HOME)
    plotting.add_argument("--images", type=Path, default=Path("docs/images"))
    commands.add_parser("planning", help="what a call of a view costs on an empty server")
    given = parser.parse_args()
    if given.command == "planning":
        planning()
        return
    given.home.mkdir(parents=True, exist_ok=True)
    if given.command == "fill":
        fill(given.home, raw_hours=given.raw_hours, raw_rate=given.raw_rate)
    elif given.command == "run":
        run(
            given.home,
            ingest=given.ingest,
            repetitions=given.repetitions,
            seconds=given.seconds,
            cold=given.cold,
            seed=given.seed,
            only=given.only,
            per_second=given.per_second,
        )
    else:
        write(given.home)
        plot(given.home, given.images)


if __name__ == "__main__":
    main()
