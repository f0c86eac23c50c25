"""The audit: in which order the books are read, so that batches landing meanwhile are no contradiction.

1. Committed offsets, then the ledger: an offset is committed only after its row, so the ledger must reach it.
2. Dead letters, up to where the ledger ended: later ones belong to batches that it doesn't have yet.
3. Minutes, in looks: the ledger, raw_events, rollup_1m, the open intents, the ledger again. Whatever touched a minute
   in between is in the later reading of the ledger, or its intent is open, or a replay of hours has planned it and not
   settled yet; ledger/minutes.py judges the rest. Minutes that can't be judged are looked at again, a bounded number of
   times.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import polars as pl

from metrics_pipeline.audit.ports import BookReader
from metrics_pipeline.audit.verdict import LONGEST_LIST, Books, Verdict, judge, unaccounted_tail
from metrics_pipeline.kafka.intents import Commit, OpenBatch, open_batches
from metrics_pipeline.ledger.minutes import (
    Look,
    MinuteDrift,
    Scope,
    disagreeing,
    drifts,
    tabulate,
    unsettled,
)
from metrics_pipeline.runtime.ports import Clock

LOOKS = 5
"""Looks at a minute, after which it is reported as in flight if something landed during each."""
PAUSE_SECONDS = 0.5
"""Between looks: longer than a batch usually takes from its first row to its ledger row."""
NAMED_MINUTES = 200
"""Up to this many minutes are asked for one by one, more by their span: the length of a query is limited."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """One look, tabulated, and what was on its way when the tables had been read."""

    table: pl.DataFrame
    open: tuple[OpenBatch, ...]


@dataclass(slots=True)
class _Findings:
    """The settled minutes that contradict, over all looks."""

    drifting: int = 0
    rollup_drift: int = 0
    raw_doubles: int = 0
    listed: list[MinuteDrift] = field(default_factory=list)


def not_landed(books: BookReader, intents: Sequence[OpenBatch]) -> tuple[OpenBatch, ...]:
    """Those without a ledger row."""
    landed = books.landed([batch.token for batch in intents]) if intents else frozenset()
    return tuple(batch for batch in intents if batch.token not in landed)


@dataclass(frozen=True, slots=True)
class Audit:
    """Audits the books of one topic.

    `committed` reads what is committed at the moment of the call, `beside` what replays and backfills have open.
    Minutes before `compared_from` (epoch seconds) are left out.
    """

    books: BookReader
    committed: Callable[[], Mapping[int, Commit]]
    topic_id: str
    clock: Clock
    _: KW_ONLY
    deep: bool = False
    beside: Callable[[], Sequence[OpenBatch]] = tuple
    compared_from: int = 0

    def run(self, scope: Scope) -> Verdict:
        """Read what is in scope and judge it. That the ranges of offsets tile is checked whatever the scope."""
        committed = {p: c.offset for p, c in self.committed().items() if c.topic_id in ("", self.topic_id)}
        ledger = self.books.ledger(scope)
        dead_letter_rows = self.books.dead_letters(ledger.totals, scope)
        findings = _Findings()
        first = last = self._look(scope.since(self.compared_from))
        pending = self._settle(first, findings)
        for _ in range(LOOKS - 1):
            if not pending:
                break
            self.clock.sleep(PAUSE_SECONDS)
            last = self._look(Scope.around(pending, NAMED_MINUTES), pending)
            pending = self._settle(last, findings)
        return judge(
            Books(
                ledger=ledger,
                tail=unaccounted_tail(ledger, self.topic_id, committed),
                deferred=ledger.deferred(self.topic_id),
                dead_letter_rows=dead_letter_rows,
                ledger_events=int(first.table["ledger"].sum()),
                raw_rows=int(first.table["raw"].sum()),
                rollup_requests=int(first.table["rollup"].sum()),
                drifting=findings.drifting,
                drifting_minutes=tuple(sorted(findings.listed, key=lambda m: m.minute)),
                rollup_drift=findings.rollup_drift,
                raw_doubles=findings.raw_doubles,
                minutes_in_flight=tuple(sorted(pending)),
                open_batches=last.open,
                compared_from=self.compared_from,
            )
        )

    def _look(self, scope: Scope, minutes: frozenset[int] | None = None) -> _Seen:
        """Read the sources, framed by the ledger. `minutes` are those in scope that are of interest."""
        before = self.books.ledger_minutes(scope)
        raw = self.books.raw_minutes(scope)
        distinct = self.books.raw_minutes(scope, distinct=True) if self.deep else None
        rollup = self.books.rollup_minutes(scope)
        on_their_way = not_landed(self.books, (*open_batches(self.committed()), *self.beside()))
        look = Look(before, raw, rollup, self.books.ledger_minutes(scope), distinct)
        table = tabulate(look)
        if minutes is not None:
            table = table.filter(pl.col("minute").is_in(list(minutes)))
        return _Seen(table, on_their_way)

    def _settle(self, seen: _Seen, findings: _Findings) -> frozenset[int]:
        """Take in what can be judged; returns the minutes that can't."""
        suspects = disagreeing(seen.table)
        quiet = suspects.filter(~pl.col("is_touched"))["minute"].to_list()
        open_minutes: frozenset[int] = frozenset()
        if quiet:
            around = Scope.around(quiet, NAMED_MINUTES)
            open_minutes = self.books.replayed_minutes(around)
            if seen.open:
                open_minutes |= self.books.open_minutes(around, [r for batch in seen.open for r in batch.ranges])
        pending = unsettled(suspects, open_minutes)
        self._record(suspects.filter(~pl.col("minute").is_in(pending.to_list())), findings)
        return frozenset(pending.to_list())

    def _record(self, wrong: pl.DataFrame, findings: _Findings) -> None:
        findings.drifting += len(wrong)
        findings.rollup_drift += int((wrong["raw"] - wrong["rollup"]).abs().sum())
        listed = self._with_doubles(wrong.head(LONGEST_LIST - len(findings.listed)))
        findings.listed += drifts(listed)
        counted = wrong if self.deep else listed
        findings.raw_doubles += int((counted["raw"] - counted["distinct"]).sum())

    def _with_doubles(self, wrong: pl.DataFrame) -> pl.DataFrame:
        """Where raw_events holds too many rows, say how many are doubles; a deep audit knows it of all minutes."""
        too_many = wrong.filter(pl.col("raw") > pl.col("ledger"))["minute"].head(NAMED_MINUTES)
        if self.deep or not len(too_many):
            return wrong
        counted = self.books.raw_minutes(Scope.around(too_many.to_list(), NAMED_MINUTES), distinct=True)
        joined = wrong.join(counted.rename({"events": "found"}), on="minute", how="left", maintain_order="left")
        # Rows that landed since the look are no doubles.
        return joined.with_columns(distinct=pl.min_horizontal("raw", "found")).drop("found")
