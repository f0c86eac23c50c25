"""The replay of hours of the topic: raw_events and rollups are brought to what its messages say by today's rules.

    FENCE    make commits of any earlier replay fail
    RECOVER  finish the chunk that it left open, with the rules that it had
    REPAIR_ROLLUPS  of what replays have changed
    READ     the next window of messages, what raw_events has of them, and what has to change; mostly nothing, else
    INTENT   put the window on record: its ranges, the mode, the rules, a token
    PLAN     note what will change, message by message, under the token
    REMOVE   have rows removed that are not what their messages say, and wait for it
    EVENTS   insert what is missing into raw_events, under the token
    SEARCH   only where the server refused rows: commit how far the search for them has come
    DEAD     insert dead letters, under the token
    LEDGER   insert the account of what has changed, under the token
    CLOSE    take the chunk off record
    REPAIR_ROLLUPS  after each hour, as above

Nothing is changed before the plan is noted, and the plan is noted once, whoever does it. So whoever finds a chunk open
does the same again: rows are removed by what they hold, and inserts carry the token. Minutes of a plan whose rollups
are not repaired yet are in flight for an audit; the next replay repairs them.
"""

import logging
from collections.abc import Iterable

import polars as pl

from metrics_pipeline.delivery.accounts import entry_of_chunk
from metrics_pipeline.delivery.chunk import (
    ORIGIN,
    POSITION,
    SLOT,
    landed_and_duplicates,
    open_chunk,
    open_chunk_of,
    placed,
    slot_commits,
)
from metrics_pipeline.delivery.landing import Landing, Refused
from metrics_pipeline.delivery.ownership import Hold, closing_commits
from metrics_pipeline.delivery.steps import HourStep
from metrics_pipeline.event.decode.frame import lineage_frame
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OffsetRange, OpenBatch, offsets_in
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.replay.diff import Diff, Read, times_of
from metrics_pipeline.replay.hours import HourPlan, windows
from metrics_pipeline.replay.plan import SOURCE, Found, Mode, inserts, minutes_of_plan, of_step, planned_letters
from metrics_pipeline.replay.report import HourReport, Progress
from metrics_pipeline.replay.rollup_repair import RollupRepair
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)

REMOVAL_CHECK_SECONDS = 0.2
PAUSE_SHARE = 1.5
"""Pauses between windows, as a share of the time that the one before took."""
LONGEST_PAUSE_SECONDS = 5.0


def preview(diff: Diff, hours: Iterable[int], mode: Mode, rules: Rules, on_progress: Progress) -> HourReport:
    """What a replay would do now; writes nothing. Copies of one event count as missing once per window."""
    report = HourReport()
    plans = [diff.hour(hour) for hour in hours]
    report.plan(plans)
    for plan in plans:
        for ranges in windows(plan.ranges):
            held = diff.held(ranges)
            found, good_letters = diff.examine(diff.read(held, rules), held, mode, diff.run.clock.now_ms())
            report.find(found, good_letters)
            if found.has_changes:
                report.change(found, diff.plan(found, held, mode))
            report.looked_at += offsets_in(ranges)
            on_progress(report)
    return report


