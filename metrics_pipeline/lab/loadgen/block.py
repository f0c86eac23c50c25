"""A block of messages: made from the seed, stamped as it is sent, accounted for once nothing repeats it."""

from collections import Counter
from itertools import islice
from math import floor
from random import Random
from typing import NamedTuple
from zlib import crc32

import polars as pl

from metrics_pipeline.lab.loadgen import malformed, odd
from metrics_pipeline.lab.loadgen.malformed import Payload
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.traffic import traffic

BLOCK_MESSAGES = 16_384
"""Large enough that what a Polars call costs by itself doesn't count; a block takes 10-20 ms to make."""

_UNPACED_RATE = 100_000
"""Of a plan without a limit: event ids count time by the plan's rate, whatever rate it comes to."""

DUPLICATE, LATE, MALFORMED, ODD = "duplicate", "late", "malformed", "odd"

_EARLIEST_MS, _LATEST_MS = 1_000, 3 * 86_400_000
"""How late a late event is: as often seconds as minutes, hours or days."""


class Special(NamedTuple):
    """What is out of the ordinary about a message; `kind` is that of a malformed or an odd one."""

    sort: str
    kind: str = ""
    delay_ms: int = 0


def _draw_special(plan: LoadPlan, rng: Random, first: int, size: int) -> dict[int, Special]:
    """Index -> what is special there, ascending, of the messages number `first` to `first + size - 1` of a run.

    Their numbers add up to the plan's fractions of all messages, over any number of blocks. The very first
    message of a run is an ordinary one, so that a duplicate has something to repeat.
    """
    ordinary = 1 if first == 0 else 0
    fractions = (plan.duplicates, plan.late, plan.malformed, plan.odd)
    # Of each sort, the ordinals among all of the run that fall to these messages.
    ordinals = [range(floor(f * first + 0.5), floor(f * (first + size) + 0.5)) for f in fractions]
    picked = iter(rng.sample(range(ordinary, size), min(sum(map(len, ordinals)), size - ordinary)))
    duplicates, late, malformed_slots, odd_slots = [[*islice(picked, len(o))] for o in ordinals]
    special = dict.fromkeys(duplicates, Special(DUPLICATE))
    for slot in late:
        special[slot] = Special(LATE, delay_ms=int(_EARLIEST_MS * (_LATEST_MS / _EARLIEST_MS) ** rng.random()))
    for slot, ordinal in zip(sorted(malformed_slots), ordinals[2], strict=False):
        special[slot] = Special(MALFORMED, malformed.kind_at(ordinal))
    for slot, ordinal in zip(sorted(odd_slots), ordinals[3], strict=False):
        special[slot] = Special(ODD, odd.kind_at(ordinal))
    return dict(sorted(special.items()))


class Block:
    """Messages number `first` to `first + size - 1` of a run; lists are by slot, the index in the block.

    `keys` are event ids as sent. `payloads` and `stamps_ms` (event timestamps) grow as messages are sent.
    `copies` counts the messages that carry the slot's own payload: 0 where the slot repeats another one.
    """

    def __init__(self, plan: LoadPlan, start_ms: int, number: int, partitions: int) -> None:
        self.first = number * BLOCK_MESSAGES
        self.size = BLOCK_MESSAGES if plan.events is None else min(BLOCK_MESSAGES, plan.events - self.first)
        ms_per_event = 1_000 / (plan.rate or _UNPACED_RATE)
        made = traffic(plan.seed, number, start_ms + self.first * ms_per_event, ms_per_event, self.size)
        self.rng = Random(f"{plan.seed}/{number}/slots")  # traffic, not secrets
        self.special = _draw_special(plan, self.rng, self.first, self.size)
        self.ids = made["event_id"].to_list()
        self.rests = made["rest"].to_list()
        self.keys = list(self.ids)
        stored_ids: dict[int, str] = {}
        stored_tiers: dict[int, str] = {}
        for slot, (sort, kind, _) in self.special.items():
            if sort == ODD:
                self.keys[slot] = odd.KINDS[kind].new_id(self.ids[slot])
                stored_ids[slot], stored_tiers[slot] = odd.stored(kind, self.ids[slot], made["tier"][slot])
        # As librdkafka's default partitioner does it, so that every client of that family agrees.
        self.partitions = [checksum % partitions for checksum in map(crc32, map(str.encode, self.keys))]
        self.payloads: list[Payload] = []
        self.stamps_ms: list[int] = []
        self.copies = [1] * self.size
        self._rows = made.drop("rest").with_columns(
            made["event_id"].scatter(list(stored_ids), list(stored_ids.values())),
            made["tier"].scatter(list(stored_tiers), list(stored_tiers.values())),
        )

    @property
    def sent(self) -> int:
        return len(self.stamps_ms)

    def holds_event(self, slot: int) -> bool:
        """Was a valid event sent from here, which a duplicate may repeat?"""
        return self.copies[slot] > 0 and (slot not in self.special or self.special[slot].sort != MALFORMED)

    def count_failed(self, failed: Counter[str]) -> None:
        """Take back one copy per failed message; `failed` holds keys, and loses those of this block."""
        for slot, key in enumerate(self.keys[: self.sent]) if failed else ():
            if self.copies[slot] and key in failed:
                self.copies[slot] -= failed.pop(key)

    def account(self) -> pl.DataFrame:
        """One row per slot that was sent: the columns of sent.SENT_SCHEMA, `partition`, and `kind`.

        The kind is null for an ordinary event, LATE, ODD, or the kind of a malformed message; `copies` is 0
        for a repetition.
        """
        sent = self.sent
        named = {slot: s for slot, s in self.special.items() if s.sort != DUPLICATE}
        labels = {slot: s.kind if s.sort == MALFORMED else s.sort for slot, s in named.items()}
        return self._rows.head(sent).with_columns(
            pl.Series("timestamp", self.stamps_ms, pl.Int64),
            pl.Series("copies", self.copies[:sent], pl.UInt32),
            pl.Series("partition", self.partitions[:sent], pl.UInt32),
            pl.Series("kind", [labels.get(slot) for slot in range(sent)], pl.String),
        )
