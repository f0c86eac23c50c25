"""One seed, one schedule, one verdict."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tests.models.scheduler import LivelockError
from tests.system.simulation.check import problems
from tests.system.simulation.plan import Plan, draw
from tests.system.simulation.world import World

_LOGGER = logging.getLogger("metrics_pipeline")


@dataclass(frozen=True, slots=True)
class Result:
    plan: Plan
    problems: tuple[str, ...]
    steps: int
    batches: int


def run_seed(
    seed: int,
    trace: Callable[[str], None] | None = None,
    world_of: Callable[[Plan, Callable[[str], None] | None], World] = World,
) -> Result:
    """Run the schedule of `seed`; `trace` hears of each step."""
    plan = draw(seed)
    world = world_of(plan, trace)
    level = _LOGGER.level
    _LOGGER.setLevel(logging.CRITICAL)
    try:
        world.run()
        found = problems(world)
    except LivelockError as error:
        found = [str(error)]
    finally:
        _LOGGER.setLevel(level)
    return Result(plan, tuple(found), world.scheduler.steps, len(world.server.ledger))


def failure_of(result: Result) -> str:
    """What went wrong, and how to see it again."""
    seed, kind = result.plan.seed, result.plan.kind
    lines = "\n  ".join(result.problems)
    return f"seed {seed} ({kind}):\n  {lines}\nreplay it with: python -m tests.system.simulation --seed {seed} --trace"
