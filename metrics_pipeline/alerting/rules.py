"""What is wrong with the pipeline, judged from what is known about it. Pure: signals in, alerts out.

An alert says what happened, what it means, and what to do now. Where a signal is missing nothing is concluded: neither
that a problem is there nor that it is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from metrics_pipeline.alerting.burn import FAST, WINDOWS, Tallies, burning
from metrics_pipeline.alerting.signals import (
    BurnSignal,
    CheckSignal,
    DiskSignal,
    FlowSignal,
    PartitionSignal,
    RunSignal,
    Signals,
    StorageSignal,
)

ERROR_LIMIT_CHARACTERS = 500


class Severity(StrEnum):
    """How soon somebody must act: now, or within the day."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of alert. `is_state` ones must hold for a while before they are told, so that a blip tells nobody."""

    name: str
    title: str
    severity: Severity
    meaning: str
    command: str
    is_state: bool = True

    @property
    def runbook(self) -> str:
        """File in docs/runbooks."""
        return f"{self.name.replace('_', '-')}.md"


ENGINE_DOWN = Kind(
    "engine_down",
    "an engine does not answer",
    Severity.CRITICAL,
    "Nothing lands until it is back; events wait in the topic and nothing is lost while its retention lasts.",
    "metrics-pipeline alerts status",
)
FAILED_RUNS = Kind(
    "failed_runs",
    "runs fail",
    Severity.CRITICAL,
    "The work of these runs is not done. A drain that fails is tried again by the relay, and no event is lost.",
    "metrics-pipeline status",
    is_state=False,
)
LAG = Kind(
    "lag",
    "the pipeline is behind",
    Severity.WARNING,
    "Events are produced faster than they land, or draining stood still. All of them will land, later than usual.",
    "metrics-pipeline status",
)
FRESHNESS = Kind(
    "freshness",
    "events land late",
    Severity.WARNING,
    "Dashboards show the last moments incompletely. Nothing is lost.",
    "metrics-pipeline status",
)
FRESHNESS_BURN = Kind(
    "freshness_burn",
    "the freshness objective is missed",
    Severity.CRITICAL,
    "So many events, or canaries of a shard, are late or never seen that the objective can't be kept. Dashboards are "
    "behind.",
    "metrics-pipeline canary",
)
STALE_ROLLUPS = Kind(
    "stale_rollups",
    "rollups are not built",
    Severity.WARNING,
    "Readers take finer rows meanwhile: answers are right, but slower over long spans.",
    "metrics-pipeline rollups status",
)
AUDIT_DRIFT = Kind(
    "audit_drift",
    "the books contradict each other",
    Severity.CRITICAL,
    "Events are missing, or count twice, in the tables that are named: answers about that time are wrong.",
    "metrics-pipeline audit",
    is_state=False,
)
DEAD_LETTERS_EXPIRE = Kind(
    "dead_letters_expire",
    "dead letters are dropped soon",
    Severity.WARNING,
    "Messages that were never replayed are about to be dropped, by the topic's retention or by the table's.",
    "metrics-pipeline dead-letters list",
    is_state=False,
)
DEAD_LETTER_SHARE = Kind(
    "dead_letter_share",
    "many messages are no valid events",
    Severity.WARNING,
    "A service sends what the event contract does not allow. Its messages are kept in dead_letters, not raw_events.",
    "metrics-pipeline status",
)
LOST_OFFSETS = Kind(
    "lost_offsets",
    "events are lost",
    Severity.CRITICAL,
    "The topic's retention dropped messages before they were read. They are gone; the ledger has their ranges.",
    "metrics-pipeline audit",
    is_state=False,
)
STALLED_PARTITION = Kind(
    "stalled_partition",
    "a partition stands still while others move",
    Severity.CRITICAL,
    "Its events do not land, and are lost once the topic's retention reaches them.",
    "metrics-pipeline drain --once",
)
NO_DRAIN = Kind(
    "no_drain",
    "nothing is drained",
    Severity.CRITICAL,
    "Events wait in the topic and no run lands them: the relay is off, its runs do not start, or they can't go on.",
    "metrics-pipeline drain --once",
)
DISK_SPACE = Kind(
    "disk_space",
    "a disk runs full",
    Severity.CRITICAL,
    "When it is full the server refuses inserts, and draining stops until there is space.",
    "metrics-pipeline status",
)
TOO_MANY_PARTS = Kind(
    "too_many_parts",
    "merges fall behind",
    Severity.WARNING,
    "The server slows inserts down, and refuses them at its limit of parts per partition.",
    "metrics-pipeline status",
)

REPLAYED_IN_TIME = "replayed_in_time"
"""Name of the asset check that warns before dead letters are dropped."""
FRESH = "fresh"
"""Name of the asset checks that say whether rollups are built; other checks compare books."""
CANARY = "canary"
"""Name of the asset check that sends canaries."""
JUDGED = frozenset({f"raw_events {FRESH}", f"raw_events {CANARY}"})
"""Checks that show what is judged here from the signals themselves: they tell nothing of their own."""
FRESHNESS_KINDS = frozenset(kind.name for kind in (FRESHNESS, FRESHNESS_BURN, LAG, NO_DRAIN, STALLED_PARTITION))
"""What keeps events from being visible in time."""

