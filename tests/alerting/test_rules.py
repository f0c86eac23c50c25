"""What is judged to be wrong, and what is not."""

from dataclasses import replace

import pytest

from metrics_pipeline.alerting.burn import WINDOWS, Tally
from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.rules import JUDGED, RULES, judge
from metrics_pipeline.alerting.signals import (
    BurnSignal,
    CanarySignal,
    CheckSignal,
    DiskSignal,
    EngineSignal,
    FlowSignal,
    PartitionSignal,
    RunSignal,
    Signals,
    StorageSignal,
)
from metrics_pipeline.settings import AlertSettings

SETTINGS = AlertSettings(freshness_seconds=10, lag_offsets=1_000)
GIB = 1 << 30
FLOW = FlowSignal(
    landed_ago_seconds=1,
    consumed=10_000,
    dead_letters=10,
    reasons={"not_json": 10},
    freshness_p99_seconds=1.5,
    lost={},
)
WELL = dict.fromkeys(WINDOWS, Tally(0, 1_000))
BURN = BurnSignal(WELL, (CanarySignal(0, WELL, 0.7), CanarySignal(1, WELL, 0.8)))
LATE = dict.fromkeys(WINDOWS, Tally(9, 60))
HEALTHY = Signals(
    topic="events",
    engines=(EngineSignal("kafka"), EngineSignal("clickhouse")),
    partitions=(PartitionSignal(0, 10, 1), PartitionSignal(1, 0, None)),
    flow=FLOW,
    burn=BURN,
    storage=StorageSignal((DiskSignal("default", 500 * GIB, 1_000 * GIB),), {"raw_events": 40}, 10.0 * GIB),
    runs=(RunSignal("drain", "0-of-1", 0),),
    checks=(CheckSignal("raw_events exact", passed=True),),
)


def kinds(signals: Signals) -> list[str]:
    return [alert.kind for alert in judge(signals, SETTINGS).alerts]


def test_a_healthy_pipeline_has_no_alert_and_everything_is_known() -> None:
    judgement = judge(HEALTHY, SETTINGS)
    assert judgement.alerts == ()
    assert judgement.is_healthy("lag:events")
    assert judgement.is_healthy("engine_down:kafka")
    assert judgement.is_healthy("failed_runs:drain 0-of-1")


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        (
            {"engines": (EngineSignal("kafka", "no broker\nanswers"),)},
            "engine_down",
            "kafka does not answer: no broker",
        ),
        ({"partitions": (PartitionSignal(3, 2_000, 1),)}, "lag", "2,000 offsets behind"),
        ({"flow": replace(FLOW, freshness_p99_seconds=11)}, "freshness", "11.0 s"),
        (
            {"burn": replace(BURN, canaries=(CanarySignal(3, LATE, 50),))},
            "freshness_burn",
            "shard 3: 9 of 60 were not visible within 10 s in the last 60 minutes, objective 99.0%: burn rate 15.0",
        ),
        (
            {"checks": (CheckSignal("rollup_1h fresh", passed=False, description="2 buckets wait"),)},
            "stale_rollups",
            "2 buckets wait",
        ),
        ({"flow": replace(FLOW, dead_letters=300)}, "dead_letter_share", "3.0% of 10,000 messages"),
        ({"flow": replace(FLOW, lost={4: 70, 2: 5})}, "lost_offsets", "partition 2: 5, partition 4: 70"),
        (
            {"partitions": (PartitionSignal(0, 5, 1), PartitionSignal(1, 7, 500))},
            "stalled_partition",
            "partition 1 has 7 offsets waiting and nothing of it landed for 8 minutes",
        ),
        ({"flow": replace(FLOW, landed_ago_seconds=None)}, "no_drain", "10 offsets wait"),
        ({"storage": StorageSignal((DiskSignal("d", GIB, 100 * GIB),), {}, 0)}, "disk_space", "1% free"),
        ({"storage": StorageSignal((DiskSignal("d", 50 * GIB, 100 * GIB),), {}, 5 * GIB)}, "disk_space", "10.0 days"),
        ({"storage": StorageSignal((), {"batches": 700}, 0)}, "too_many_parts", "700 parts"),
        ({"runs": (RunSignal("drain", "0-of-1", 3, "abc", "boom"),)}, "failed_runs", "the last 3 runs failed: boom"),
        (
            {"checks": (CheckSignal("raw_events exact", passed=False, description="2 missing"),)},
            "audit_drift",
            "2 miss",
        ),
        (
            {"checks": (CheckSignal("dead_letters replayed_in_time", passed=False, description="the table drops 3"),)},
            "dead_letters_expire",
            "the table drops 3",
        ),
    ],
)
def test_each_kind_fires_alone_and_says_what_happened(changes: dict[str, object], kind: str, said: str) -> None:
    (alert,) = judge(replace(HEALTHY, **changes), SETTINGS).alerts
    assert alert.kind == kind
    assert said in alert.summary
    assert alert.about.meaning
    assert alert.about.command.startswith("metrics-pipeline ")


