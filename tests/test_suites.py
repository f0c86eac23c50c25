"""What `make test` holds of the tests that take engines, and that nothing is in no suite."""

import math
import re
import subprocess
import sys

import pytest

from metrics_pipeline.delivery.steps import Step
from tests.suites import ROOT, SUITES, Until, suite_of

WITH_ENGINES = (
    "tests/models",
    "tests/drain/test_drain.py",
    "tests/system/chaos/test_run.py",
    "tests/system/e2e/test_command_line.py",
    "tests/system/simulation",
)


@pytest.fixture(scope="module")
def quick() -> list[str]:
    """Of these files, what `make test` runs."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "quick", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *WITH_ENGINES], cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^(tests/\S+::.+)$", done.stdout, re.MULTILINE)


def count(quick: list[str], part: str) -> int:
    return sum(part in name for name in quick)


def test_make_test_holds_the_contract_on_models_and_on_engines(quick: list[str]) -> None:
    models, real = (count(quick, f"[{bench}") for bench in ("model", "real"))
    assert models == real > 10


def test_make_test_holds_one_crash_before_each_step(quick: list[str]) -> None:
    assert count(quick, "test_a_crash_before_any_step") == len(Step)


@pytest.mark.parametrize(
    "name",
    [
        "test_up_produce_drain_audit_latency_down",
        "test_faults_of_many_kinds[30]",
        "test_every_schedule_is_exact[0-300]",
    ],
)
def test_make_test_holds_a_walk_some_chaos_and_some_schedules(quick: list[str], name: str) -> None:
    parts = name.partition("[")
    assert [n for n in quick if parts[0] in n and n.endswith(parts[1] + parts[2])]


def test_every_folder_of_tests_is_in_a_suite() -> None:
    folders = {suite_of(file) for file in ROOT.rglob("test_*.py") if file.parent != ROOT}
    assert folders == set(SUITES)


def test_no_test_begins_after_the_moment(request: pytest.FixtureRequest) -> None:
    assert Until(0).pytest_runtest_protocol(request.node) is True
    assert Until(math.inf).pytest_runtest_protocol(request.node) is None
