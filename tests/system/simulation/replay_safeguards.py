"""Each safeguard of the replays, switched off."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import polars as pl

from metrics_pipeline.dead_letters import replay as letters_replay
from metrics_pipeline.delivery.chunk import ORIGIN, open_chunk_of
from metrics_pipeline.delivery.landing import Landing, Refused
from metrics_pipeline.kafka.intents import Commit, OpenBatch, Owner
from metrics_pipeline.replay import diff, plan
from metrics_pipeline.replay import run as hours_replay
from metrics_pipeline.replay.hours import HourPlan
from metrics_pipeline.replay.rollup_repair import Repaired, RollupRepair
from metrics_pipeline.replay.run import HourReplay
from tests.models.clickhouse import ModelWarehouse
from tests.models.kafka import Broker
from tests.models.replays import ModelReplayBooks
from tests.system.simulation.plan import FIRST_SEED_WITH_REPLAYS, Kind
from tests.system.simulation.replays import NARROW
from tests.system.simulation.safeguards import Off, Safeguard, replaced

_SIDES = ("letters", "hours")


def _is_replay(warehouse: ModelWarehouse) -> bool:
    return any(name in warehouse._network.scheduler.who for name in _SIDES)


_fence = Broker.fence


def _fence_no_replay(self: Broker, owner: Owner) -> int:
    return self.epochs.setdefault(owner, 1) if self.topic_id in _SIDES else _fence(self, owner)


_remembers, _insert_events, _has_entry = (
    ModelWarehouse.remembers,
    ModelWarehouse.insert_events,
    ModelWarehouse.has_ledger_entry,
)


def _believe_it_remembers(self: ModelWarehouse, since_ms: int) -> bool:
    return _is_replay(self) or _remembers(self, since_ms)


def _insert_without_token(self: ModelWarehouse, events: pl.DataFrame, token: str) -> None:
    if _is_replay(self):
        token = uuid.UUID(int=self._network.scheduler.random.getrandbits(128)).hex
    _insert_events(self, events, token)


def _find_no_account(self: ModelWarehouse, token: str) -> bool:
    return not _is_replay(self) and _has_entry(self, token)


def _find_an_account(self: ModelWarehouse, token: str) -> bool:
    return _is_replay(self) or _has_entry(self, token)


@contextmanager
def _plans_of_their_own() -> Iterator[None]:
    """Each replay notes what it finds to do, and knows nothing of what an earlier one had begun."""
    write, read = ModelReplayBooks.write_plan, ModelReplayBooks.plan
    wrote: dict[int, list[pl.DataFrame]] = {}

    def write_own(self: ModelReplayBooks, chunk: OpenBatch, rows: pl.DataFrame, token: str) -> None:
        wrote.setdefault(id(self), []).append(rows)
        write(self, chunk, rows, f"{token}{uuid.UUID(int=self._network.scheduler.random.getrandbits(128)).hex}")

    def read_own(self: ModelReplayBooks, chunk: OpenBatch) -> pl.DataFrame:
        found = read(self, chunk)
        return wrote[id(self)][-1] if id(self) in wrote else found.clear()

    with patch.object(ModelReplayBooks, "write_plan", write_own), patch.object(ModelReplayBooks, "plan", read_own):
        yield


def _by_other_rules(commits: Mapping[int, Commit]) -> OpenBatch | None:
    chunk = open_chunk_of(commits)
    return None if chunk is None else replace(chunk, rules=NARROW.encode())


_insert_chunk = Landing.insert_chunk


def _unaware_of_others(side: str) -> Off:
    """Replays of that side insert a chunk's events whether other messages brought them or not."""

    def insert_all(
        self: Landing,
        warehouse: ModelWarehouse,
        chunk: OpenBatch,
        events: pl.DataFrame,
        stored: pl.DataFrame,
        **how: bool,
    ) -> Refused:
        known = stored.join(events, on=ORIGIN, how="semi") if side in self.run.id else stored
        return _insert_chunk(self, warehouse, chunk, events, known, **how)

    return replaced(Landing, "insert_chunk", insert_all)


def _whole(hour: HourPlan, *_: Sequence[object]) -> HourPlan:
    return hour


_entry = HourReplay._entry


def _forget_what_is_gone(self: HourReplay, *given: Any) -> Any:
    *others, gone, made = given
    return _entry(self, *others, gone.clear(), made)


def _of(name: str, off: Off, *kinds: Kind, first_seed: int = FIRST_SEED_WITH_REPLAYS) -> Safeguard:
    return Safeguard(name, off, frozenset(kinds or Kind), first_seed=first_seed)


REPLAY_SAFEGUARDS = (
    _of("replays fence earlier ones", replaced(Broker, "fence", _fence_no_replay)),
    _of("inserts carry the chunk's token", replaced(ModelWarehouse, "insert_events", _insert_without_token)),
    _of(
        "replays ask whether tokens are remembered",
        replaced(ModelWarehouse, "remembers", _believe_it_remembers),
        Kind.SHORT_MEMORY,
        first_seed=1_000_300,
    ),
    _of("a chunk not in the ledger is repeated", replaced(ModelWarehouse, "has_ledger_entry", _find_an_account)),
    _of("a chunk in the ledger is not repeated", replaced(ModelWarehouse, "has_ledger_entry", _find_no_account)),
    _of("letters that others stored are left out", _unaware_of_others("letters")),
    _of("messages that others stored are left out", _unaware_of_others("hours")),
    _of(
        "letters of a chunk are judged by its rules",
        replaced(letters_replay, "open_chunk_of", _by_other_rules),
        first_seed=1_000_240,
    ),
    _of(
        "messages of a chunk are judged by its rules",
        replaced(hours_replay, "open_chunk_of", _by_other_rules),
        first_seed=1_000_110,
    ),
    _of("a chunk is finished by the plan that is noted", _plans_of_their_own, first_seed=1_000_060),
    _of("what the ledger does not account for is left", replaced(diff, "with_accounts", _whole)),
    _of("dead letters are left to their replay", replaced(diff, "without_letters", lambda decoded, _letters: decoded)),
    _of("open units are left", replaced(plan, "_is_closed", lambda _until: pl.lit(value=True))),
    _of(
        "what was made of messages that are gone is looked for",
        replaced(HourReplay, "_entry", _forget_what_is_gone),
        Kind.RETENTION,
        first_seed=1_001_900,
    ),
    _of(
        "only the owner notes what is repaired",
        replaced(HourReplay, "_assure_owner", lambda _: None),
        first_seed=1_000_560,
    ),
    _of("rollups are repaired", replaced(RollupRepair, "repair", lambda *_: Repaired())),
)
