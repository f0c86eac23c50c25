"""How a run becomes the owner of its shard, and where it starts to read.

Fence first, read committed offsets second: what an earlier run commits in between can't exist. Then finish the batches
that earlier runs left open, and account for offsets that the log has dropped.

Under another number of shards an open batch may cover partitions of several of today's shards. Each of them finishes
all of it, under its one token, and closes the partitions of its own.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from metrics_pipeline.delivery.batch import MicroBatch, deferred_batch, lost_batch, noted_entry
from metrics_pipeline.delivery.delivery import Delivery
from metrics_pipeline.delivery.ownership import Hold
from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.drain.ranges import UNLIMITED, RangeReader, already_lost
from metrics_pipeline.errors import StopError, TopicMismatchError
from metrics_pipeline.event.deduplicate import deduplicate
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import Commit, OffsetRange, OpenBatch, Watermarks, open_batches
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.runtime.run import Run

logger = logging.getLogger(__name__)

_REHEARSAL = Messages(
    [0],
    [0],
    [0],
    [b'{"event_id":"-","timestamp":0,"service":"-","endpoint":"-","status":200,"latency_ms":0,"attributes":{"-":"-"}}'],
)

RESET_HINT = "to begin again at the start of the present topic, run `metrics-pipeline reset-offsets --to earliest`"


@dataclass(frozen=True, slots=True)
class Takeover:
    """Takes a shard over. `on_entry` hears of each batch that lands on the way."""

    hold: Hold
    run: Run
    rules: Rules
    delivery: Delivery
    on_entry: Callable[[LedgerEntry], None]

    def rehearse(self, partitions: Sequence[int]) -> None:
        """Do once, without effect, what the first batch will need: connections, compiled decoders, the look-up.

        What is slow the first time then happens while the predecessor still drains.
        """
        self._watermarks(partitions)
        self.hold.ownership.committed(partitions)
        unique = deduplicate(self.rules.decode(_REHEARSAL).events)
        self.run.retry.call(lambda: self.hold.warehouse.existing(unique, ()))

    def start(self, partitions: Sequence[int]) -> dict[int, int]:
        """Own `partitions`; returns partition -> offset to read next, with nothing unfinished before it.

        Raises TopicMismatchError if what is committed belongs to another topic.
        """
        positions = self._finish(partitions, self.hold.ownership.take_over(self.hold.log.partitions()))
        unknown = self._unknown_starts([p for p in partitions if p not in positions])
        if unknown:
            self.delivery.claim(unknown)
        return self.skip_lost(positions | unknown)

    def resume(self) -> None:
        """Own all partitions, and finish the batches that earlier runs left open, for a run that goes on elsewhere.

        What was left open of an earlier incarnation of the topic can't be finished any more.
        """
        partitions = self.hold.log.partitions()
        commits = self.hold.ownership.take_over(partitions)
        present = {p: c for p, c in commits.items() if c.topic_id in ("", self.hold.log.topic_id)}
        if gone := [c.intent.token for p, c in commits.items() if p not in present and c.intent is not None]:
            logger.error(
                "batches %s of a topic that is gone were left open: what of them had landed shows as drifting minutes "
                "in `metrics-pipeline audit`",
                sorted(set(gone)),
            )
        self._finish(partitions, present)

    def _finish(self, partitions: Sequence[int], commits: Mapping[int, Commit]) -> dict[int, int]:
        """Finish open batches of `partitions`; returns where these are then, as far as anything is committed."""
        for partition, commit in commits.items():
            if commit.topic_id not in ("", self.hold.log.topic_id):
                raise TopicMismatchError(
                    f"the offset of partition {partition} was committed for topic id {commit.topic_id}, the topic's id "
                    f"is now {self.hold.log.topic_id}: it was deleted and recreated; {RESET_HINT}"
                )
        positions = {p: c.offset for p, c in commits.items() if p in partitions}
        for batch in open_batches(commits):
            if any(p in positions for p in batch.ends):
                self._recover(batch)
                positions |= {p: end for p, end in batch.ends.items() if p in positions}
        return positions

    def skip_lost(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Put what lies before the log's first offset on record as lost; returns positions that exist."""
        marks = self._watermarks(positions)
        for partition, position in positions.items():
            if position > marks[partition].high:
                raise TopicMismatchError(
                    f"offset {position} of partition {partition} is next, but the topic ends at "
                    f"{marks[partition].high}: it was recreated or truncated; {RESET_HINT}"
                )
        lost = tuple(
            OffsetRange(p, position, marks[p].low)
            for p, position in sorted(positions.items())
            if position < marks[p].low
        )
        if lost:
            logger.error("lost to the topic's retention before they were read: %s", lost)
            self.on_entry(self.delivery.deliver(lost_batch(lost), self.rules))
        return {**positions, **{r.partition: r.end for r in lost}}

    def _unknown_starts(self, partitions: Sequence[int]) -> dict[int, int]:
        """Where to start without a committed offset: behind the ledger, else at the log's first offset."""
        if not partitions:
            return {}
        ledger = self.run.retry.call(lambda: self.hold.warehouse.ledger_ends(partitions))
        known = ledger.get(self.hold.log.topic_id, {})
        if ledger and not known:
            raise TopicMismatchError(
                f"nothing is committed for partitions {list(partitions)}, and the ledger knows this topic by other "
                f"ids ({', '.join(sorted(ledger))}): it was deleted and recreated; {RESET_HINT}"
            )
        marks = self._watermarks(partitions)
        return {p: known.get(p, marks[p].low) for p in partitions}

    def _watermarks(self, partitions: Iterable[int]) -> Mapping[int, Watermarks]:
        return self.run.retry.call(lambda: self.hold.log.watermarks(sorted(partitions)))

    def _has_landed(self, opened: OpenBatch) -> bool:
        return self.run.retry.call(lambda: self.hold.warehouse.has_ledger_entry(opened.token))

    def _closes(self, opened: OpenBatch) -> bool:
        """Close the batch if it has landed."""
        if not self._has_landed(opened):
            return False
        logger.info("batch %s had landed, closing it", opened.token)
        self.delivery.note_landed(opened.ends)
        return True

    def _recover(self, opened: OpenBatch) -> None:
        """Finish a batch that an earlier run left open."""
        self.run.observe(Step.RECOVER)
        if self._closes(opened):
            return
        batch = self._rebuilt(opened)
        if batch.lost:
            # Its account differs from the one that a predecessor may be about to insert, and may stand in another
            # partition, where no token tells them apart.
            self.hold.ownership.await_predecessors()
            if self._closes(opened):
                return
        if self.delivery.token(batch) != opened.token:
            raise StopError(
                f"the open batch {opened.token} doesn't match its partitions {sorted(opened.ends)}, and the ledger has "
                f"no entry of it: was METRICS_KAFKA__GROUP changed, or an offset moved by hand? {RESET_HINT}"
            )
        self.on_entry(self.delivery.redeliver(batch, opened))

    def _rebuilt(self, opened: OpenBatch) -> MicroBatch:
        skipped = noted_entry(opened.ranges, opened.note)
        if skipped is not None:
            logger.info("skipping %s, as an earlier run began to", opened.ranges)
            return deferred_batch(skipped)
        logger.info("rebuilding batch %s: %s", opened.token, opened.ranges)
        lost = already_lost(opened.ranges, self._watermarks(opened.ends))
        return RangeReader(self.hold.log, self.run, Rules.parse(opened.rules), opened.ranges, lost).next(UNLIMITED)


def reset_positions(
    marks: Mapping[int, Watermarks],
    commits: Mapping[int, Commit],
    landed: Mapping[int, int],
    topic_id: str,
    *,
    to_latest: bool,
) -> dict[int, int]:
    """Where to begin again, partition -> offset: an end of the log, but not before what has `landed` of this topic.

    Partitions with an open batch of this topic are left out: the next run finishes it.
    """
    open_here = {p for p, c in commits.items() if c.intent is not None and c.topic_id == topic_id}
    ends = {p: m.high if to_latest else m.low for p, m in marks.items() if p not in open_here}
    return {p: max(end, landed.get(p, 0)) for p, end in ends.items()}
