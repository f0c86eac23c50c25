"""Faults of drain runs: killed, frozen, doubled, misled about the time."""

import signal
from collections.abc import Callable
from contextlib import suppress
from random import Random

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.lab.chaos.drain_process import Order
from metrics_pipeline.lab.chaos.fleet import KILLED, DrainProcess
from metrics_pipeline.lab.chaos.journal import MissedError
from metrics_pipeline.lab.chaos.proxy import inserts_into
from metrics_pipeline.lab.chaos.world import World

_REACH_SECONDS = 10.0
"""A running drain comes to any of its steps within this time."""
_AT_START = {Step.REGISTER, Step.FENCE, Step.FENCE_RIVALS, Step.RECOVER}
_MOST_BATCHES = 4
_HOUR_MS = 3_600_000
_SHARD_COUNTS = (1, 2, 3)


def kill_at(step: Step) -> Callable[[World, Random], str]:
    """kill -9 right before this step."""

    def inject(world: World, rng: Random) -> str:
        process = world.any_drain(rng)
        if step in _AT_START:
            process = _restart_with(world, process, Order(step))
        else:
            process.send(Order(step, rng.randint(1, 1 if step is Step.CLOSE else _MOST_BATCHES)))
            if step is Step.CLOSE:
                # The topic is never quiet here: a run closes when it is told to end.
                process.signal(signal.SIGTERM)
        ending = world.await_death(process, _REACH_SECONDS, f"the drain did not come to {step.value}")
        if ending != KILLED:
            raise MissedError(f"the drain ended before: {ending}")
        return f"drain {process.name} killed"

    inject.__doc__ = f"kill -9 of a drain right before its step {step.value!r}."
    return inject


def _restart_with(world: World, process: DrainProcess, order: Order) -> DrainProcess:
    """Leave a batch open by killing the present drain right before the ledger; its successor gets the order."""
    armed = world.fleet.arm_next(process.shard, order)
    process.send(Order(Step.LEDGER))
    world.await_death(process, _REACH_SECONDS, "the drain did not come to the ledger")
    return world.await_that(lambda: armed.process, _REACH_SECONDS, "no successor was started")


def kill_at_random(world: World, rng: Random) -> str:
    """kill -9 at any moment, several times in a row."""
    times = rng.randint(1, 3)
    for _ in range(times):
        process = world.any_drain(rng)
        world.hold(rng.uniform(0.05, 1.0))
        process.signal(signal.SIGKILL)
        world.await_death(process, _REACH_SECONDS, "the drain did not die")
    return f"{times} times"


def kill_mid_insert(world: World, rng: Random) -> str:
    """kill -9 of the drain when its insert has just gone to the server, or a few milliseconds later."""
    process = world.any_drain(rng)
    delay_seconds = rng.choice((0.0, 0.001, 0.003, 0.01))

    def kill() -> None:
        world.hold(delay_seconds)
        process.signal(signal.SIGKILL)

    with world.proxy.misbehaving(inserts_into(RAW_EVENTS.name), lambda exchange: exchange.forward(kill)):
        world.await_death(process, _REACH_SECONDS, "the drain inserted nothing")
    return f"drain {process.name}, {1000 * delay_seconds:.0f} ms after the request"


def freeze(world: World, rng: Random) -> str:
    """SIGSTOP for longer than a proof of ownership lasts, with a successor beside, then SIGCONT."""
    zombie = world.any_drain(rng)
    zombie.signal(signal.SIGSTOP)
    return _succeed_and_thaw(world, rng, zombie)


def freeze_at(step: Step) -> Callable[[World, Random], str]:
    """As `freeze`, exactly between two steps of the protocol."""

    def inject(world: World, rng: Random) -> str:
        zombie = world.any_drain(rng)
        zombie.send(Order(step, rng.randint(1, _MOST_BATCHES), signal.SIGSTOP))
        try:
            world.await_that(zombie.is_stopped, _REACH_SECONDS, f"the drain did not come to {step.value}")
        except MissedError:
            # It would stop later, with nobody there to let it go on.
            zombie.signal(signal.SIGKILL)
            raise
        return _succeed_and_thaw(world, rng, zombie)

    inject.__doc__ = f"SIGSTOP right before the step {step.value!r}, a successor, then SIGCONT: a zombie."
    return inject


def _succeed_and_thaw(world: World, rng: Random, zombie: DrainProcess) -> str:
    frozen_seconds = world.settings.drain.zombie_seconds * rng.uniform(1.1, 2.0)
    try:
        world.fleet.replace(zombie.shard)
        world.hold(frozen_seconds)
        zombie.signal(signal.SIGCONT)
        ending = world.await_death(zombie, 2 * _REACH_SECONDS, "the zombie did not end")
    finally:
        zombie.signal(signal.SIGCONT)
        zombie.signal(signal.SIGKILL)
    return f"drain {zombie.name} frozen for {frozen_seconds:.1f} s, then ended: {ending}"


def start_twins(world: World, rng: Random) -> str:
    """Two drains of one shard at once, started as if each were alone."""
    present = world.any_drain(rng)
    twins = (present, world.fleet.start_twin(present.shard))
    try:
        first = world.await_that(lambda: twins[0].end or twins[1].end, _REACH_SECONDS, "neither of the twins ended")
        world.hold(rng.uniform(0.2, 1.5))
    finally:
        twins[1].signal(signal.SIGTERM)
    return f"drains {twins[0].name} and {twins[1].name}: the first to end ended {first.ending}"


def terminate(world: World, rng: Random) -> str:
    """SIGTERM at any moment."""
    process = world.any_drain(rng)
    world.hold(rng.uniform(0, 1))
    process.signal(signal.SIGTERM)
    ending = world.await_death(process, 2 * _REACH_SECONDS, "the drain did not end on SIGTERM")
    return f"drain {process.name} ended: {ending}"


def break_handover(world: World, rng: Random) -> str:
    """A handover to a successor as the relay does it; one side is killed in the middle of it."""
    former, successor = world.fleet.hand_over(world.any_drain(rng).shard)
    victim = rng.choice((None, former, successor))
    world.hold(rng.uniform(0.05, 0.4))
    if victim is not None:
        victim.signal(signal.SIGKILL)
    try:
        ending = world.await_death(former, 2 * _REACH_SECONDS, "the predecessor did not end")
    finally:
        former.signal(signal.SIGTERM)
    if victim is None and ending != Reason.HANDOVER:
        return f"nobody killed, yet the predecessor ended: {ending}"
    return f"{'nobody' if victim is None else victim.name} killed, predecessor ended: {ending}"


def step_clock(world: World, rng: Random) -> str:
    """The drain's wall clock jumps by hours, forwards or backwards, and back."""
    process = world.any_drain(rng)
    hours = rng.choice((-1, 1)) * rng.randint(1, 72)
    process.send(hours * _HOUR_MS)
    world.hold(rng.uniform(1.0, 3.0))
    process.send(0)
    return f"drain {process.name}, {hours:+d} hours"


def reshard(world: World, rng: Random) -> str:
    """All drains are killed, some with an open batch; as many as another number of shards are started."""
    before = world.fleet.shards
    victim = world.any_drain(rng)
    victim.send(Order(rng.choice((Step.EVENTS, Step.LEDGER))))
    with suppress(MissedError):
        world.await_death(victim, _REACH_SECONDS / 2, "the drain left no batch open")
    after = rng.choice([count for count in _SHARD_COUNTS if count != before])
    world.fleet.reshard(after)
    world.fleet.await_current(0)
    return f"{before} shards to {after}"
