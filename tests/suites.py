"""Which tests `make test` has, in which order the others come, and how a run ends when its time is over."""

import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
ENGINES = {"kafka", "clickhouse", "settings", "database", "engines", "shards", "secured", "postgres", "cluster"}
"""Fixtures that start an engine, or stand on one that does."""
SUITES = (
    "drain",
    "delivery",
    "models",
    "kafka",
    "ledger",
    "event",
    "replay",
    "dead_letters",
    "rollups",
    "retention",
    "schema",
    "ddl",
    "clickhouse",
    "questions",
    "audit",
    "alerting",
    "metrics",
    "defs",
    "cli",
    "lab",
    "runtime",
    "system/simulation",
    "system/chaos",
    "system/cluster",
    "system/security",
    "system/upgrade",
    "dashboards",
    "system/deploy",
    "system/e2e",
    "system/kubernetes",
)
"""Folders of tests, the most important first."""


def suite_of(path: Path) -> str:
    """The folder, below tests/, that a test file counts to."""
    folder = path.relative_to(ROOT).parent.as_posix()
    return next((suite for suite in SUITES if f"{folder}/".startswith(f"{suite}/")), folder)


def rank(item: pytest.Item) -> int:
    suite = suite_of(item.path)
    return SUITES.index(suite) if suite in SUITES else -1


def mark(item: pytest.Item) -> None:
    """`engines` by the fixtures; `quick`, which `make test` runs, unless it takes engines or is said to be long."""
    if ENGINES.intersection(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.engines)
    if not any(item.get_closest_marker(name) for name in ("engines", "long")):
        item.add_marker(pytest.mark.quick)


class Until:
    """Begins no test after a moment, and names at the end what was left out for it."""

    def __init__(self, epoch_seconds: float) -> None:
        self._epoch_seconds = epoch_seconds
        self._left_out: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if time.time() < self._epoch_seconds:
            return None
        self._left_out[suite_of(item.path)] += 1
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["left_out"] = dict(self._left_out)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        """A worker of xdist is done."""
        self._left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._left_out:
            terminalreporter.section("left out for time")
            for suite in sorted(self._left_out, key=lambda name: SUITES.index(name) if name in SUITES else -1):
                terminalreporter.line(f"tests/{suite}: {self._left_out[suite]} left out for time")
