"""One run of the load generator: take, send, account, until the plan is done or somebody stops it."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.lab.loadgen.plan import TICK_SECONDS, LoadPlan, Pacer
from metrics_pipeline.lab.loadgen.sender import DELIVERY_SECONDS, EventSender
from metrics_pipeline.lab.loadgen.sent import LoadSummary, SentFile, open_sent
from metrics_pipeline.lab.loadgen.stream import EventStream
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings, kafka_address

SETTLE_SECONDS = 5.0
SETTLE_BLOCKS = 16
"""Acknowledged events are written to the file this often, or when this many blocks wait."""

STOP_SECONDS = 30
"""A run that is stopped waits this long for acknowledgements; messages without one have failed."""

_LONGEST_SETTLE_SECONDS = 0.5
_PROGRESS_SECONDS = 0.2
_LONGEST_SPAN_MS = round(2_000 * TICK_SECONDS)


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a run is. `outstanding` messages are not yet acknowledged."""

    sent: int
    outstanding: int
    failed: int
    elapsed_seconds: float


def produce(
    plan: LoadPlan,
    settings: Settings,
    sent: Path | None = None,
    stop_event: threading.Event | None = None,
    on_progress: Callable[[LoadProgress], None] = lambda _progress: None,
) -> LoadSummary:
    """Send what the plan says to the topic of the settings; list what was acknowledged in `sent`.

    Setting `stop_event` ends the run early: what is sent already is awaited, the file completed. Messages that
    finally failed are counted in the summary. Raises ConfigurationError (no address, no topic, file not
    writable) and KafkaUnavailableError if no broker answers at the start.
    """
    partitions = len(describe_topic(kafka_address(settings), settings.kafka).partitions)
    run = _Run(plan, settings, open_sent(sent), partitions)
    stop = stop_event or threading.Event()
    try:
        run.send_all(stop, on_progress)
    finally:
        run.finish(stop)
    return run.summary


class _Run:
    def __init__(self, plan: LoadPlan, settings: Settings, sent: SentFile, partitions: int) -> None:
        self._sender = EventSender(settings)
        self._sent = sent
        self._pacer = Pacer(plan)
        self._last_ms = SystemClock().now_ms()
        self._stream = EventStream(plan, self._last_ms, partitions)
        self.summary = LoadSummary(settings.kafka.topic, plan.seed)
        self._queued = 0
        self._began_seconds = time.monotonic()
        self._settled_seconds = 0.0
        self._shown_seconds = 0.0

    def send_all(self, stop: threading.Event, on_progress: Callable[[LoadProgress], None]) -> None:
        elapsed_seconds = 0.0
        while not (stop.is_set() or self._sender.is_broken or self._pacer.is_over(elapsed_seconds)):
            elapsed_seconds = self._elapsed_seconds()
            now_ms = SystemClock().now_ms()
            if count := self._pacer.due(elapsed_seconds):
                messages = self._stream.take(count, max(self._last_ms, now_ms - _LONGEST_SPAN_MS), now_ms)
                self._sender.send(messages, stop.is_set)
                self._queued += count
            else:
                self._sender.serve()
            self._last_ms = now_ms
            self._settle_now_and_then(elapsed_seconds)
            if elapsed_seconds - self._shown_seconds >= _PROGRESS_SECONDS:
                self._shown_seconds = elapsed_seconds
                on_progress(self._progress(elapsed_seconds))
            if not self._pacer.is_over(elapsed_seconds):
                time.sleep(self._pacer.wait_seconds(self._elapsed_seconds()))
        on_progress(self._progress(self._elapsed_seconds()))

    def finish(self, stop: threading.Event) -> None:
        self._await_all(stop)
        self._stream.fail(self._sender.take_failures())
        self.summary.elapsed_seconds = self._elapsed_seconds()
        self._write(self._stream.finish())
        self.summary.rate = self.summary.messages / self.summary.elapsed_seconds
        self.summary.failed = self._sender.reasons.total()
        self.summary.failures = dict(self._sender.reasons)
        self._sent.close(self.summary.as_dict())

    def _settle_now_and_then(self, elapsed_seconds: float) -> None:
        waiting = self._stream.unsettled_blocks
        is_due = waiting >= SETTLE_BLOCKS or (waiting and elapsed_seconds - self._settled_seconds >= SETTLE_SECONDS)
        # Usually takes a few milliseconds of the time until the next tick.
        if is_due and self._sender.settle(_LONGEST_SETTLE_SECONDS):
            self._settled_seconds = elapsed_seconds
            self._stream.fail(self._sender.take_failures())
            self._write(self._stream.settle())

    def _await_all(self, stop: threading.Event) -> None:
        deadline_seconds = time.monotonic() + DELIVERY_SECONDS
        was_stopping = False
        while not self._sender.settle(_LONGEST_SETTLE_SECONDS):
            now_seconds = time.monotonic()
            if stop.is_set() and not was_stopping:
                was_stopping = True
                deadline_seconds = min(deadline_seconds, now_seconds + STOP_SECONDS)
            if now_seconds > deadline_seconds:
                self._sender.abandon()
                return

    def _write(self, accounts: Iterable[pl.DataFrame]) -> None:
        events = [self.summary.add(account) for account in accounts]
        if events:
            self._sent.write(pl.concat(events))

    def _progress(self, elapsed_seconds: float) -> LoadProgress:
        return LoadProgress(self._queued, self._sender.outstanding, self._sender.reasons.total(), elapsed_seconds)

    def _elapsed_seconds(self) -> float:
        return time.monotonic() - self._began_seconds
