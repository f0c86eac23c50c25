"""The table dead_letters as replays see it: the version of each letter that came last, pages, marks."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import polars as pl

from metrics_pipeline.dead_letters.judge import LETTER_SCHEMA, LETTERS_SCHEMA, LetterFilter
from metrics_pipeline.kafka.intents import OffsetRange
from tests.models.clickhouse import DeadRow, Place, Server, dead_rows, instants, is_within, send
from tests.models.network import Network

DONE = ("landed", "duplicate")
LONGEST_MARK_SECONDS = 0.02


class ModelLetters:
    """A `LetterStore`."""

    def __init__(self, server: Server, network: Network, page_letters: int) -> None:
        self._server = server
        self._network = network
        self._page_letters = page_letters

    def count(self, wanted: LetterFilter) -> int:
        return self._network.clickhouse("count dead letters", lambda: len(self._unreplayed(wanted)))

    def page(self, wanted: LetterFilter, after: Place | None) -> pl.DataFrame:
        def read() -> list[DeadRow]:
            rows = [row for row in self._unreplayed(wanted) if after is None or row.place > after]
            return [row for row in rows if row.topic_id == rows[0].topic_id][: self._page_letters]

        return _frame(self._network.clickhouse(f"read dead letters behind {after}", read))

    def at(self, topic_id: str, positions: Sequence[tuple[int, int]]) -> pl.DataFrame:
        wanted = set(positions)
        return _frame(self._found(topic_id, lambda row: (row.partition, row.offset) in wanted))

    def within(self, topic_id: str, ranges: Sequence[OffsetRange]) -> pl.DataFrame:
        rows = self._found(topic_id, lambda row: is_within(row, ranges))
        columns = [[r.partition for r in rows], [r.offset for r in rows], [r.outcome for r in rows]]
        return pl.DataFrame(columns, schema=LETTERS_SCHEMA)

    def add(self, topic_id: str, letters: pl.DataFrame, token: str) -> None:
        rows = dead_rows(topic_id, letters)
        send(self._network, f"insert {len(rows)} dead letters", lambda: self._server.insert_dead(rows, token))

    def mark(self, topic_id: str, marks: pl.DataFrame, now_ms: int) -> None:
        del now_ms
        send(
            self._network,
            f"mark {len(marks)} dead letters as {' '.join(sorted(set(marks['outcome'])))}",
            lambda: self._mark(topic_id, marks),
        )

    def _mark(self, topic_id: str, marks: pl.DataFrame) -> None:
        """The server reads the rows, and writes new versions of them a little later."""
        letters, scheduler, incarnation = self._server.letters, self._server.scheduler, self._server.incarnation
        versions = []
        for partition, offset, outcome, reason, detail in marks.iter_rows():
            row = letters.get((topic_id, partition, offset))
            if row is not None and row.outcome not in DONE:
                versions.append(replace(row, outcome=outcome, replay_reason=reason, replay_detail=detail))
        scheduler.pause(scheduler.random.random() * LONGEST_MARK_SECONDS)
        if self._server.incarnation == incarnation:
            letters.update((row.place, row) for row in versions)

    def _unreplayed(self, wanted: LetterFilter) -> list[DeadRow]:
        rows = (row for _, row in sorted(self._server.letters.items()) if row.outcome not in DONE)
        return [row for row in rows if _matches(row, wanted)]

    def _found(self, topic_id: str, is_wanted: Callable[[DeadRow], bool]) -> list[DeadRow]:
        def read() -> list[DeadRow]:
            rows = (row for _, row in sorted(self._server.letters.items()) if row.topic_id == topic_id)
            return [row for row in rows if is_wanted(row)]

        return self._network.clickhouse("look for dead letters", read)


def _matches(row: DeadRow, wanted: LetterFilter) -> bool:
    return (
        _is_one_of(row.replay_reason or row.reason, wanted.reasons)
        and _is_one_of(row.service, wanted.services)
        and (wanted.start_ms is None or row.timestamp_ms >= wanted.start_ms)
        and (wanted.end_ms is None or row.timestamp_ms < wanted.end_ms)
    )


def _is_one_of(value: str, wanted: Collection[str]) -> bool:
    return not wanted or value in wanted


def _frame(rows: Sequence[DeadRow]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "topic_id": [r.topic_id for r in rows],
            "kafka_partition": [r.partition for r in rows],
            "kafka_offset": [r.offset for r in rows],
            "kafka_timestamp": instants([r.timestamp_ms for r in rows]),
            **{
                name: [getattr(r, name) for r in rows]
                for name in ("reason", "detail", "service", "payload", "batch", "outcome")
            },
            "replay_reason": [r.replay_reason for r in rows],
            "replay_detail": [r.replay_detail for r in rows],
        },
        schema_overrides=dict(LETTER_SCHEMA),
    ).select(LETTER_SCHEMA.names())
