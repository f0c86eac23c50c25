"""What becomes of a step that fails, or that is told to end."""

import signal
from collections.abc import Iterator

import pytest
from dagster import ExecuteInProcessResult, RetryPolicy, job, op
from dagster._utils.interrupts import setup_interrupt_handlers

from metrics_pipeline.definitions import defs
from metrics_pipeline.defs.retries import retried
from metrics_pipeline.errors import ConfigurationError, RetryableError

AT_ONCE = RetryPolicy(max_retries=2)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """As in the process of a run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    setup_interrupt_handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def attempts_at(error: Exception | None) -> tuple[int, ExecuteInProcessResult]:
    """How often a step was tried that raises the error, or is told to end without one."""
    begun: list[None] = []

    @op
    def step() -> None:
        with retried(AT_ONCE):
            begun.append(None)
            if error is None:
                signal.raise_signal(signal.SIGTERM)
            else:
                raise error

    @job
    def it() -> None:
        step()

    result = it.execute_in_process(raise_on_error=False)
    assert not result.success
    return len(begun), result


@pytest.mark.parametrize("error", [RetryableError("no broker answers"), OSError("no broker answers")])
def test_a_step_that_may_succeed_later_is_tried_again(error: Exception) -> None:
    attempts, result = attempts_at(error)
    assert attempts == 3
    told = result.failure_data_for_node("step")
    assert told is not None
    assert "no broker answers" in told.error.to_string()


def test_a_step_that_never_succeeds_is_not() -> None:
    assert attempts_at(ConfigurationError("no such topic"))[0] == 1


def test_a_step_that_is_told_to_end_is_not() -> None:
    assert attempts_at(None)[0] == 1


def test_no_step_has_a_policy_that_would() -> None:
    repository = defs.get_repository_def()
    nodes = [node for made in repository.get_all_jobs() for node in made.graph.iterate_node_defs()]
    assert len(nodes) > 10
    assert not [node.name for node in nodes if getattr(node, "retry_policy", None) is not None]
