"""What becomes of a step that fails: it is tried again, or the run ends with one line that says why."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from metrics_pipeline.errors import PipelineError, RetryableError

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
