"""The rules that messages are judged by, as a value that is written down with every batch.

A batch that is landed by two runs must be judged the same way by both: what the first one inserted is an event to the
second one, too, even if the settings have become stricter in between.
"""

from dataclasses import dataclass

from metrics_pipeline.event.decode import Decoded, EventLimits, decode
from metrics_pipeline.event.messages import Messages


@dataclass(frozen=True, slots=True)
class Rules:
    """How far the timestamp of an event may be from the time of its message; the rest is the event's contract."""

    limits: EventLimits

    def decode(self, messages: Messages) -> Decoded:
        """Every message as one event or one dead letter; see `event.decode`."""
        return decode(messages, self.limits)

    def encode(self) -> str:
        """As it is committed with an intent: the two limits in milliseconds, apart by a blank."""
        return f"{self.limits.max_age_ms} {self.limits.max_future_ms}"

    @classmethod
    def parse(cls, text: str) -> "Rules":
        """Raises ValueError if `encode` has not written it."""
        max_age_ms, max_future_ms = text.split(" ")
        return cls(EventLimits(int(max_age_ms), int(max_future_ms)))
