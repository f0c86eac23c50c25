"""Another number of shards, while runs under the old one are alive, paused, or dead with their intents open."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.drain.drain import DrainReport
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.drain import DrainRun, run_drain, until_caught_up
from tests.worlds.events import events
from tests.worlds.pipeline import CrashError, assert_exact, crash_at, send


def sharded(settings: Settings, shards: int, flush_events: int = 50) -> Settings:
    changes = {"shards": shards, "flush_events": flush_events}
    return settings.model_copy(update={"drain": settings.drain.model_copy(update=changes)})


def drain_shard(settings: Settings, shard: int, observe: Callable[[Step], None] = lambda _step: None) -> DrainReport:
    return run_drain(settings, DrainRun(str(uuid.uuid4()), shard), until_caught_up, stop=lambda: False, observe=observe)


def drain_all(settings: Settings) -> None:
    for shard in range(settings.drain.shards):
        drain_shard(settings, shard)


@pytest.mark.parametrize("step", [Step.LOOK_UP, Step.EVENTS, Step.LEDGER, Step.INTENT, Step.CLOSE])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (2, 3), (3, 2), (4, 1)])
def test_open_intents_survive_a_change_of_the_number_of_shards(
    settings: Settings, step: Step, before: int, after: int
) -> None:
    sent = events(800)
    send(settings, [*sent, *sent[:100], b"{"])
    for shard in range(before):
        with suppress(CrashError):
            drain_shard(sharded(settings, before), shard, crash_at(step, 2))
    drain_all(sharded(settings, after))
    assert_exact(settings, events=800, dead=1)


def test_the_new_shards_recover_one_open_batch_side_by_side(settings: Settings) -> None:
    """It covers partitions of all three: each lands it under the same token, and each closes its own partitions."""
    send(settings, events(400))
    with suppress(CrashError):
        drain_shard(sharded(settings, 1, flush_events=400), 0, crash_at(Step.LOOK_UP))
    after = sharded(settings, 3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda shard: drain_shard(after, shard), range(3)))
    assert_exact(settings, events=400)


def test_a_run_under_the_old_number_is_fenced_by_one_under_the_new(settings: Settings) -> None:
    send(settings, events(800))
    overtaken = []

    def overtake(step: Step) -> None:
        if step is Step.LEDGER and not overtaken:
            overtaken.append([drain_shard(sharded(settings, 2), shard) for shard in range(2)])

    report = drain_shard(sharded(settings, 3), 0, overtake)
    assert report.reason is Reason.FENCED
    assert [r.reason for r in overtaken[0]] == [Reason.CAUGHT_UP] * 2
    assert_exact(settings, events=800)


def test_runs_under_two_numbers_at_once_are_exact(settings: Settings) -> None:
    """As two code locations with different settings would: they fence each other until one has the end of the topic."""
    send(settings, events(1_600))
    with ThreadPoolExecutor(5) as pool:
        under_two = [pool.submit(drain_shard, sharded(settings, 2), shard) for shard in range(2)]
        under_three = [pool.submit(drain_shard, sharded(settings, 3), shard) for shard in range(3)]
        reasons = {future.result().reason for future in under_two + under_three}
    assert reasons <= {Reason.CAUGHT_UP, Reason.FENCED}
    drain_all(sharded(settings, 2))
    assert_exact(settings, events=1_600)


def test_more_shards_than_partitions_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="METRICS_DRAIN__SHARDS is 9"):
        drain_shard(sharded(settings, 9), 0)
    with pytest.raises(ConfigurationError, match="there is no shard 2"):
        drain_shard(sharded(settings, 2), 2)
