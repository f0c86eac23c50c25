"""When a drain run ends. Pure: a situation in, a reason or nothing out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Reason(StrEnum):
    """Why a drain run ended."""

    CAUGHT_UP = "caught up"
    IDLE = "idle"
    WINDOW = "window over"
    HANDOVER = "handed over"
    STOPPED = "stopped"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Situation:
    """What an ending may look at. Times are monotonic seconds; positions are next offsets."""

    now_seconds: float
    started_seconds: float
    last_message_seconds: float
    positions: Mapping[int, int]
    successor_is_ready: Callable[[], bool]


class Ending(Protocol):
    """Decides whether the run is over."""

    def reason(self, situation: Situation) -> Reason | None: ...


@dataclass(frozen=True, slots=True)
class AtOffsets:
    """Ends when every partition has been read up to the given offset."""

    ends: Mapping[int, int]

    def reason(self, situation: Situation) -> Reason | None:
        reached = all(situation.positions.get(p, end) >= end for p, end in self.ends.items())
        return Reason.CAUGHT_UP if reached else None


@dataclass(frozen=True, slots=True)
class AtWindowEnd:
    """Ends when a successor is ready, without one some time after the window, or when nothing arrives."""

    window_seconds: float
    idle_seconds: float
    handover_seconds: float

    def reason(self, situation: Situation) -> Reason | None:
        if situation.successor_is_ready():
            return Reason.HANDOVER
        if situation.now_seconds - situation.last_message_seconds >= self.idle_seconds:
            return Reason.IDLE
        if situation.now_seconds - situation.started_seconds >= self.window_seconds + self.handover_seconds:
            return Reason.WINDOW
        return None
