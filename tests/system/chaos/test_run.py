"""A short run of chaos on engines of its own, with as many kinds of faults as fit, ends exact."""

import sys
import threading
from pathlib import Path

import pytest

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.lab.chaos.journal import Result
from metrics_pipeline.lab.chaos.report import as_json, as_markdown, command_of, rows_of, totals
from metrics_pipeline.lab.chaos.run import ChaosOptions, run_chaos

QUICK_SECONDS = 30
SEED = 14
QUICK_SEED = 389
"""Begins with many short faults: no broker is away."""
RATE = 1_000
SIGHTS = ("request repeated", "batch rebuilt", "drain ended: killed")
"""A quick run may see others: faults that overlap don't count."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seconds" in metafunc.fixturenames:
        seconds = metafunc.config.getoption("chaos_seconds")
        is_quick = seconds <= QUICK_SECONDS
        metafunc.parametrize("seconds", [pytest.param(seconds, marks=[pytest.mark.quick] if is_quick else [])])


@pytest.mark.engines
@pytest.mark.timeout(600)
def test_faults_of_many_kinds_leave_everything_exact(
    seconds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_at_a_time = threading.Lock()

    def say(line: str) -> None:
        with one_at_a_time, capsys.disabled():
            print(f"    {line}", file=sys.stderr, flush=True)

    is_quick = seconds <= QUICK_SECONDS
    options = ChaosOptions(seconds, QUICK_SEED if is_quick else SEED, RATE, tmp_path / "chaos")
    outcome = run_chaos(options, threading.Event(), say)
    assert outcome.problems == (), f"logs: {outcome.world.folder}; the same plan again: {command_of(outcome)}"
    assert outcome.journal.count(Result.INJECTED) >= (3 if is_quick else seconds // 5)
    assert len(outcome.journal.kinds()) >= (3 if is_quick else seconds // 7)
    comparison = outcome.comparison
    assert comparison.landed == comparison.sent - comparison.eaten > seconds * RATE // 10
    # The faults did bite: what the pipeline does against them was seen.
    seen = totals(outcome)
    assert any(seen.values()) if is_quick else all(seen[sight] for sight in SIGHTS), seen
    account = as_json(outcome)
    assert account["ok"]
    assert account["lost"] == account["doubled"] == account["rollup_drift"] == 0
    assert sum(row.injected for row in rows_of(outcome)) == account["faults"]
    assert "0 lost, 0 doubled, drift 0" in as_markdown(outcome)


def test_half_a_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="METRICS_CLICKHOUSE__URL"):
        run_chaos(ChaosOptions(10, 1, folder=tmp_path), threading.Event())