KINDS = {
    kind.name: kind
    for kind in (
        ENGINE_DOWN,
        FAILED_RUNS,
        LAG,
        FRESHNESS,
        FRESHNESS_BURN,
        STALE_ROLLUPS,
        AUDIT_DRIFT,
        DEAD_LETTERS_EXPIRE,
        DEAD_LETTER_SHARE,
        LOST_OFFSETS,
        STALLED_PARTITION,
        NO_DRAIN,
        DISK_SPACE,
        TOO_MANY_PARTS,
    )
}


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """Thresholds: above them (for `disk_*` below) something is wrong."""

    freshness_seconds: float
    freshness_share: float
    lag_offsets: int
    dead_letter_share: float
    dead_letter_messages: int
    stalled_seconds: float
    disk_free_share: float
    disk_days: float
    parts_per_partition: int


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
    def meaning(self) -> str:
        return KINDS[self.kind].meaning

    @property
    def command(self) -> str:
        return KINDS[self.kind].command

    @property
    def runbook(self) -> str:
        return KINDS[self.kind].runbook


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


def judge(signals: Signals, policy: AlertPolicy) -> Judgement:
    """Every problem that the signals show, the worst first."""
    alerts: list[Alert] = [
        _alert(ENGINE_DOWN, engine.name, f"{engine.name} does not answer: {_short(engine.problem)}")
        for engine in signals.engines
        if engine.problem is not None
    ]
    known = {f"{ENGINE_DOWN.name}:{engine.name}" for engine in signals.engines}
    if signals.partitions is not None:
        known.add(LAG.name)
        alerts += _lag(signals.topic, signals.partitions, policy)
    if signals.flow is not None:
        known |= {FRESHNESS.name, DEAD_LETTER_SHARE.name, LOST_OFFSETS.name}
        alerts += _flow(signals.topic, signals.flow, policy)
    if signals.partitions is not None and signals.flow is not None:
        known |= {NO_DRAIN.name, STALLED_PARTITION.name}
        alerts += _standstill(signals.topic, signals.partitions, signals.flow, policy)
    if signals.burn is not None:
        known.add(FRESHNESS_BURN.name)
        alerts += _burn(signals.topic, signals.burn, policy)
    if signals.storage is not None:
        known |= {DISK_SPACE.name, TOO_MANY_PARTS.name}
        alerts += _storage(signals.storage, policy)
    alerts += [_failed_runs(run) for run in signals.runs if run.failures]
    known |= {f"{FAILED_RUNS.name}:{run.subject}" for run in signals.runs}
    checks = [check for check in signals.checks if check.name not in JUDGED]
    alerts += [_failed_check(check) for check in checks if not check.passed]
    known |= {f"{_kind_of(check).name}:{check.name}" for check in checks}
    alerts.sort(key=lambda alert: (alert.severity is not Severity.CRITICAL, alert.key))
    return Judgement(tuple(alerts), frozenset(known))


def _alert(kind: Kind, subject: str, summary: str, *, run_id: str = "", severity: Severity | None = None) -> Alert:
    return Alert(kind.name, subject, severity or kind.severity, summary, run_id)


def _lag(topic: str, partitions: tuple[PartitionSignal, ...], policy: AlertPolicy) -> Iterator[Alert]:
    lag = sum(p.lag for p in partitions)
    if lag > policy.lag_offsets:
        worst = max(partitions, key=lambda p: p.lag)
        yield _alert(
            LAG,
            topic,
            f"{topic}: {lag:,} offsets behind, objective {policy.lag_offsets:,}; most of them in partition "
            f"{worst.partition} ({worst.lag:,})",
        )


def _flow(topic: str, flow: FlowSignal, policy: AlertPolicy) -> Iterator[Alert]:
    window = _span(flow.window_seconds)
    p99 = flow.freshness_p99_seconds
    if p99 is not None and p99 > policy.freshness_seconds:
        yield _alert(
            FRESHNESS,
            topic,
            f"{topic}: 1 of 100 events took {p99:.1f} s or more from produced to visible in the last {window}, "
            f"objective {policy.freshness_seconds:g} s",
        )
    share = flow.dead_letters / flow.consumed if flow.consumed else 0.0
    if share > policy.dead_letter_share and flow.consumed >= policy.dead_letter_messages:
        reasons = sorted(flow.reasons.items(), key=lambda item: -item[1])[:3]
        named = ", ".join(f"{reason} {count:,}" for reason, count in reasons)
        yield _alert(
            DEAD_LETTER_SHARE,
            topic,
            f"{topic}: {share:.1%} of {flow.consumed:,} messages in the last {window} became dead letters, objective "
            f"{policy.dead_letter_share:.1%}" + (f"; reasons: {named}" if named else ""),
        )
    if flow.lost:
        lost = ", ".join(f"partition {p}: {offsets:,}" for p, offsets in sorted(flow.lost.items())[:5])
        more = f" and {len(flow.lost) - 5} more partitions" if len(flow.lost) > 5 else ""
        yield _alert(
            LOST_OFFSETS,
            topic,
            f"{topic}: {sum(flow.lost.values()):,} offsets went unread in the last {_span(flow.lost_window_seconds)} "
            f"({lost}{more})",
        )


