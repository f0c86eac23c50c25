"""What goes on meanwhile: drawn anew on a terminal; elsewhere a line for each thing that is said, and figures now and
then."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live

_LAST_LINES = 12


class Timed(Protocol):
    """Figures of a moment."""

    @property
    def elapsed_seconds(self) -> float: ...


_T = TypeVar("_T", bound=Timed)


class View(Generic[_T]):
    """`draw` gets the last lines that were said, and the latest figures. May be told by several threads."""

    def __init__(
        self,
        console: Console,
        every_seconds: float,
        line: Callable[[_T], str],
        draw: Callable[[Sequence[str], _T | None], RenderableType],
    ) -> None:
        self._console = console
        self._every_seconds = every_seconds
        self._line = line
        self._draw = draw
        self._lines: list[str] = []
        self._figures: _T | None = None
        self._live: Live | None = None
        self._due_seconds = every_seconds
        self._lock = threading.Lock()

    @contextmanager
    def shown(self, *, transient: bool) -> Iterator["View[_T]"]:
        """While it is open; on a terminal it stays at the end unless it is transient."""
        if not self._console.is_terminal:
            yield self
            return
        first = self._draw((), None)
        # No refreshing thread: it would compete with a producer for the interpreter.
        with Live(first, console=self._console, auto_refresh=False, transient=transient) as self._live:
            yield self

    def say(self, line: str) -> None:
        with self._lock:
            self._lines = [*self._lines, line][-_LAST_LINES:]
            self._update(line)

    def show(self, figures: _T) -> None:
        with self._lock:
            self._figures = figures
            is_due = figures.elapsed_seconds >= self._due_seconds
            if is_due:
                self._due_seconds = figures.elapsed_seconds + self._every_seconds
            self._update(self._line(figures) if is_due else None)

    def _update(self, line: str | None) -> None:
        if self._live is not None:
            self._live.update(self._draw(self._lines, self._figures), refresh=True)
        elif line is not None:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
