"""What lies between a process and an engine: time, errors before the call arrived, errors after it took effect."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from metrics_pipeline.errors import ClickHouseUnavailableError, KafkaUnavailableError
from tests.models.scheduler import Scheduler

_T = TypeVar("_T")


@dataclass(slots=True)
class Faults:
    """Probabilities per call; seconds are virtual."""

    kafka_fails: float = 0.0
    """The call did not arrive."""
    kafka_answer_lost: float = 0.0
    """The call took effect, the caller hears of an error."""
    kafka_hangs: float = 0.0
    """A commit hangs in the client; it arrives much later, or never."""
    clickhouse_fails: float = 0.0
    clickhouse_answer_lost: float = 0.0
    insert_hangs: float = 0.0
    """An insert is on its way for so long that its sender gives up; then it arrives."""
    hang_seconds: float = 40.0
    kafka_answers_late: float = 0.0
    """The call took effect at once, its answer takes seconds: longer than a proof of ownership is trusted."""
    clickhouse_answers_late: float = 0.0
    delays_inserts: bool = True
    """A process may stand still right before it sends an insert, after it proved that it may."""

    def heal(self) -> None:
        self.kafka_fails = self.kafka_answer_lost = self.kafka_hangs = 0.0
        self.clickhouse_fails = self.clickhouse_answer_lost = self.insert_hangs = 0.0
        self.kafka_answers_late = self.clickhouse_answers_late = 0.0


@dataclass(slots=True)
class Network:
    """Calls of one process."""

    scheduler: Scheduler
    faults: Faults

    def kafka(self, what: str, action: Callable[[], _T]) -> _T:
        faults = self.faults
        return self._call(
            what,
            action,
            KafkaUnavailableError,
            fails=faults.kafka_fails,
            answer_lost=faults.kafka_answer_lost,
            answer_late=faults.kafka_answers_late,
        )

    def clickhouse(self, what: str, action: Callable[[], _T]) -> _T:
        faults = self.faults
        return self._call(
            what,
            action,
            ClickHouseUnavailableError,
            fails=faults.clickhouse_fails,
            answer_late=faults.clickhouse_answers_late,
        )

    def travel(self) -> None:
        self.scheduler.pause(self.latency_seconds())

    def latency_seconds(self) -> float:
        random_ = self.scheduler.random
        return random_.random() * (0.3 if random_.random() < 0.2 else 0.02)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.scheduler.random.random() < probability

    def answer(self, late: float) -> None:
        """A call has taken effect: the moment for its process to stand still or die, or for a late answer."""
        self.scheduler.take_effect()
        if self.happens(late):
            self.scheduler.pause(2 + 4 * self.scheduler.random.random())

    def _call(
        self,
        what: str,
        action: Callable[[], _T],
        error: type[Exception],
        *,
        fails: float,
        answer_lost: float = 0.0,
        answer_late: float,
    ) -> _T:
        self.scheduler.step(what)
        self.travel()
        if self.happens(fails):
            raise error(f"{what}: did not arrive")
        result = action()
        self.answer(answer_late)
        if self.happens(answer_lost):
            self.travel()
            raise error(f"{what}: the answer is lost")
        return result
