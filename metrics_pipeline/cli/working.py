"""How a command that runs for long looks first and asks, shows how far it is, and is stopped."""

import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer
from rich import progress
from rich.console import Console

_T = TypeVar("_T")


def run_id() -> str:
    """Of a command, in the ledger and in intents."""
    return f"cli-{uuid.uuid4()}"


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """The event is set by Ctrl-C and SIGTERM; afterwards they do what they did before."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carefully(
    look: Callable[[], _T],
    act: Callable[[], _T],
    tell: Callable[[_T, bool], None],
    question: Callable[[_T], str],
    *,
    dry_run: bool,
    asks: bool,
) -> _T:
    """Tell what would happen (True: of a dry run) and ask, where there is somebody to answer; act, tell what happened.

    An empty question is not asked. A dry run ends before it.
    """
    if dry_run or (asks and sys.stdin.isatty()):
        found = look()
        tell(found, True)
        if dry_run:
            return found
        if question(found):
            typer.confirm(question(found), abort=True)
    done = act()
    tell(done, False)
    return done


@contextmanager
def counting(doing: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on stderr that is gone at the end. Yields what moves it: to completed and total, or by `advance`."""
    with _bar(progress.MofNCompleteColumn()) as bar:
        task = bar.add_task(doing, total=total)

        def move(completed: int | None = None, total: int | None = None, *, advance: int | None = None) -> None:
            # What came since it was counted is part of the total.
            whole = None if total is None else max(total, completed or 0)
            bar.update(task, completed=completed, total=whole, advance=advance)

        yield move


@contextmanager
def stoppable(doing: str, total: int | None = None) -> Iterator[tuple[Callable[[], bool], Callable[..., None]]]:
    """Likewise, of work that signals stop. Yields what says whether to stop, and what moves the bar."""
    with stop_on_signal() as stop, counting(doing, total) as show:
        yield stop.is_set, show
    if stop.is_set():
        typer.echo("stopped early: run it again for the rest", err=True)


@contextmanager
def in_shares() -> Iterator[Callable[[str], Callable[[float], None]]]:
    """Likewise, of work that tells the share that is done, 0 to 1. Yields what begins a line, by what is done."""
    with _bar(progress.TaskProgressColumn()) as bar:

        def begin(doing: str) -> Callable[[float], None]:
            task = bar.add_task(doing, total=1.0)
            return lambda share: bar.update(task, completed=share)

        yield begin


def _bar(figure: progress.ProgressColumn) -> progress.Progress:
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), figure, progress.TimeElapsedColumn())
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
