"""A *chunk*: an open batch of a replay, whose ranges may be many, and how it is put on record. Pure.

All ranges of a chunk stand in the metadata of one committed offset of a side group. Its rows have fixed *places*: those
of their messages among the chunk's positions, which the parts are slices of where the server refuses rows.
"""

import base64
import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import polars as pl

from metrics_pipeline.event.contract import IDENTITY, LINEAGE
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import Commit, Intent, OffsetRange, OpenBatch

logger = logging.getLogger(__name__)

SLOT = 0
"""Partition of the topic that the side group's one slot stands at: every topic has it."""
MAX_RANGES_BYTES = 2_000
"""As packed; 2,500 of the 4,096 characters of an offset's metadata once they are text."""

POSITION = tuple(column.name for column in LINEAGE[:2])
"""Columns that name a message within one incarnation of the topic."""
ORIGIN = tuple(column.name for column in LINEAGE)
PLACE = "place"


def open_chunk(
    source: str,
    group: str,
    topic_id: str,
    ranges: Sequence[OffsetRange],
    rules: Rules,
    opened_ms: int,
    kind: str = "-",
) -> OpenBatch:
    """A new chunk; `kind` is one word that the owner of the side group wants to remember of it.

    Its token names what is in it and when it was opened: the same messages may be tried again later.
    """
    lines = [source, group, topic_id, str(opened_ms), *(f"{r.partition}:{r.start}-{r.end}" for r in ranges)]
    token = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
    return OpenBatch(topic_id, token, tuple(ranges), opened_ms, rules.encode(), note=kind)


def slot_commits(chunk: OpenBatch) -> dict[int, Commit]:
    """The commit that puts a chunk on record."""
    packed = base64.b85encode(_packed(chunk.ranges)).decode()
    note = f"{chunk.note} {packed}"
    intent = Intent(0, chunk.token, chunk.opened_ms, chunk.rules, chunk.search_bits, note)
    return {SLOT: Commit(0, intent, chunk.topic_id)}


def open_chunk_of(commits: Mapping[int, Commit]) -> OpenBatch | None:
    """The chunk that is open in a side group, if any."""
    commit = commits.get(SLOT)
    if commit is None or commit.intent is None:
        return None
    intent = commit.intent
    kind, packed = intent.note.split(" ", 1)
    ranges = tuple(_unpacked(base64.b85decode(packed)))
    return OpenBatch(commit.topic_id, intent.token, ranges, intent.opened_ms, intent.rules, intent.search_bits, kind)


def each_position(ranges: Iterable[OffsetRange]) -> list[tuple[int, int]]:
    """(partition, offset) of every message that they may hold."""
    return [(r.partition, offset) for r in ranges for offset in range(r.start, r.end)]


def ranges_of(positions: Iterable[tuple[int, int]]) -> tuple[OffsetRange, ...]:
    """(partition, offset), in order, as ranges: neighbours together."""
    found: list[OffsetRange] = []
    for partition, offset in positions:
        if found and (found[-1].partition, found[-1].end) == (partition, offset):
            found[-1] = OffsetRange(partition, found[-1].start, offset + 1)
        else:
            found.append(OffsetRange(partition, offset, offset + 1))
    return tuple(found)


def cuts(ranges: Sequence[OffsetRange], max_positions: int) -> Iterator[tuple[OffsetRange, ...]]:
    """Cut ranges into chunks that can be written down and hold at most `max_positions` positions."""
    held: list[OffsetRange] = []
    size_bytes = positions = 0
    for whole in ranges:
        rest = whole
        while rest.offsets:
            # A partition costs its number and how many ranges it has, too: at most 5 bytes each.
            cost_bytes = len(_varint(rest.start) + _varint(rest.offsets)) + 10
            if held and held[-1].partition == rest.partition:
                cost_bytes = len(_run(rest, held[-1].end))
            room = max_positions - positions
            if held and (size_bytes + cost_bytes > MAX_RANGES_BYTES or not room):
                yield tuple(held)
                held, size_bytes, positions = [], 0, 0
                continue
            taken = OffsetRange(rest.partition, rest.start, min(rest.end, rest.start + room))
            held.append(taken)
            size_bytes += cost_bytes
            positions += taken.offsets
            rest = OffsetRange(rest.partition, taken.end, rest.end)
    if held:
        yield tuple(held)


