"""What `make test` holds of the tests that take engines, and that nothing is in no suite."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metrics_pipeline.delivery.steps import Step
from metrics_pipeline.lab.local import clickhouse, kafka
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


def test_what_is_left_out_for_time_is_named_the_most_important_first() -> None:
    """By two workers, which count apart."""
    parts = ["tests/test_rooms.py", "tests/event/test_messages.py", "tests/kafka"]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--until", "0", "-m", "quick", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *parts], cwd=ROOT.parent, capture_output=True, text=True, timeout=120, check=False)
    named = re.findall(r"^(tests/\S+): ([1-9]\d*) left out for time$", done.stdout, re.MULTILINE)
    assert [suite for suite, _ in named] == ["tests/.", "tests/kafka", "tests/event"]
    assert "passed" not in done.stdout


@pytest.mark.parametrize("engine", [kafka, clickhouse])
def test_a_test_without_the_marker_starts_no_engine(engine: object) -> None:
    with pytest.raises(AssertionError, match="the test is not marked with engines"):
        engine.spawn("engine", [])  # type: ignore[attr-defined]


SAID = {
    "passes": "===== 3 passed, 1 skipped in 2.50s =====",
    "fails": "FAILED tests/drain/test_drain.py::test_x\n===== 1 failed, 2 passed in 65.00s (0:01:05) =====\nexit 2",
    "breaks off": "exit 2",
    "has none left": "===== 9 deselected in 0.10s =====\nmake: *** [Makefile:73: test-long] Error 5\nexit 2",
    "runs out of time": "tests/.: 2 left out for time\ntests/system/e2e: 4 left out for time\n== 1 passed in 1.00s ==",
    "has no test": "===== no tests ran in 0.10s =====",
}
"""What `make` may print, and `exit` with."""


@pytest.mark.parametrize(
    ("first", "second", "status", "last"),
    [
        ("passes", "passes", 0, "9 passed, 3 skipped in 7.50s"),
        ("passes", "fails", 1, "2 failed, 7 passed, 1 skipped in 132.50s"),
        ("fails", "passes", 1, "1 failed, 8 passed, 2 skipped in 70.00s"),
        ("passes", "breaks off", 1, "3 passed, 1 skipped, 2 errors in 2.50s"),
        ("passes", "has none left", 0, "3 passed, 1 skipped in 2.70s"),
        ("passes", "runs out of time", 0, "5 passed, 1 skipped in 4.50s"),
        ("breaks off", "passes", 1, None),
        ("has no test", "passes", 1, None),
    ],
)
def test_ci_adds_up_what_its_runs_say(tmp_path: Path, first: str, second: str, status: int, last: str | None) -> None:
    """With a `make` that only talks: `second` is what both of the long suites' runs say."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT.parent / ".ci" / "run", tmp_path / ".ci" / "run")
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\ncase "$1" in\ntest) {_script(first)} ;;\ntest-long) {_script(second)} ;;\nesac\n')
    make.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = subprocess.run(
        [tmp_path / ".ci" / "run"], env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    if last is not None:
        assert done.stdout.splitlines()[-1].strip("= ") == last
    else:
        assert "the others are left out" in done.stdout
    for line in SAID[second].splitlines() if last is not None else []:
        # Once in each run's own output, and once more at the end.
        assert ("FAILED" not in line and "left out" not in line) or done.stdout.count(line) > 2


def _script(said: str) -> str:
    return "\n".join(line if line.startswith("exit") else f"echo '{line}'" for line in SAID[said].splitlines())
