"""Each safeguard of the protocol is switched off in turn, and the simulation has to notice."""

import pytest

from tests.system.simulation.plan import draw
from tests.system.simulation.replay_safeguards import REPLAY_SAFEGUARDS
from tests.system.simulation.run import run_seed
from tests.system.simulation.safeguards import SAFEGUARDS, Safeguard

LARGEST_SEEDS = 4_000


@pytest.mark.parametrize("safeguard", [*SAFEGUARDS, *REPLAY_SAFEGUARDS], ids=lambda s: s.name)
def test_the_simulation_notices_its_absence(safeguard: Safeguard) -> None:
    for seed in range(safeguard.first_seed, safeguard.first_seed + LARGEST_SEEDS):
        if not safeguard.is_needed_by(draw(seed)):
            continue
        with safeguard.off():
            found = run_seed(seed).problems
        if found:
            print(f"{safeguard.name}: seed {seed}: {found[0]}")
            assert run_seed(seed).problems == (), "the schedule is exact as long as the safeguard is there"
            return
    pytest.fail(f"nothing goes wrong in {LARGEST_SEEDS} schedules without: {safeguard.name}")
