"""The replay of dead letters: judged by today's rules, the good ones land exactly once, the bad ones stay.

    FENCE    make commits of any earlier replay fail
    RECOVER  finish the chunk that it left open, with the rules that it had
    READ     the next page of letters; those of a batch that is still on its way are left for later
    KEEP     mark what stays, and what has landed already, by itself or as another message
    INTENT   put a chunk of the missing ones on record: their positions, the rules, a token
    EVENTS   insert them into raw_events, under the token
    SEARCH   only where the server refused rows: commit how far the search for them has come
    LEDGER   insert the account of what raw_events has of them, under the token
    MARK     mark the letters by what raw_events has
    CLOSE    take the chunk off record

What landed is read from raw_events (identity and origin of each row), never remembered. Whoever repeats any of this,
with the same filter or another one, finishes the open chunk first, in the same block under the same token. Two replays
at once: the newer one fences the older, whose last insert, if it is still under way, carries the token that the newer
one repeats.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import polars as pl

from metrics_pipeline.dead_letters.judge import (
    SOURCE,
    Judged,
    LetterFilter,
    Outcome,
    changed,
    chunks_of,
    judge,
    marks,
    sort_out,
    without_dropped,
)
from metrics_pipeline.dead_letters.ports import LetterStore
from metrics_pipeline.delivery.accounts import entry_of_chunk
from metrics_pipeline.delivery.chunk import (
    PLACE,
    POSITION,
    SLOT,
    each_position,
    landed_and_duplicates,
    open_chunk_of,
    placed,
    slot_commits,
)
from metrics_pipeline.delivery.landing import UNKNOWN_ERROR, Landing, Refused, refused_before
from metrics_pipeline.delivery.ownership import Ownership, closing_commits
from metrics_pipeline.delivery.ports import StoredEvents, Warehouse
from metrics_pipeline.delivery.steps import ReplayStep
from metrics_pipeline.event.contract import Reason
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OpenBatch
from metrics_pipeline.ledger.entry import minutes_of
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.retry import Retry
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ReplayReport:
    """Letters by what became of them; if `is_dry`, by what would.

    `kept` is by reason. `waiting` belong to batches that are still on their way. `recovered` were left half done by an
    earlier replay, and are counted nowhere else.
    """

    total: int = 0
    looked_at: int = 0
    landed: int = 0
    duplicates: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    recovered: int = 0
    is_dry: bool = False

    @property
    def figures(self) -> dict[str, int]:
        """For machines, without `kept`."""
        return {
            "dry_run": self.is_dry,
            "letters": self.looked_at,
            **picked(self, "landed", "duplicates", "waiting", "recovered"),
        }

    def count(self, noted: pl.DataFrame) -> None:
        """Add letters by their marks (MARK_SCHEMA)."""
        outcomes = Counter(noted["outcome"])
        self.landed += outcomes[Outcome.LANDED]
        self.duplicates += outcomes[Outcome.DUPLICATE]
        reasons = noted.filter(pl.col("outcome") == Outcome.KEPT.value)["replay_reason"]
        for reason, count in reasons.value_counts(name="n").sort("n", descending=True).iter_rows():
            self.kept[reason] = self.kept.get(reason, 0) + count


@dataclass(frozen=True, slots=True)
class Reading:
    """Which letters a replay looks at, and by which rules: common to a dry run and a replay. Retries what passes.

    Events of times before `landable_from_ms` (epoch milliseconds) may not land any more.
    """

    letters: LetterStore
    events: StoredEvents
    rules: Rules
    open_tokens: Callable[[], frozenset[str]]
    retry: Retry
    landable_from_ms: int = 0

    def count(self, wanted: LetterFilter) -> int:
        return self.retry.call(lambda: self.letters.count(wanted))

    def judge(self, page: pl.DataFrame) -> Judged:
        """By today's rules, and by what retention has left."""
        return without_dropped(judge(page, self.rules), self.landable_from_ms)

    def stored(self, events: pl.DataFrame) -> pl.DataFrame:
        return self.retry.call(lambda: self.events.of(events))

    def next_page(
        self, wanted: LetterFilter, after: tuple[str, int, int] | None
    ) -> tuple[pl.DataFrame, tuple[str, int, int] | None, int]:
        """Letters, where they end (None: nothing came), and how many more are of batches on their way.

        A batch is known to be done if its intent is closed after its letters were read.
        """
        page = self.retry.call(lambda: self.letters.page(wanted, after))
        if not len(page):
            return page, None, 0
        last = page.select("topic_id", *POSITION).row(-1)
        open_tokens = self.retry.call(self.open_tokens)
        done = page.filter(~pl.col("batch").is_in(list(open_tokens)))
        return done, last, len(page) - len(done)


def preview(reading: Reading, wanted: LetterFilter, on_progress: Callable[[ReplayReport], None]) -> ReplayReport:
    """What a replay would do now; writes nothing. Copies of one event count as landing once per page."""
    report = ReplayReport(total=reading.count(wanted), is_dry=True)
    after = None
    while True:
        page, after, waiting = reading.next_page(wanted, after)
        if after is None:
            return report
        judged = reading.judge(page)
        found = sort_out(judged.events, reading.stored(judged.events))
        report.landed += len(found.missing) + len(found.landed)
        report.duplicates += len(found.duplicates) + len(found.copies)
        report.count(judged.kept)
        report.waiting += waiting
        report.looked_at += len(page) + waiting
        on_progress(report)


