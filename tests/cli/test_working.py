"""Commands that look first and ask at a terminal, begin at once elsewhere, and say that they were stopped."""

import os
import signal

import pytest
import typer

from metrics_pipeline.cli.working import carefully, stoppable


class Command:
    """Finds `found` things, and does them."""

    def __init__(self, found: int, *, dry_run: bool = False, asks: bool = True) -> None:
        self.found, self.dry_run, self.asks = found, dry_run, asks
        self.calls: list[str] = []

    def run(self) -> None:
        carefully(
            lambda: self._count("look"),
            lambda: self._count("act"),
            lambda found, is_dry: self.calls.append(f"tell {found}{' would be' if is_dry else ''}"),
            lambda found: f"Change {found}?" if found else "",
            dry_run=self.dry_run,
            asks=self.asks,
        )

    def _count(self, what: str) -> int:
        self.calls.append(what)
        return self.found


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is said at the terminal, in turn."""
    given: list[bool] = []

    def confirm(question: str, *, abort: bool) -> None:
        assert (question, abort) == ("Change 3?", True)
        if not given.pop(0):
            raise typer.Abort

    monkeypatch.setattr("typer.confirm", confirm)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return given


def test_it_looks_and_asks_at_a_terminal(answers: list[bool]) -> None:
    answers += [True, False]
    command = Command(3)
    command.run()
    assert command.calls == ["look", "tell 3 would be", "act", "tell 3"]
    refused = Command(3)
    with pytest.raises(typer.Abort):
        refused.run()
    assert refused.calls == ["look", "tell 3 would be"]


def test_what_would_change_nothing_is_not_asked(answers: list[bool]) -> None:
    command = Command(0)
    command.run()
    assert command.calls == ["look", "tell 0 would be", "act", "tell 0"]
    assert answers == []


@pytest.mark.usefixtures("answers")
def test_it_begins_at_once_where_it_is_told_not_to_ask() -> None:
    command = Command(3, asks=False)
    command.run()
    assert command.calls == ["act", "tell 3"]


def test_it_begins_at_once_where_nobody_can_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    command = Command(3)
    command.run()
    assert command.calls == ["act", "tell 3"]


def test_a_dry_run_only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    command = Command(3, dry_run=True)
    command.run()
    assert command.calls == ["look", "tell 3 would be"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_that_is_stopped_says_how_it_goes_on(capsys: pytest.CaptureFixture[str], number: int) -> None:
    with stoppable("replaying") as (stop, _):
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
    assert "stopped early: run it again for the rest" in capsys.readouterr().err


def test_work_that_comes_to_its_end_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with stoppable("replaying"):
        pass
    assert "stopped" not in capsys.readouterr().err
