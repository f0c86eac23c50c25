"""The account of a run, for people: a row per kind of fault, and what was seen while it lasted."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from metrics_pipeline.lab.chaos.faults.kafka import ASIDE
from metrics_pipeline.lab.chaos.journal import Injected, Result
from metrics_pipeline.lab.chaos.run import Outcome

AFTERMATH_SECONDS = 2.0
"""What is seen within this time after a fault is put down to it as well: a successor repeats a batch, say."""

SIGHTS: Mapping[str, str] = {
    "request repeated": "; trying again in",
    "batch rebuilt": "rebuilding batch",
    "landed batch closed": "had landed, closing it",
    "loss put on record": "lost to the topic's retention",
    "drain paused its partitions": "pausing the partitions",
}
"""What a drain's log says, and the words to find it by."""

_LINE = re.compile(r"^(\d+\.\d{3}) ")


class Sight(NamedTuple):
    """Something that a drain did or met. Epoch seconds."""

    at_seconds: float
    what: str


class Row(NamedTuple):
    kind: str
    sentence: str
    injected: int
    missed: int
    seen: dict[str, int]
    """The most frequent first."""

    @property
    def seen_text(self) -> str:
        return ", ".join(f"{what}: {count:,}" for what, count in self.seen.items())


def rows_of(outcome: Outcome) -> list[Row]:
    """In the order of the catalogue; kinds that were never tried are in it with zeros."""
    tried = outcome.journal.injected
    seen = put_down(_sights(outcome), [i for i in tried if i.result is Result.INJECTED])
    results = Counter((i.injection.kind, i.result) for i in tried)
    return [
        Row(
            kind,
            fault.sentence,
            results[kind, Result.INJECTED],
            results[kind, Result.MISSED],
            dict(seen.get(kind, Counter()).most_common()),
        )
        for kind, fault in outcome.faults.items()
    ]


def put_down(sights: Iterable[Sight], injected: Iterable[Injected]) -> dict[str, Counter[str]]:
    """Kind -> what was seen while faults of that kind alone lasted, or right after.

    What could have two causes is left out.
    """
    spans = [(i.injection.kind, i.began_seconds, i.ended_seconds) for i in injected]
    seen: dict[str, Counter[str]] = {}
    for sight in sights:
        kinds = {k for k, begin, end in spans if begin <= sight.at_seconds <= end} or {
            k for k, _, end in spans if end < sight.at_seconds <= end + AFTERMATH_SECONDS
        }
        if len(kinds) == 1:
            seen.setdefault(kinds.pop(), Counter())[sight.what] += 1
    return seen


def _sights(outcome: Outcome) -> list[Sight]:
    logs = [log for log in (outcome.world.folder / "drains").glob("*.log") if not log.name.startswith(ASIDE)]
    ends = [end for end in outcome.journal.drain_ends if not end.drain.startswith(ASIDE)]
    return [
        *(
            Sight(float(time[1]), what)
            for log in logs
            for line in log.read_text(errors="replace").splitlines()
            if (time := _LINE.match(line)) is not None
            for what, words in SIGHTS.items()
            if words in line
        ),
        *(Sight(end.at_seconds, f"drain ended: {end.ending}") for end in ends),
    ]


def totals(outcome: Outcome) -> Counter[str]:
    """All that was seen in the whole run."""
    return Counter(sight.what for sight in _sights(outcome))


def command_of(outcome: Outcome) -> str:
    """The command that replays the run's plan."""
    options = outcome.options
    return f"metrics-pipeline chaos --seconds {options.seconds:g} --seed {options.seed} --rate {options.rate:g}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    counts = asdict(outcome.comparison)
    del counts["differences"]
    return {
        "ok": outcome.is_exact,
        "seed": outcome.options.seed,
        "seconds": outcome.options.seconds,
        "faults": outcome.journal.count(Result.INJECTED),
        "kinds": len(outcome.journal.kinds()),
        "missed": outcome.journal.count(Result.MISSED),
        "drains": outcome.world.fleet.started,
        **counts,
        "problems": list(outcome.problems),
        "seen": dict(totals(outcome).most_common()),
        "kinds_of_faults": [row._asdict() for row in rows_of(outcome)],
        "replay": command_of(outcome),
    }


def summary_of(outcome: Outcome) -> str:
    comparison = outcome.comparison
    eaten = f" ({comparison.eaten:,} more were eaten by retention, as the audit says)" if comparison.eaten else ""
    return (
        f"{outcome.journal.count(Result.INJECTED)} faults of {len(outcome.journal.kinds())} kinds, "
        f"{outcome.world.fleet.started:,} drain processes: {comparison.landed:,} unique events landed{eaten}, "
        f"{comparison.lost:,} lost, {comparison.doubled:,} doubled, drift {comparison.rollup_drift:,}, "
        f"{comparison.dead_letters:,} dead letters for {comparison.malformed:,} malformed messages"
    )


def as_markdown(outcome: Outcome) -> str:
    """A table for the documentation."""
    lines = [
        f"`{command_of(outcome)}`: {summary_of(outcome)}.",
        "",
        "| fault | what happens | injected | seen while it alone lasted, or right after |",
        "|---|---|---:|---|",
    ]
    lines += [
        f"| {row.kind} | {row.sentence.rstrip('.')} | {row.injected} | {row.seen_text} |"
        for row in rows_of(outcome)
        if row.injected
    ]
    lines += [f"\n- {problem}" for problem in outcome.problems]
    return "\n".join(lines) + "\n"
