"""The account of a run, for people: a row per kind of fault, and what was seen while it lasted."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics_pipeline.lab.chaos.faults.topic import PREFIX
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


@dataclass(frozen=True, slots=True)
class Sight:
    """Something that a drain did or met. Epoch seconds."""

    at_seconds: float
    what: str


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of fault in the report."""

    kind: str
    sentence: str
    injected: int
    missed: int
    seen: Counter[str]

    @property
    def seen_text(self) -> str:
        return ", ".join(f"{what}: {count:,}" for what, count in self.seen.most_common())


def rows_of(outcome: Outcome) -> list[Row]:
    """In the order of the catalogue; kinds that were never tried are in it with zeros."""
    tried = outcome.journal.injected
    seen = put_down(_sights(outcome), [i for i in tried if i.result is Result.INJECTED])
    return [
        Row(
            kind=kind,
            sentence=fault.sentence,
            injected=_count(tried, kind, Result.INJECTED),
            missed=_count(tried, kind, Result.MISSED),
            seen=seen.get(kind, Counter()),
        )
        for kind, fault in outcome.faults.items()
    ]


def _count(tried: Iterable[Injected], kind: str, result: Result) -> int:
    return sum(i.injection.kind == kind and i.result is result for i in tried)


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
    logs = [log for log in sorted((outcome.folder / "drains").glob("*.log")) if not log.name.startswith(PREFIX)]
    ends = [end for end in outcome.journal.drain_ends if not end.drain.startswith(PREFIX)]
    return [
        *(sight for log in logs for sight in _sights_of(log)),
        *(Sight(end.at_seconds, f"drain ended: {end.ending}") for end in ends),
    ]


def _sights_of(log: Path) -> list[Sight]:
    found: list[Sight] = []
    with log.open(errors="replace") as lines:
        for line in lines:
            time = _LINE.match(line)
            if time is not None:
                found += [Sight(float(time[1]), what) for what, words in SIGHTS.items() if words in line]
    return found


def totals(outcome: Outcome) -> Counter[str]:
    """All that was seen in the whole run."""
    return Counter(sight.what for sight in _sights(outcome))


def command_of(outcome: Outcome) -> str:
    """The command that replays the run's plan."""
    options = outcome.options
    return f"metrics-pipeline chaos --seconds {options.seconds:g} --seed {options.seed} --rate {options.rate:g}"


def as_json(outcome: Outcome) -> dict[str, Any]:
    """For scripts."""
    comparison = outcome.comparison
    return {
        "ok": outcome.is_exact,
        "seed": outcome.options.seed,
        "seconds": outcome.options.seconds,
        "faults": outcome.journal.count(Result.INJECTED),
        "kinds": len(outcome.journal.kinds()),
        "missed": outcome.journal.count(Result.MISSED),
        "drains": outcome.drains,
        "sent": comparison.sent,
        "eaten": comparison.eaten,
        "landed": comparison.landed,
        "lost": comparison.lost,
        "doubled": comparison.doubled,
        "strange": comparison.strange,
        "rollup_drift": comparison.drift,
        "malformed": comparison.malformed,
        "dead_letters": comparison.dead_letters,
        "problems": list(outcome.problems),
        "seen": dict(totals(outcome).most_common()),
        "kinds_of_faults": [
            {
                "kind": row.kind,
                "sentence": row.sentence,
                "injected": row.injected,
                "missed": row.missed,
                "seen": dict(row.seen.most_common()),
            }
            for row in rows_of(outcome)
        ],
        "replay": command_of(outcome),
    }


def summary_of(outcome: Outcome) -> str:
    """One sentence."""
    comparison = outcome.comparison
    eaten = f" ({comparison.eaten:,} more were eaten by retention, as the audit says)" if comparison.eaten else ""
    return (
        f"{outcome.journal.count(Result.INJECTED)} faults of {len(outcome.journal.kinds())} kinds, "
        f"{outcome.drains:,} drain processes: {comparison.landed:,} unique events landed{eaten}, "
        f"{comparison.lost:,} lost, {comparison.doubled:,} doubled, drift {comparison.drift:,}, "
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
