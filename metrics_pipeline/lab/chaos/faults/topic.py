"""The topic deleted and recreated: a pipeline of its own beside the one under chaos, since nothing else survives it."""

import uuid
from random import Random

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.drain.ending import Reason
from metrics_pipeline.errors import LocalEngineError, TopicMismatchError
from metrics_pipeline.lab.chaos.faults.traffic import parcel_of
from metrics_pipeline.lab.chaos.fleet import Fleet
from metrics_pipeline.lab.chaos.load import SideSender
from metrics_pipeline.lab.chaos.staging import Staging
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.wiring.drain import audit, prepare, reset_offsets

PREFIX = "recreated-"
"""What the names of these drains begin with: their ends say nothing about the pipeline under chaos."""
_EVENTS = 400
_DRAIN_SECONDS = 30.0


class WrongEndError(LocalEngineError):
    """The pipeline under test did something else than it must."""


def recreate_topic(world: World, rng: Random) -> str:
    """The topic is deleted and created again: a drain has to stop and say so, and go on after `reset-offsets`."""
    name = f"{world.settings.kafka.topic}-{uuid.UUID(int=rng.getrandbits(128)).hex[:8]}"
    with Staging(world.settings, name).made() as staging:
        settings = staging.settings
        prepare(settings)
        fleet = Fleet(settings, world.folder / "drains", world.journal, prefix=PREFIX)
        try:
            sender = SideSender(settings)
            sender.send(parcel_of(rng, _EVENTS, lambda p: p % settings.kafka.partitions))
            _expect([end.ending for end in fleet.drain_once(_DRAIN_SECONDS)], Reason.CAUGHT_UP)
            staging.recreate_topic()
            sender.send(parcel_of(rng, _EVENTS, lambda p: p % settings.kafka.partitions))
            _expect([end.ending for end in fleet.drain_once(_DRAIN_SECONDS)], TopicMismatchError.__name__)
            reset_offsets(settings, to_latest=False)
            _expect([end.ending for end in fleet.drain_once(_DRAIN_SECONDS)], Reason.CAUGHT_UP)
        finally:
            fleet.close()
        problems = audit(settings).problems
        with connect(settings) as client:
            landed = int(client.query("SELECT uniqExact(event_id) FROM raw_events").result_rows[0][0])
        sent = sum(len(part.events) for part in sender.sent)
        if problems or landed != sent:
            raise WrongEndError(f"{sent} events sent before and after, {landed} landed; audit: {problems}")
    return f"stopped with TopicMismatchError; after reset-offsets {landed} of {sent} events there"


def _expect(endings: list[str], wanted: str) -> None:
    if any(ending != wanted for ending in endings):
        raise WrongEndError(f"drains had to end with {wanted!r}, they ended: {endings}")
