"""What becomes of a step that fails: it is tried again, or the run ends with one line that says why. And of work that a
cancelled run may not leave half done."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg

from metrics_pipeline.errors import PipelineError, RetryableError

_T = TypeVar("_T")
_POLICY = dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)


@contextmanager
def retried(policy: dg.RetryPolicy = _POLICY) -> Iterator[None]:
    """Around the work of a step, in place of its `retry_policy`, which would also repeat a step that was terminated."""
    try:
        with told():
            yield
    except Exception as error:
        attempts = dg.OpExecutionContext.get().retry_number + 1
        is_final = isinstance(error, dg.Failure) and not error.allow_retries
        if is_final or attempts > policy.max_retries:
            raise
        raise dg.RetryRequested(policy.max_retries, policy.calculate_delay(attempts)) from error


@contextmanager
def told() -> Iterator[None]:
    """An error of ours ends the run with its message alone."""
    try:
        yield
    except PipelineError as error:
        raise dg.Failure(str(error), allow_retries=isinstance(error, RetryableError)) from error


def in_thread(work: Callable[[Callable[[], bool]], _T], record: Callable[[_T], None]) -> _T:
    """Work in a second thread: Dagster interrupts the first one anywhere, which must not hit a half-done step.

    `work` gets a function that says whether to stop; what it did is recorded also where the run was interrupted.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="work") as pool:
        future = pool.submit(work, stop.is_set)
        try:
            result = future.result()
        except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt):
            stop.set()
            record(future.result())
            raise
    record(result)
    return result
