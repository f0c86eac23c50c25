"""Reading exactly given ranges of offsets, as batches."""

from collections.abc import Mapping, Sequence

from metrics_pipeline.delivery.batch import BatchBuilder, BatchLimits, MicroBatch
from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import OffsetRange, Watermarks
from metrics_pipeline.kafka.ports import Log
from metrics_pipeline.runtime.run import Run

UNLIMITED = BatchLimits(events=1 << 62, size_bytes=1 << 62, age_seconds=float("inf"))
_POLL_SECONDS = 0.1
_POLL_EVENTS = 10_000
_POLL_BYTES = 16 << 20


class RangeReader:
    """Reads `ranges`, at most one of a partition, to their ends; `lost` (per partition) precedes what is read.

    What a batch holds is the same in whatever pieces the log hands it out.
    """

    def __init__(
        self,
        log: Log,
        run: Run,
        rules: Rules,
        ranges: Sequence[OffsetRange],
        lost: Mapping[int, int] | None = None,
    ) -> None:
        self._log = log
        self._clock = run.clock
        self._limit_seconds = run.retry.limit_seconds
        self._rules = rules
        self._ends = {r.partition: r.end for r in ranges}
        self._starts = {r.partition: r.start for r in ranges}
        self._lost = dict(lost or {})
        self._positions = {p: start + self._lost.get(p, 0) for p, start in self._starts.items()}
        self._assign()

    @property
    def is_done(self) -> bool:
        return not self._open()

    def next(self, limits: BatchLimits) -> MicroBatch:
        """The next messages, as many as the limits allow.

        Raises KafkaUnavailableError if nothing comes for too long, OffsetOutOfRangeError if the log dropped them.
        """
        builder = BatchBuilder(dict(self._starts), limits, self._lost)
        builder.advance(self._positions, 0)
        deadline_seconds = self._clock.monotonic_seconds() + self._limit_seconds
        while self._open() and not builder.is_full:
            now_seconds = self._clock.monotonic_seconds()
            if now_seconds > deadline_seconds:
                raise KafkaUnavailableError(
                    f"could not read on behind {self._open()} in {self._limit_seconds:.0f} s: check the brokers"
                )
            if self._poll(builder, now_seconds):
                deadline_seconds = now_seconds + self._limit_seconds
        self._starts, self._lost = dict(self._positions), {}
        return builder.build()

    def _poll(self, builder: BatchBuilder, now_seconds: float) -> bool:
        """Take in what the log has next; was there anything?"""
        fetched = self._log.poll(
            min(_POLL_EVENTS, builder.room_events), min(_POLL_BYTES, builder.room_bytes), _POLL_SECONDS
        )
        open_before = len(self._open())
        inside = fetched.messages.before(self._ends)
        builder.add(inside, self._rules.decode(inside), now_seconds)
        # A chunk may tell of a partition's end and hold messages of it: whichever is further on.
        for reached in (fetched.messages.next_offsets(), fetched.ends):
            builder.advance({p: min(end, self._ends[p]) for p, end in reached.items()}, now_seconds)
        self._positions = dict(builder.positions)
        if self._open() and 2 * len(inside) < len(fetched.messages):
            # What was fetched ahead lies mostly behind the ends of ranges.
            self._assign()
        return bool(len(inside)) or open_before > len(self._open())

    def _open(self) -> dict[int, int]:
        """Partition -> offset to be read next, of ranges that are not read to their ends."""
        return {p: position for p, position in self._positions.items() if position < self._ends[p]}

    def _assign(self) -> None:
        # A partition whose range is lost to its end has no such offset any more.
        self._log.assign(self._open())


def already_lost(ranges: Sequence[OffsetRange], marks: Mapping[int, Watermarks]) -> dict[int, int]:
    """Partition -> how many offsets at the beginning of its range the log has dropped, of those that lack any."""
    lost = {r.partition: min(max(marks[r.partition].low, r.start), r.end) - r.start for r in ranges}
    return {p: offsets for p, offsets in lost.items() if offsets}