def placed(chunk: OpenBatch, rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` that lie within the chunk, with their places in a column PLACE, in the order that they have."""
    partition, offset = POSITION
    types = {partition: rows.schema[partition], "start": rows.schema[offset], "end": rows.schema[offset]}
    firsts = accumulate((r.offsets for r in chunk.ranges), initial=0)
    placed_ranges = [(r.partition, r.start, r.end, first) for r, first in zip(chunk.ranges, firsts, strict=False)]
    ranges = pl.DataFrame(placed_ranges, {**types, "first": pl.Int64}, orient="row").sort("start")
    found = (
        rows.with_row_index("order")
        .sort(offset)
        .join_asof(ranges, left_on=offset, right_on="start", by=partition, check_sortedness=False)
        .filter(pl.col(offset) < pl.col("end"))
        .sort("order")
    )
    place = (pl.col("first") + (pl.col(offset) - pl.col("start")).cast(pl.Int64)).alias(PLACE)
    return found.with_columns(place).drop("order", "start", "end", "first")


def own_rows(events: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Those of `events` that raw_events holds from their own messages.

    Stored with the identity and the origin: an origin alone may be that of another incarnation of the topic.
    """
    return events.join(stored, on=[*IDENTITY, *ORIGIN], how="semi", maintain_order="left")


def stored_elsewhere(events: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Those of `events` (a chunk's) that raw_events holds from messages outside of the chunk."""
    foreign = stored.join(events, on=ORIGIN, how="anti")
    return events.join(foreign, on=IDENTITY, how="semi", maintain_order="left")


def landed_and_duplicates(events: pl.DataFrame, stored: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Those of `events` (a chunk's) that landed, and others that raw_events holds from messages outside of the chunk.

    Logs those that landed although another message brought them in the same moment.
    """
    landed, elsewhere = own_rows(events, stored), stored_elsewhere(events, stored)
    if doubled := len(landed.join(elsewhere, on=ORIGIN, how="semi")):
        logger.error(
            "%d events landed from other messages in the same moment and are stored twice: a sender repeated what is "
            "being replayed; `metrics-pipeline audit --deep` names the minutes",
            doubled,
        )
    return landed, elsewhere.join(landed, on=ORIGIN, how="anti")


def _packed(ranges: Sequence[OffsetRange]) -> bytes:
    """Per partition its number, how many ranges, and the ranges: integers of variable length."""
    by_partition: dict[int, list[OffsetRange]] = {}
    for r in ranges:
        by_partition.setdefault(r.partition, []).append(r)
    packed = bytearray()
    for partition, of_partition in by_partition.items():
        packed += _varint(partition) + _varint(len(of_partition))
        end = 0
        for r in of_partition:
            packed += _run(r, end)
            end = r.end
    return bytes(packed)


def _run(r: OffsetRange, before: int) -> bytes:
    """The step from the end of the range before, doubled; odd where a length follows: most letters stand alone."""
    step = (r.start - before) * 2
    return _varint(step) if r.offsets == 1 else _varint(step + 1) + _varint(r.offsets)


def _unpacked(packed: bytes) -> Iterator[OffsetRange]:
    numbers = _varints(packed)
    for partition in numbers:
        end = 0
        for _ in range(next(numbers)):
            step = next(numbers)
            start = end + step // 2
            end = start + (next(numbers) if step % 2 else 1)
            yield OffsetRange(partition, start, end)


def _varint(number: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _varints(packed: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in packed:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            yield number
            number = shift = 0
