"""The topic as a `Log`: assigned partitions, exact offsets, bounded prefetch."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.kafka.config import Closing, calling, logger, new_client, translate, without_errors
from metrics_pipeline.kafka.intents import Watermarks
from metrics_pipeline.kafka.ports import Fetched
from metrics_pipeline.settings import KafkaSettings

_LARGEST_POLL_MESSAGES = 10_000
_FIRST_GUESS_MESSAGE_BYTES = 512


class KafkaLog(Closing):
    """Reads one topic without joining a group. Close it, or use it as a context manager."""

    def __init__(self, bootstrap_servers: str, settings: KafkaSettings) -> None:
        self._topic = settings.topic
        self._timeout_seconds = settings.request_timeout_seconds
        self._description = describe_topic(bootstrap_servers, settings)
        self._consumer = new_client(Consumer, bootstrap_servers, settings, **_consumer_options(settings))
        self._assigned: list[TopicPartition] = []
        self._held: list[Message] = []
        self._mean_message_bytes = float(_FIRST_GUESS_MESSAGE_BYTES)

    def close(self) -> None:
        self._held = []
        self._consumer.close()

    @property
    def topic_id(self) -> str:
        return self._description.topic_id

    def partitions(self) -> tuple[int, ...]:
        return self._description.partitions

    def watermarks(self, partitions: Sequence[int]) -> Mapping[int, Watermarks]:
        return {
            p: calling(f"asking for the watermarks of {self._topic}[{p}]", partial(self._marks, p)) for p in partitions
        }

    def _marks(self, partition: int) -> Watermarks:
        slot = TopicPartition(self._topic, partition)
        low, high = self._consumer.get_watermark_offsets(slot, timeout=self._timeout_seconds)
        return Watermarks(low, high)

    def offsets_at(self, partitions: Sequence[int], time_ms: int) -> Mapping[int, int]:
        asked = [TopicPartition(self._topic, p, time_ms) for p in partitions]
        answered = calling(
            f"asking for the offsets of {self._topic} at {time_ms} ms",
            lambda: self._consumer.offsets_for_times(asked, timeout=self._timeout_seconds),
        )
        return {a.partition: a.offset for a in without_errors(answered) if a.offset >= 0}

    def assign(self, positions: Mapping[int, int]) -> None:
        self._held = []
        self._assigned = [TopicPartition(self._topic, p, offset) for p, offset in sorted(positions.items())]
        calling(f"assigning {self._topic}", lambda: self._consumer.assign(self._assigned))

    def poll(self, max_events: int, max_bytes: int, timeout_seconds: float) -> Fetched:
        if not self._held:
            fits = max(1, int(max_bytes / self._mean_message_bytes))
            wanted = max(1, min(max_events, fits, _LARGEST_POLL_MESSAGES))
            self._held = calling(
                f"fetching {self._topic}",
                lambda: self._consumer.consume(num_messages=wanted, timeout=timeout_seconds),
            )
        taken, self._held = _within(self._held, max_events, max_bytes)
        fetched = _to_fetched(taken, self._topic)
        if len(fetched.messages):
            mean = fetched.messages.size_bytes / len(fetched.messages)
            self._mean_message_bytes = max(1.0, mean)
        return fetched

    def pause(self) -> None:
        calling(f"pausing {self._topic}", lambda: self._consumer.pause(self._assigned))

    def resume(self) -> None:
        calling(f"resuming {self._topic}", lambda: self._consumer.resume(self._assigned))


def _consumer_options(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": settings.prefetch_bytes // 1024,
        "queued.min.messages": 1_000_000,
        # Of compressed batches: one answer may grow a hundredfold before the client counts what it has fetched.
        "fetch.message.max.bytes": min(settings.prefetch_bytes, 1 << 20),
        "fetch.max.bytes": min(settings.prefetch_bytes, 4 << 20),
        "fetch.wait.max.ms": 100,
        "fetch.queue.backoff.ms": 20,
    }


def _within(messages: list[Message], max_events: int, max_bytes: int) -> tuple[list[Message], list[Message]]:
    """Cut where either limit is reached; at least one message stays on the left."""
    size_bytes = 0
    for index, message in enumerate(messages[:max_events]):
        size_bytes += len(message)
        if size_bytes > max_bytes and index:
            return messages[:index], messages[index:]
    return messages[:max_events], messages[max_events:]


def _to_fetched(received: list[Message], topic: str) -> Fetched:
    ends: dict[int, int] = {}
    messages = received
    if any(m.error() is not None for m in received):
        messages = []
        for message in received:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends |= {cast("int", message.partition()): cast("int", message.offset())}
            else:
                _raise_unless_passing(error, f"fetching {topic}[{message.partition()}]")
    # Column by column: a tuple per message would cost more than all of this, in garbage collection.
    # A fetched message has a partition and an offset; the client's types allow for unsent ones.
    return Fetched(
        Messages(
            partitions=cast("list[int]", [m.partition() for m in messages]),
            offsets=cast("list[int]", [m.offset() for m in messages]),
            timestamps_ms=[m.timestamp()[1] for m in messages],
            values=[m.value() for m in messages],
        ),
        ends,
    )


def _raise_unless_passing(error: KafkaError, doing: str) -> None:
    """The client recovers from lost connections by itself; it says so, and the drain's own limit ends the wait."""
    problem = translate(error, doing)
    if isinstance(problem, KafkaUnavailableError):
        logger.warning("%s; the client tries again", problem)
    else:
        raise problem