class HourReplay:
    """One replay. Not thread-safe: one thread calls it."""

    def __init__(self, hold: Hold, run: Run, rules: Rules, diff: Diff, rollups: RollupRepair) -> None:
        self._hold = hold
        self._run = run
        self._rules = rules
        self._diff = diff
        self._tables = diff.tables
        self._rollups = rollups
        self._landing = Landing(hold.ownership, run, slot_commits)
        self._newest_ms = 0

    def run(self, hours: Iterable[int], mode: Mode, on_progress: Progress) -> HourReport:
        """Replay these hours (starts, epoch seconds), or until `stop` says so: what is under way is finished first.

        Raises FencedError if another replay took over, and what the adapters raise; a repeat goes on from there.
        """
        report = HourReport()
        self._recover(report)
        self._repair_rollups(report)
        plans = [self._diff.hour(hour) for hour in hours]
        report.plan(plans)
        for plan in plans:
            vanishing = self._replay(plan, mode, report, on_progress)
            if vanishing and not self._run.stop():
                # A message that was left as the duplicate of a row that is gone now is none any more.
                again = HourReport()
                self._replay(plan, Mode.REPLACE, again, lambda _again: None)
                report.added += again.added
            self._repair_rollups(report)
            on_progress(report)
            if self._run.stop():
                break
        return report

    def _recover(self, report: HourReport) -> None:
        chunk = open_chunk_of(self._hold.ownership.take_over((SLOT,)))
        self._newest_ms = self._run.retry.call(self._tables.plans.newest_ms)
        if chunk is None:
            return
        self._run.observe(HourStep.RECOVER)
        report.recovered = 1
        self._newest_ms = max(self._newest_ms, chunk.opened_ms)
        read = self._diff.read(self._diff.held(chunk.ranges), Rules.parse(chunk.rules))
        plan = self._run.retry.call(lambda: self._tables.plans.plan(chunk))
        if not len(plan):
            # Nothing was changed yet, but another replay may be about to note its plan: this one has to be first.
            mode = Mode(chunk.note)
            found, _ = self._diff.examine(read, chunk.ranges, mode, chunk.opened_ms)
            plan = self._noted(chunk, self._diff.plan(found, chunk.ranges, mode))
        self._finish(chunk, plan, read, is_repeat=True)

    def _replay(self, plan: HourPlan, mode: Mode, report: HourReport, on_progress: Progress) -> int:
        """Bring the windows of an hour right, one after the other; returns how many identities vanished."""
        vanishing = 0
        for ranges in windows(plan.ranges):
            if self._run.stop():
                break
            began_seconds = self._run.clock.monotonic_seconds()
            self._run.observe(HourStep.READ)
            held = self._diff.held(ranges)
            report.dropped += offsets_in(ranges) - offsets_in(held)
            read = self._diff.read(held, self._rules)
            now_ms = max(self._run.clock.now_ms(), self._newest_ms + 1)
            found, good_letters = self._diff.examine(read, held, mode, now_ms)
            report.find(found, good_letters)
            if found.has_changes:
                vanishing += found.vanishing
                self._change(held, read, found, mode, now_ms, report)
            report.looked_at += offsets_in(ranges)
            on_progress(report)
            self._give_way(began_seconds)
        return vanishing

    def _give_way(self, since_seconds: float) -> None:
        """Nobody waits for a replay, everybody for the drains beside it."""
        took_seconds = self._run.clock.monotonic_seconds() - since_seconds
        self._run.clock.sleep(min(LONGEST_PAUSE_SECONDS, PAUSE_SHARE * took_seconds))

    def _change(
        self,
        ranges: tuple[OffsetRange, ...],
        read: Read,
        found: Found,
        mode: Mode,
        now_ms: int,
        report: HourReport,
    ) -> None:
        wanted = self._diff.plan(found, ranges, mode)
        report.change(found, wanted)
        if not len(wanted):
            return
        chunk = open_chunk(SOURCE, self._hold.group, self._hold.log.topic_id, ranges, self._rules, now_ms, mode.value)
        self._newest_ms = now_ms
        self._run.observe(HourStep.INTENT)
        self._hold.ownership.commit(slot_commits(chunk))
        plan = self._noted(chunk, wanted)
        report.refused += self._finish(chunk, plan, read, is_repeat=False)

    def _noted(self, chunk: OpenBatch, plan: pl.DataFrame) -> pl.DataFrame:
        """Note the plan; returns what is noted: another replay of the chunk may have been faster."""
        if len(plan):
            self._run.observe(HourStep.PLAN)
            self._landing.inserting.insert(
                plan,
                chunk.token,
                lambda rows, token: self._tables.plans.write_plan(chunk, rows, token),
                lambda rows: rows if self._tables.plans.plan(chunk).is_empty() else rows.clear(),
                is_repeat=False,
            )
        return self._run.retry.call(lambda: self._tables.plans.plan(chunk))

    def _finish(self, chunk: OpenBatch, plan: pl.DataFrame, read: Read, *, is_repeat: bool) -> int:
        """Do what is planned, wherever an earlier try left it; returns how many rows the server refused."""
        refused = Refused()
        if len(plan) and not self._run.retry.call(lambda: self._hold.warehouse.has_ledger_entry(chunk.token)):
            self._remove(chunk, plan)
            events = read.decoded.events.join(inserts(plan), on=ORIGIN, how="semi", maintain_order="left")
            gone = of_step(plan, PlanStep.INSERT, PlanStep.RESTORE, PlanStep.LETTER).join(
                lineage_frame(read.messages), on=ORIGIN, how="anti", maintain_order="left"
            )
            if len(gone):
                logger.error(
                    "%d messages of a replay that broke off are gone from the topic, and what it had not made of them",
                    len(gone),
                )
            stored = self._diff.stored(events)
            only_missing = not self._run.retry.call(lambda: self._hold.warehouse.remembers(chunk.opened_ms))
            refused = self._landing.insert_chunk(
                self._hold.warehouse, chunk, events, stored, only_missing=only_missing, is_repeat=is_repeat
            )
            refusals = refused.dead_letters([read.messages], placed(chunk, events))
            refusals = refusals.with_columns(batch=pl.lit(chunk.token))
            letters = pl.concat([planned_letters(plan, read.decoded.dead_letters, chunk.token), refusals])
            if len(letters):
                self._run.observe(HourStep.DEAD)
                self._landing.inserting.insert(
                    letters,
                    chunk.token,
                    lambda rows, token: self._tables.letters.add(chunk.topic_id, rows, token),
                    self._hold.warehouse.missing_dead_letters,
                    is_repeat=is_repeat,
                )
            made = len(letters.filter(pl.col("batch") == chunk.token))
            entry = self._entry(chunk, plan, events, refusals, gone, made)
            self._run.observe(HourStep.LEDGER)
            self._landing.inserting.insert_entry(self._hold.warehouse, entry, is_repeat=is_repeat)
        self._run.observe(HourStep.CLOSE)
        self._hold.ownership.commit(closing_commits({SLOT: 0}, chunk.topic_id))
        return len(refused.places)

    def _remove(self, chunk: OpenBatch, plan: pl.DataFrame) -> None:
        def is_removing() -> bool:
            self._hold.ownership.prove()
            return self._tables.events.remove(chunk)

        if len(of_step(plan, PlanStep.REMOVE)):
            self._run.observe(HourStep.REMOVE)
            while self._run.retry.call(is_removing):
                self._run.clock.sleep(REMOVAL_CHECK_SECONDS)

    def _entry(
        self,
        chunk: OpenBatch,
        plan: pl.DataFrame,
        events: pl.DataFrame,
        refused: pl.DataFrame,
        gone: pl.DataFrame,
        made: int,
    ) -> LedgerEntry:
        """What the chunk has changed: no offsets, since they are accounted for.

        `made` dead letters are its own. What an earlier try made of messages that are `gone` since is in the tables.
        """
        landed, duplicates = landed_and_duplicates(events, self._diff.stored(events))
        spent = pl.concat([frame.select(POSITION) for frame in (duplicates, refused)])
        origins = landed.select(ORIGIN)
        if len(gone):
            first, last = times_of(gone)
            rows = self._run.retry.call(lambda: self._tables.events.at(chunk.ranges, first, last, with_content=False))
            missing = self._run.retry.call(lambda: self._hold.warehouse.missing_dead_letters(gone))
            dead = gone.join(missing, on=ORIGIN, how="anti")
            made += len(dead)
            spent = pl.concat([spent, dead.select(POSITION)])
            origins = pl.concat([origins, gone.join(rows, on=ORIGIN, how="semi").select(ORIGIN)])
        restored = of_step(plan, PlanStep.RESTORE).join(origins, on=ORIGIN, how="semi")
        return entry_of_chunk(
            chunk,
            SOURCE,
            self._run.id,
            self._run.clock.now_ms(),
            minutes_of_plan(plan, origins, spent),
            restored=len(restored),
            added_dead_letters=made,
        )

    def _repair_rollups(self, report: HourReport) -> None:
        self._run.observe(HourStep.REPAIR_ROLLUPS)
        repaired = self._rollups.repair(self._assure_owner)
        report.units_repaired += repaired.units
        report.units_left = repaired.left

    def _assure_owner(self) -> None:
        """Raise FencedError if another replay took over. No chunk is open: that is committed, if only once more."""
        self._hold.ownership.commit(closing_commits({SLOT: 0}, self._hold.log.topic_id))
