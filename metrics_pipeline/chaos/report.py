"""The account of a run, for people: a row per kind of fault, and what was seen while it lasted."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metrics_pipeline.chaos.journal import DrainEnd, Injected, Journal, Result
from metrics_pipeline.chaos.run import Outcome

AFTERMATH_SECONDS = 2.0
"""What is seen so long after a fault is put down to it as well: a successor repeats a batch, say."""

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
    sights = sorted(
        [*_sights_of_logs(outcome.folder / "drains"), *_sights_of_ends(outcome.journal)], key=lambda s: s.at_seconds
    )
    by_kind: dict[str, list[Injected]] = {}
    for injected in outcome.journal.injected:
        by_kind.setdefault(injected.injection.kind, []).append(injected)
    return [
        Row(
            kind=kind,
            sentence=fault.sentence,
            injected=_count(by_kind.get(kind, ()), Result.INJECTED),
            missed=_count(by_kind.get(kind, ()), Result.MISSED),
            seen=_seen(by_kind.get(kind, ()), sights),
        )
        for kind, fault in outcome.faults.items()
    ]


def _count(injected: Iterable[Injected], result: Result) -> int:
    return sum(i.result is result for i in injected)


def _seen(injected: Iterable[Injected], sights: list[Sight]) -> Counter[str]:
    """Sights while one of the faults lasted, or shortly after; each once."""
    spans = [(i.began_seconds, i.ended_seconds + AFTERMATH_SECONDS) for i in injected if i.result is Result.INJECTED]
    return Counter(s.what for s in sights if any(begin <= s.at_seconds <= end for begin, end in spans))


def _sights_of_ends(journal: Journal) -> list[Sight]:
    return [Sight(end.at_seconds, f"drain ended: {_plain(end)}") for end in journal.drain_ends]


def _plain(end: DrainEnd) -> str:
    return end.ending


def _sights_of_logs(folder: Path) -> list[Sight]:
    found: list[Sight] = []
    for log in sorted(folder.glob("*.log")):
        with log.open(errors="replace") as lines:
            for line in lines:
                time = _LINE.match(line)
                if time is not None:
                    found += [Sight(float(time[1]), what) for what, words in SIGHTS.items() if words in line]
    return found


def totals(outcome: Outcome) -> Counter[str]:
    """All that was seen in the whole run."""
    sights = [*_sights_of_logs(outcome.folder / "drains"), *_sights_of_ends(outcome.journal)]
    return Counter(sight.what for sight in sights)


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
        "| fault | what happens | injected | seen while it lasted |",
        "|---|---|---:|---|",
    ]
    lines += [
        f"| {row.kind} | {row.sentence.rstrip('.')} | {row.injected} | {row.seen_text} |"
        for row in rows_of(outcome)
        if row.injected
    ]
    lines += [f"\n- {problem}" for problem in outcome.problems]
    return "\n".join(lines) + "\n"
