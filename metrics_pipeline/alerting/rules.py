"""What is wrong with the pipeline, judged from what is known about it. Pure: signals in, alerts out.

A rule is a function per kind of the catalogue that the sensor judges. Where a signal is missing nothing is concluded:
neither that a problem is there nor that it is gone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

from metrics_pipeline.alerting import catalogue
from metrics_pipeline.alerting.burn import FAST, WINDOWS, burning
from metrics_pipeline.alerting.catalogue import DEAD_LETTER_MESSAGES, KINDS
from metrics_pipeline.alerting.kind import Kind, Severity
from metrics_pipeline.alerting.signals import (
    WINDOW_SECONDS,
    BurnSignal,
    CheckSignal,
    EngineSignal,
    FlowSignal,
    PartitionSignal,
    RunSignal,
    Signals,
    StorageSignal,
)
from metrics_pipeline.runtime.timerange import DAY_SECONDS, HOUR_SECONDS, MINUTE_SECONDS
from metrics_pipeline.settings import AlertSettings

ERROR_LIMIT_CHARACTERS = 500
REPLAYED_IN_TIME = "replayed_in_time"
"""Name of the asset check that warns before dead letters are dropped."""
FRESH = "fresh"
"""Name of the asset checks that say whether rollups are built; other checks compare books."""
CANARY = "canary"
"""Name of the asset check that sends canaries."""
JUDGED = frozenset({f"raw_events {FRESH}", f"raw_events {CANARY}"})
"""Checks that show what rules here judge from other signals: they are no alerts of their own."""
_CHECKS = {REPLAYED_IN_TIME: catalogue.DEAD_LETTERS_EXPIRE, FRESH: catalogue.STALE_ROLLUPS}


@dataclass(frozen=True, slots=True)
class Alert:
    """One problem. `key` names it from tick to tick; `run_id` is a run to look at, if there is one."""

    kind: str
    subject: str
    severity: Severity
    summary: str
    run_id: str = ""

    @property
    def key(self) -> str:
        return f"{self.kind}:{self.subject}"

    @property
    def about(self) -> Kind:
        return KINDS[self.kind]

    @property
    def urgency(self) -> tuple[bool, str]:
        """Puts the worst first."""
        return (self.severity is not Severity.CRITICAL, self.key)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is wrong, and about what something is known: names of kinds (all their subjects), and keys of alerts.

    A problem that is not in `alerts` is gone only if its kind or key is in `known`.
    """

    alerts: tuple[Alert, ...]
    known: frozenset[str]

    def is_healthy(self, key: str) -> bool:
        """The problem is known not to be there."""
        is_known = key in self.known or key.partition(":")[0] in self.known
        return is_known and all(alert.key != key for alert in self.alerts)


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a rule says of a subject; without a summary the subject is healthy."""

    subject: str
    summary: str = ""
    run_id: str = ""
    severity: Severity | None = None


def judge(signals: Signals, settings: AlertSettings) -> Judgement:
    """Every problem that the signals show, the worst first."""
    alerts: list[Alert] = []
    known: set[str] = set()
    for kind, rule in RULES.items():
        parts = [getattr(signals, part) for part in kind.parts]
        if any(part is None for part in parts):
            continue
        found = list(rule(settings, signals.topic, *parts))
        alerts += [
            Alert(kind.name, f.subject, f.severity or kind.severity, f.summary, f.run_id) for f in found if f.summary
        ]
        lists_subjects = any(part.lists_subjects for part in kind.parts)
        known |= {f"{kind.name}:{f.subject}" for f in found} if lists_subjects else {kind.name}
    return Judgement(tuple(sorted(alerts, key=lambda alert: alert.urgency)), frozenset(known))


_Partitions = tuple[PartitionSignal, ...]


def _engine_down(_settings: AlertSettings, _topic: str, engines: tuple[EngineSignal, ...]) -> Iterator[_Finding]:
    for engine in engines:
        is_down = engine.problem is not None
        yield _Finding(engine.name, f"{engine.name} does not answer: {_short(engine.problem)}" if is_down else "")


def _failed_runs(_settings: AlertSettings, _topic: str, runs: tuple[RunSignal, ...]) -> Iterator[_Finding]:
    for run in runs:
        times = "the last run" if run.failures == 1 else f"the last {run.failures} runs"
        error = f": {_short(run.error)}" if run.error else ""
        yield _Finding(run.subject, f"{run.subject}: {times} failed{error}" if run.failures else "", run.run_id)


def _failed_checks(
    kind: Kind, _settings: AlertSettings, _topic: str, checks: tuple[CheckSignal, ...]
) -> Iterator[_Finding]:
    for check in checks:
        if check.name in JUDGED or _CHECKS.get(check.name.rpartition(" ")[2], catalogue.AUDIT_DRIFT) is not kind:
            continue
        said = f"{check.name}: {_short(check.description) or 'the check failed'}"
        severity = Severity.CRITICAL if check.is_error else Severity.WARNING
        yield _Finding(check.name, "" if check.passed else said, check.run_id, severity)


def _lag(settings: AlertSettings, topic: str, partitions: _Partitions) -> Iterator[_Finding]:
    lag = sum(p.lag for p in partitions)
    if lag > settings.lag_offsets:
        worst = max(partitions, key=lambda p: p.lag)
        yield _Finding(
            topic,
            f"{topic}: {lag:,} offsets behind, objective {settings.lag_offsets:,}; most of them in partition "
            f"{worst.partition} ({worst.lag:,})",
        )


def _freshness(settings: AlertSettings, topic: str, flow: FlowSignal) -> Iterator[_Finding]:
    p99 = flow.freshness_p99_seconds
    if p99 is not None and p99 > settings.freshness_seconds:
        yield _Finding(
            topic,
            f"{topic}: 1 of 100 events took {p99:.1f} s or more from produced to visible in the last "
            f"{_span(WINDOW_SECONDS)}, objective {settings.freshness_seconds:g} s",
        )


def _dead_letter_share(settings: AlertSettings, topic: str, flow: FlowSignal) -> Iterator[_Finding]:
    share = flow.dead_letters / flow.consumed if flow.consumed else 0.0
    if share > settings.dead_letter_share and flow.consumed >= DEAD_LETTER_MESSAGES:
        reasons = sorted(flow.reasons.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
        yield _Finding(
            topic,
            f"{topic}: {share:.1%} of {flow.consumed:,} messages in the last {_span(WINDOW_SECONDS)} became dead "
            f"letters, objective {settings.dead_letter_share:.1%}" + (f"; reasons: {named}" if named else ""),
        )


def _lost_offsets(_settings: AlertSettings, topic: str, flow: FlowSignal) -> Iterator[_Finding]:
    if flow.lost:
        lost = ", ".join(f"partition {p}: {offsets:,}" for p, offsets in sorted(flow.lost.items())[:5])
        more = f" and {len(flow.lost) - 5} more partitions" if len(flow.lost) > 5 else ""
        yield _Finding(
            topic,
            f"{topic}: {sum(flow.lost.values()):,} offsets went unread in the last {_span(DAY_SECONDS)} ({lost}{more})",
        )


def _no_drain(settings: AlertSettings, topic: str, partitions: _Partitions, flow: FlowSignal) -> Iterator[_Finding]:
    lag, ago = sum(p.lag for p in partitions), flow.landed_ago_seconds
    if lag and _is_older(ago, settings.stalled_seconds):
        since = "in all that was looked at" if ago is None else f"for {_span(ago)}"
        yield _Finding(topic, f"{topic}: no batch has landed {since}, and {lag:,} offsets wait")


def _stalled_partition(
    settings: AlertSettings, topic: str, partitions: _Partitions, flow: FlowSignal
) -> Iterator[_Finding]:
    if _is_older(flow.landed_ago_seconds, settings.stalled_seconds):
        # No partition moves: that is one alert, of another kind, and not one per partition.
        return
    for p in partitions:
        ago = p.landed_ago_seconds
        if p.lag and _is_older(ago, settings.stalled_seconds):
            since = "lately" if ago is None else f"for {_span(ago)}"
            yield _Finding(
                f"{topic}[{p.partition}]",
                f"{topic}: partition {p.partition} has {p.lag:,} offsets waiting and nothing of it landed {since}, "
                "while others move",
            )


def _freshness_burn(settings: AlertSettings, topic: str, burn: BurnSignal) -> Iterator[_Finding]:
    canaries = {f"{topic} canaries of shard {of.shard}": of.tallies for of in burn.canaries}
    for subject, tallies in {f"{topic} events": burn.events, **canaries}.items():
        found = burning(tallies, settings.freshness_share)
        if found is None:
            continue
        tally, span = tallies[found.rule.long], _span(WINDOWS[found.rule.long])
        yield _Finding(
            subject,
            f"{subject}: {tally.late:,} of {tally.events:,} were not visible within {settings.freshness_seconds:g} s "
            f"in the last {span}, objective {settings.freshness_share:.1%}: burn rate {found.rate:.1f}, limit "
            f"{found.rule.rate:g}",
            severity=Severity.CRITICAL if found.rule is FAST else Severity.WARNING,
        )


def _disk_space(settings: AlertSettings, _topic: str, storage: StorageSignal) -> Iterator[_Finding]:
    for disk in storage.disks:
        share = disk.free_bytes / disk.total_bytes if disk.total_bytes else 1.0
        days = disk.free_bytes / storage.bytes_per_day if storage.bytes_per_day > 0 else inf
        if share < settings.disk_free_share or days < settings.disk_days:
            growth = f", enough for {days:.1f} days at the growth of the last day" if days < inf else ""
            yield _Finding(
                disk.name,
                f"disk {disk.name}: {share:.0%} free ({disk.free_bytes / 2**30:.1f} of {disk.total_bytes / 2**30:.1f} "
                f"GiB){growth}; objective {settings.disk_free_share:.0%} and {settings.disk_days:g} days",
            )


def _too_many_parts(settings: AlertSettings, _topic: str, storage: StorageSignal) -> Iterator[_Finding]:
    for table, parts in sorted(storage.most_parts.items()):
        if parts > settings.parts_per_partition:
            yield _Finding(
                table, f"table {table}: {parts:,} parts in one partition, objective {settings.parts_per_partition:,}"
            )


RULES: Mapping[Kind, Callable[..., Iterator[_Finding]]] = {
    catalogue.ENGINE_DOWN: _engine_down,
    catalogue.FAILED_RUNS: _failed_runs,
    catalogue.LAG: _lag,
    catalogue.FRESHNESS: _freshness,
    catalogue.FRESHNESS_BURN: _freshness_burn,
    catalogue.DEAD_LETTER_SHARE: _dead_letter_share,
    catalogue.LOST_OFFSETS: _lost_offsets,
    catalogue.STALLED_PARTITION: _stalled_partition,
    catalogue.NO_DRAIN: _no_drain,
    catalogue.DISK_SPACE: _disk_space,
    catalogue.TOO_MANY_PARTS: _too_many_parts,
    **{
        kind: partial(_failed_checks, kind)
        for kind in (catalogue.STALE_ROLLUPS, catalogue.AUDIT_DRIFT, catalogue.DEAD_LETTERS_EXPIRE)
    },
}
"""A rule is called with the parts of `Signals` that its kind is judged from, in their order."""


def _is_older(age_seconds: float | None, limit_seconds: float) -> bool:
    return age_seconds is None or age_seconds > limit_seconds


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= ERROR_LIMIT_CHARACTERS else line[: ERROR_LIMIT_CHARACTERS - 1] + "…"


def _span(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", DAY_SECONDS), ("hours", HOUR_SECONDS), ("minutes", MINUTE_SECONDS)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
