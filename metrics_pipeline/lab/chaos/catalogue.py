"""All kinds of faults, each with its targets: the one list that plan, run and report go by."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.lab.chaos.faults import clickhouse, drains, kafka, traffic
from metrics_pipeline.lab.chaos.world import World


class Target(StrEnum):
    """What a fault needs for itself while it lasts; two faults with one in common never overlap."""

    DRAINS = "drains"
    CLICKHOUSE = "clickhouse"
    KAFKA = "kafka"
    LOAD = "load"


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault. A heavier one comes more often once every kind had its turn."""

    kind: str
    inject: Callable[[World, Random], str]
    targets: Set[Target]
    weight: float = 1.0
    needs_engines: bool = False

    @property
    def sentence(self) -> str:
        return (self.inject.__doc__ or "").strip().split("\n")[0]


def faults(*, with_own_engines: bool) -> dict[str, Fault]:
    """Kind -> fault, of all that can be injected."""
    drain, server, broker, load = Target.DRAINS, Target.CLICKHOUSE, Target.KAFKA, Target.LOAD
    every = [
        *(
            Fault(f"drain-kill-{step.value.replace(' ', '-')}", drains.kill_at(step), {drain}, weight=2)
            for step in Step
            if step is not Step.YIELD
        ),
        *(
            Fault(f"drain-freeze-{step.value}", drains.freeze_at(step), {drain})
            for step in (Step.INTENT, Step.EVENTS, Step.LEDGER)
        ),
        Fault("drain-kill", drains.kill_at_random, {drain}, weight=2),
        Fault("drain-kill-mid-insert", drains.kill_mid_insert, {drain, server}, weight=2),
        Fault("drain-freeze", drains.freeze, {drain}),
        Fault("drain-twins", drains.start_twins, {drain}),
        Fault("drain-sigterm", drains.terminate, {drain}),
        Fault("drain-handover", drains.break_handover, {drain}, weight=2),
        Fault("drain-clock", drains.step_clock, {drain}),
        Fault("drain-reshard", drains.reshard, {drain}, weight=2),
        Fault("clickhouse-kill", clickhouse.kill, {server}, needs_engines=True),
        Fault("clickhouse-kill-mid-insert", clickhouse.kill_mid_insert, {server}, weight=2, needs_engines=True),
        Fault("clickhouse-errors", clickhouse.answer_errors, {server}, weight=2),
        Fault("clickhouse-account", clickhouse.refuse_account, {server}),
        Fault("clickhouse-hangs", clickhouse.hang, {server}),
        Fault("clickhouse-answer-lost", clickhouse.lose_answers, {server}),
        Fault("clickhouse-request-broken", clickhouse.break_requests, {server}),
        Fault("clickhouse-slow", clickhouse.slow_down, {server}),
        Fault("clickhouse-disk-full", clickhouse.run_out_of_disk, {server}),
        Fault("clickhouse-too-many-parts", clickhouse.pile_up_parts, {server}),
        Fault("clickhouse-table-missing", clickhouse.lose_table, {server}),
        Fault("clickhouse-read-only", clickhouse.make_read_only, {server}),
        Fault("kafka-kill", kafka.kill, {broker}, needs_engines=True),
        Fault("kafka-partitions-added", kafka.add_partitions, {broker}, weight=0.3),
        Fault("kafka-transaction-aborted", kafka.abort_transaction, {broker}),
        Fault("kafka-transaction-abandoned", kafka.abandon_transaction, {broker}),
        Fault("kafka-compaction", kafka.compact, {broker, drain, server}, needs_engines=True, weight=0.5),
        Fault("kafka-retention", kafka.eat_unread, {broker, drain, server}),
        Fault("kafka-topic-recreated", kafka.recreate_topic, {broker, server}, weight=0.3),
        Fault("load-burst", traffic.burst, {broker, load}),
        Fault("load-repeated", traffic.repeat_across_restart, {broker, drain}),
        Fault("load-malformed", traffic.flood_with_malformed, {broker}),
        Fault("load-late", traffic.flood_with_late, {broker}),
    ]
    return {fault.kind: fault for fault in every if with_own_engines or not fault.needs_engines}