def test_every_kind_is_covered_by_a_case_above() -> None:
    cases = test_each_kind_fires_alone_and_says_what_happened.pytestmark[0].args[1]
    assert {case[1] for case in cases} == {kind.name for kind in RULES}


def test_every_kind_that_the_sensor_judges_has_a_rule_and_no_other_has() -> None:
    assert set(RULES) == {kind for kind in KINDS.values() if kind.parts}


def test_a_slow_burn_of_events_is_a_warning() -> None:
    slow = dict.fromkeys(WINDOWS, Tally(70, 1_000))
    (alert,) = judge(replace(HEALTHY, burn=replace(BURN, events=slow)), SETTINGS).alerts
    assert (alert.key, alert.severity) == ("freshness_burn:events events", Severity.WARNING)
    assert "in the last 6 hours" in alert.summary


def test_checks_that_show_what_is_judged_from_the_signals_are_no_alerts_of_their_own() -> None:
    judgement = judge(replace(HEALTHY, checks=tuple(CheckSignal(name, passed=False) for name in JUDGED)), SETTINGS)
    assert judgement.alerts == ()
    assert not any(name in key for name in JUDGED for key in judgement.known)


def test_what_could_not_be_read_is_neither_wrong_nor_healthy() -> None:
    blind = replace(HEALTHY, partitions=None, flow=None, burn=None, storage=None, runs=(), checks=())
    judgement = judge(blind, SETTINGS)
    assert judgement.alerts == ()
    for key in (
        "lag:events",
        "freshness:events",
        "freshness_burn:events events",
        "no_drain:events",
        "disk_space:default",
        "failed_runs:drain 0-of-1",
    ):
        assert not judgement.is_healthy(key)


def test_a_total_standstill_is_one_alert_and_not_one_per_partition() -> None:
    stopped = tuple(PartitionSignal(p, 50, 900) for p in range(8))
    assert kinds(replace(HEALTHY, partitions=stopped, flow=replace(FLOW, landed_ago_seconds=900))) == ["no_drain"]


def test_few_messages_say_nothing_about_the_share_of_dead_letters() -> None:
    assert kinds(replace(HEALTHY, flow=replace(FLOW, consumed=50, dead_letters=50))) == []


def test_an_idle_topic_is_healthy_however_long_nothing_landed() -> None:
    idle = (PartitionSignal(0, 0, None), PartitionSignal(1, 0, 3_000))
    assert kinds(replace(HEALTHY, partitions=idle, flow=replace(FLOW, landed_ago_seconds=None))) == []


def test_the_worst_comes_first_and_a_check_that_only_warns_is_a_warning() -> None:
    signals = replace(
        HEALTHY,
        partitions=(PartitionSignal(0, 5_000, 1),),
        runs=(RunSignal("audit", "", 1),),
        checks=(CheckSignal("a check", passed=False, is_error=False),),
    )
    found = judge(signals, SETTINGS).alerts
    assert [a.severity for a in found] == [Severity.CRITICAL, Severity.WARNING, Severity.WARNING]


def test_a_long_error_is_cut() -> None:
    (alert,) = judge(replace(HEALTHY, runs=(RunSignal("drain", "", 1, "id", "x" * 9_000),)), SETTINGS).alerts
    assert len(alert.summary) < 600
