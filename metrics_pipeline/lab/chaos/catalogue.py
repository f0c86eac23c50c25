"""All kinds of faults, each with what it takes hold of: the one list that plan, run and report go by."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.lab.chaos.faults import clickhouse, drains, kafka, topic, traffic
from metrics_pipeline.lab.chaos.world import World


class Hold(StrEnum):
    """What a fault needs for itself while it lasts; two faults with one in common never overlap."""

    DRAINS = "drains"
    CLICKHOUSE = "clickhouse"
    KAFKA = "kafka"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. `sentence` says what happens; a heavier one comes more often once every kind had its turn."""

    kind: str
    sentence: str
    holds: frozenset[Hold]
    inject: Callable[[World, Random], str]
    weight: float = 1.0
    needs_engines: bool = False


def _fault(
    kind: str,
    inject: Callable[[World, Random], str],
    *holds: Hold,
    weight: float = 1.0,
    needs_engines: bool = False,
    sentence: str = "",
) -> Fault:
    said = sentence or (inject.__doc__ or "").strip().split("\n")[0]
    return Fault(kind, said, frozenset(holds), inject, weight, needs_engines)


def _kills() -> list[Fault]:
    return [
        _fault(
            f"drain-kill-{step.value.replace(' ', '-')}",
            drains.kill_at(step),
            Hold.DRAINS,
            weight=2,
            sentence=f"kill -9 of a drain right before its step {step.value!r}.",
        )
        for step in Step
        if step is not Step.YIELD
    ]


def _freezes() -> list[Fault]:
    return [
        _fault(
            f"drain-freeze-{step.value}",
            drains.freeze_at(step),
            Hold.DRAINS,
            sentence=f"SIGSTOP right before the step {step.value!r}, a successor, then SIGCONT: a zombie.",
        )
        for step in (Step.INTENT, Step.EVENTS, Step.LEDGER)
    ]


def faults(*, with_own_engines: bool) -> dict[str, Fault]:
    """Kind -> fault, of all that can be injected."""
    drain, server, broker, load = Hold.DRAINS, Hold.CLICKHOUSE, Hold.KAFKA, Hold.LOAD
    every = [
        *_kills(),
        *_freezes(),
        _fault("drain-kill", drains.kill_at_random, drain, weight=2),
        _fault("drain-kill-mid-insert", drains.kill_mid_insert, drain, server, weight=2),
        _fault("drain-freeze", drains.freeze, drain),
        _fault("drain-twins", drains.start_twins, drain),
        _fault("drain-sigterm", drains.terminate, drain),
        _fault("drain-handover", drains.break_handover, drain, weight=2),
        _fault("drain-clock", drains.step_clock, drain),
        _fault("drain-reshard", drains.reshard, drain, weight=2),
        _fault("clickhouse-kill", clickhouse.kill, server, needs_engines=True),
        _fault("clickhouse-kill-mid-insert", clickhouse.kill_mid_insert, server, weight=2, needs_engines=True),
        _fault("clickhouse-errors", clickhouse.answer_errors, server, weight=2),
        _fault("clickhouse-account", clickhouse.refuse_account, server),
        _fault("clickhouse-hangs", clickhouse.hang, server),
        _fault("clickhouse-answer-lost", clickhouse.lose_answers, server),
        _fault("clickhouse-request-broken", clickhouse.break_requests, server),
        _fault("clickhouse-slow", clickhouse.slow_down, server),
        _fault("clickhouse-disk-full", clickhouse.run_out_of_disk, server),
        _fault("clickhouse-too-many-parts", clickhouse.pile_up_parts, server),
        _fault("clickhouse-table-missing", clickhouse.lose_table, server),
        _fault("clickhouse-read-only", clickhouse.make_read_only, server),
        _fault("kafka-kill", kafka.kill, broker, needs_engines=True),
        _fault("kafka-partitions-added", kafka.add_partitions, broker, weight=0.3),
        _fault("kafka-transaction-aborted", kafka.abort_transaction, broker),
        _fault("kafka-transaction-abandoned", kafka.abandon_transaction, broker),
        _fault("kafka-compaction", kafka.compact, broker, drain, server, needs_engines=True, weight=0.5),
        _fault("kafka-retention", kafka.eat_unread, broker, drain, server),
        _fault("kafka-topic-recreated", topic.recreate_topic, broker, server, weight=0.3),
        _fault("load-burst", traffic.burst, broker, load),
        _fault("load-repeated", traffic.repeat_across_restart, broker, drain),
        _fault("load-malformed", traffic.flood_with_malformed, broker),
        _fault("load-late", traffic.flood_with_late, broker),
    ]
    return {fault.kind: fault for fault in every if with_own_engines or not fault.needs_engines}
