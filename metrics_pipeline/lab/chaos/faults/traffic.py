"""Faults of what is sent: bursts, repeats across restarts, floods of bad and of late messages."""

import signal
from random import Random

from metrics_pipeline.lab.chaos.load import ListedLoad, parcel_of
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.lab.loadgen.plan import LoadPlan

_BURST_SECONDS = 2.0
_BURST_RATE = 8_000
_REPEATED_EVENTS = 500
_FLOOD_MESSAGES = 1_000


def burst(world: World, rng: Random) -> str:
    """A second producer sends several times the load for a short time."""
    plan = LoadPlan(
        duration_seconds=_BURST_SECONDS,
        rate=_BURST_RATE,
        duplicates=0.1,
        late=0.05,
        malformed=0.01,
        seed=(1 << 41) + rng.getrandbits(32),
    )
    process = ListedLoad(world.settings, plan, world.folder / f"burst-{len(world.bursts) + 1}.parquet")
    world.bursts.append(process)
    world.await_that(lambda: not process.is_running, 30 * _BURST_SECONDS, "the burst did not end")
    return f"{_BURST_RATE:,} messages/s for {_BURST_SECONDS:.0f} s"


def repeat_across_restart(world: World, rng: Random) -> str:
    """Events arrive, all drains are killed, and the same events arrive again."""
    parcel = parcel_of(rng, _REPEATED_EVENTS, range(world.settings.kafka.partitions))
    world.sender.send(parcel)
    world.hold(rng.uniform(0.2, 1.5))
    for shard in range(world.fleet.shards):
        world.fleet.await_current(shard).signal(signal.SIGKILL)
    world.sender.send(parcel)
    return f"{len(parcel.messages)} messages twice"


def flood_with_malformed(world: World, rng: Random) -> str:
    """Nearly everything in a short while is malformed."""
    return _flood(world, rng, malformed=0.8)


def flood_with_late(world: World, rng: Random) -> str:
    """Many events are up to three days late: their day's partition and minute are long written."""
    return _flood(world, rng, late=0.8)


def _flood(world: World, rng: Random, **fractions: float) -> str:
    world.sender.send(parcel_of(rng, _FLOOD_MESSAGES, range(world.settings.kafka.partitions), **fractions))
    return f"{_FLOOD_MESSAGES} messages"
