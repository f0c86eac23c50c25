"""A second thread for the drain, as a port that a simulation can replace."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ThreadJob(Generic[_T]):
    """A `Job`."""

    future: "Future[_T]"

    def is_done(self) -> bool:
        return self.future.done()

    def wait(self, timeout_seconds: float | None = None) -> None:
        wait([self.future], timeout=timeout_seconds)

    def result(self) -> _T:
        return self.future.result()


class ThreadWorker:
    """A `Worker` with one thread. Close it by using it as a context manager."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __enter__(self) -> "ThreadWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(self, work: Callable[[], _T]) -> ThreadJob[_T]:
        return ThreadJob(self._pool.submit(work))