def _standstill(
    topic: str, partitions: tuple[PartitionSignal, ...], flow: FlowSignal, policy: AlertPolicy
) -> Iterator[Alert]:
    lag = sum(p.lag for p in partitions)
    if lag and _is_older(flow.landed_ago_seconds, policy.stalled_seconds):
        ago = flow.landed_ago_seconds
        since = "in all that was looked at" if ago is None else f"for {_span(ago)}"
        yield _alert(NO_DRAIN, topic, f"{topic}: no batch has landed {since}, and {lag:,} offsets wait")
        return
    for p in partitions:
        if p.lag and _is_older(p.landed_ago_seconds, policy.stalled_seconds):
            ago = p.landed_ago_seconds
            since = "lately" if ago is None else f"for {_span(ago)}"
            yield _alert(
                STALLED_PARTITION,
                f"{topic}[{p.partition}]",
                f"{topic}: partition {p.partition} has {p.lag:,} offsets waiting and nothing of it landed {since}, "
                "while others move",
            )


def _burn(topic: str, burn: BurnSignal, policy: AlertPolicy) -> Iterator[Alert]:
    sources = {f"{topic} canaries of shard {of.shard}": of.tallies for of in burn.canaries}
    for subject, tallies in {f"{topic} events": burn.events, **sources}.items():
        yield from _burning(subject, tallies, policy)


def _burning(subject: str, tallies: Tallies, policy: AlertPolicy) -> Iterator[Alert]:
    found = burning(tallies, policy.freshness_share)
    if found is not None:
        tally, span = tallies[found.rule.long], _span(WINDOWS[found.rule.long])
        yield _alert(
            FRESHNESS_BURN,
            subject,
            f"{subject}: {tally.late:,} of {tally.events:,} were not visible within {policy.freshness_seconds:g} s in "
            f"the last {span}, objective {policy.freshness_share:.1%}: burn rate {found.rate:.1f}, limit "
            f"{found.rule.rate:g}",
            severity=Severity.CRITICAL if found.rule is FAST else Severity.WARNING,
        )


def _storage(storage: StorageSignal, policy: AlertPolicy) -> Iterator[Alert]:
    for disk in storage.disks:
        said = _disk(disk, storage.bytes_per_day, policy)
        if said:
            yield _alert(DISK_SPACE, disk.name, f"disk {disk.name}: {said}")
    for table, parts in sorted(storage.most_parts.items()):
        if parts > policy.parts_per_partition:
            yield _alert(
                TOO_MANY_PARTS,
                table,
                f"table {table}: {parts:,} parts in one partition, objective {policy.parts_per_partition:,}",
            )


def _disk(disk: DiskSignal, bytes_per_day: float, policy: AlertPolicy) -> str:
    share = disk.free_bytes / disk.total_bytes if disk.total_bytes else 1.0
    days = disk.free_bytes / bytes_per_day if bytes_per_day > 0 else float("inf")
    if share >= policy.disk_free_share and days >= policy.disk_days:
        return ""
    growth = f", enough for {days:.1f} days at the growth of the last day" if days < float("inf") else ""
    return (
        f"{share:.0%} free ({disk.free_bytes / 2**30:.1f} of {disk.total_bytes / 2**30:.1f} GiB){growth}; objective "
        f"{policy.disk_free_share:.0%} and {policy.disk_days:g} days"
    )


def _failed_runs(run: RunSignal) -> Alert:
    times = "the last run" if run.failures == 1 else f"the last {run.failures} runs"
    error = f": {_short(run.error)}" if run.error else ""
    return _alert(FAILED_RUNS, run.subject, f"{run.subject}: {times} failed{error}", run_id=run.run_id)


def _kind_of(check: CheckSignal) -> Kind:
    named = {REPLAYED_IN_TIME: DEAD_LETTERS_EXPIRE, FRESH: STALE_ROLLUPS}
    return named.get(check.name.rpartition(" ")[2], AUDIT_DRIFT)


def _failed_check(check: CheckSignal) -> Alert:
    severity = Severity.CRITICAL if check.is_error else Severity.WARNING
    said = _short(check.description) or "the check failed"
    return _alert(_kind_of(check), check.name, f"{check.name}: {said}", run_id=check.run_id, severity=severity)


def _is_older(age_seconds: float | None, limit_seconds: float) -> bool:
    return age_seconds is None or age_seconds > limit_seconds


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= ERROR_LIMIT_CHARACTERS else line[: ERROR_LIMIT_CHARACTERS - 1] + "…"


def _span(seconds: float) -> str:
    """A length of time as people say it."""
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
