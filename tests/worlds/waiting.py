"""Waiting for what has to come, instead of for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_CHECK_SECONDS = 0.1


def await_(
    what: str,
    condition: Callable[[], _T],
    limit_seconds: float = 60,
    *,
    check_seconds: float = _CHECK_SECONDS,
    seen: Callable[[], object] = lambda: "",
) -> _T:
    """What the condition gives once it is true; `seen` is asked for what there is instead when the time is over."""
    deadline = time.monotonic() + limit_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {limit_seconds:g} s, {found!r} {seen()}"
        time.sleep(check_seconds)
    return found
