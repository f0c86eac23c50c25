"""Work that a cancelled run may not leave half done."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import dagster as dg

_T = TypeVar("_T")


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