class Replay:
    """One replay. `warehouse_of` has the tables for one incarnation of the topic. Not thread-safe."""

    def __init__(
        self, group: str, reading: Reading, ownership: Ownership, warehouse_of: Callable[[str], Warehouse], run: Run
    ) -> None:
        self._group = group
        self._reading = reading
        self._letters = reading.letters
        self._ownership = ownership
        self._warehouse_of = warehouse_of
        self._run = run
        self._landing = Landing(ownership, run, slot_commits)

    def run(self, wanted: LetterFilter, on_progress: Callable[[ReplayReport], None]) -> ReplayReport:
        """Replay what matches, or until `stop` says so: then what is under way is finished first.

        Raises FencedError if another replay took over, and what the adapters raise; a repeat goes on from there.
        """
        report = ReplayReport()
        self._recover(report)
        report.total = self._reading.count(wanted)
        after = None
        while not self._run.stop():
            self._run.observe(ReplayStep.READ)
            page, after, waiting = self._reading.next_page(wanted, after)
            if after is None:
                break
            if len(page):
                self._replay(page, report)
            report.waiting += waiting
            report.looked_at += len(page) + waiting
            on_progress(report)
        return report

    def _recover(self, report: ReplayReport) -> None:
        chunk = open_chunk_of(self._ownership.take_over((SLOT,)))
        if chunk is None:
            return
        self._run.observe(ReplayStep.RECOVER)
        letters = self._run.retry.call(lambda: self._letters.at(chunk.topic_id, each_position(chunk.ranges)))
        if len(letters) < chunk.offsets:
            logger.error(
                "%d dead letters of a replay that broke off are gone from the table: what of them had landed shows as "
                "a drifting minute in `metrics-pipeline audit`",
                chunk.offsets - len(letters),
            )
        warehouse = self._warehouse_of(chunk.topic_id)
        is_whole = self._run.retry.call(lambda: warehouse.remembers(chunk.opened_ms))
        events = judge(letters, Rules.parse(chunk.rules)).events
        report.recovered = len(letters)
        self._finish(chunk, events, only_missing=not is_whole)

    def _replay(self, page: pl.DataFrame, report: ReplayReport) -> None:
        topic_id = page["topic_id"][0]
        judged = self._reading.judge(page)
        report.count(judged.kept)
        self._mark(topic_id, changed(judged.kept, page), ReplayStep.KEEP)
        events = judged.events
        while len(events):
            events = self._land(topic_id, events, page, report)

    def _land(self, topic_id: str, events: pl.DataFrame, page: pl.DataFrame, report: ReplayReport) -> pl.DataFrame:
        """Land what is missing; returns copies of what was just tried: they have to be looked up again."""
        found = sort_out(events, self._reading.stored(events))
        known = pl.concat([marks(found.landed, Outcome.LANDED), marks(found.duplicates, Outcome.DUPLICATE)])
        self._mark(topic_id, known, ReplayStep.KEEP)
        report.count(known)
        now_ms = self._run.clock.now_ms()
        for chunk, of_chunk in chunks_of(topic_id, self._group, found.missing, self._reading.rules, now_ms):
            self._run.observe(ReplayStep.INTENT)
            self._ownership.commit(slot_commits(chunk))
            report.count(self._finish(chunk, of_chunk, page=page))
        return found.copies

    def _finish(
        self, chunk: OpenBatch, events: pl.DataFrame, *, only_missing: bool = False, page: pl.DataFrame | None = None
    ) -> pl.DataFrame:
        """Bring an open chunk to its end, wherever an earlier try left it; returns the marks of its letters.

        Without a page an earlier run opened it.
        """
        is_repeat = page is None
        warehouse = self._warehouse_of(chunk.topic_id)
        refused = refused_before(chunk, chunk.offsets)
        is_booked = self._run.retry.call(lambda: warehouse.has_ledger_entry(chunk.token))
        if not is_booked:
            stored = self._reading.stored(events)
            refused = self._landing.insert_chunk(
                warehouse, chunk, events, stored, only_missing=only_missing, is_repeat=is_repeat
            )
        landed, duplicates = landed_and_duplicates(events, self._reading.stored(events))
        if len(landed) and not is_booked:
            now_ms, minutes = self._run.clock.now_ms(), minutes_of(landed["timestamp"])
            entry = entry_of_chunk(chunk, SOURCE, self._run.id, now_ms, minutes)
            self._run.observe(ReplayStep.LEDGER)
            self._landing.inserting.insert_entry(warehouse, entry, is_repeat=is_repeat)
        refusals = _refusals(placed(chunk, events), refused)
        noted = pl.concat([marks(landed, Outcome.LANDED), marks(duplicates, Outcome.DUPLICATE), *refusals])
        self._mark(chunk.topic_id, noted if page is None else changed(noted, page), ReplayStep.MARK)
        self._run.observe(ReplayStep.CLOSE)
        self._ownership.commit(closing_commits({SLOT: 0}, chunk.topic_id))
        return noted

    def _mark(self, topic_id: str, noted: pl.DataFrame, step: ReplayStep) -> None:
        if len(noted):
            self._run.observe(step)
            self._landing.inserting.as_owner(lambda: self._letters.mark(topic_id, noted, self._run.clock.now_ms()))


def _refusals(rows: pl.DataFrame, refused: Refused) -> Iterator[pl.DataFrame]:
    """Marks of the letters whose rows (with PLACE) the server refused."""
    for place in refused.places:
        error = refused.errors.get(place, UNKNOWN_ERROR)
        yield marks(rows.filter(pl.col(PLACE) == place), Outcome.KEPT, Reason.REFUSED, error)
