"""What goes on meanwhile: drawn anew on a terminal; elsewhere a line for each thing that is said, and figures now and
then."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from rich.console import Console, RenderableType
from rich.live import Live

_LAST_LINES = 12


class Timed(Protocol):
    @property
    def elapsed_seconds(self) -> float: ...


_T = TypeVar("_T", bound=Timed)


@dataclass
class View(Generic[_T]):
    """`draw` gets the last lines that were said, and the latest figures. May be told by several threads."""

    console: Console
    every_seconds: float
    line: Callable[[_T], str]
    draw: Callable[[Sequence[str], _T | None], RenderableType]
    _lines: list[str] = field(default_factory=list, init=False)
    _figures: _T | None = field(default=None, init=False)
    _live: Live | None = field(default=None, init=False)
    _printed_seconds: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def shown(self, *, transient: bool) -> Iterator[None]:
        """While it is open; on a terminal it stays at the end unless it is transient."""
        if not self.console.is_terminal:
            yield
            return
        # No refreshing thread: it would compete with a producer for the interpreter.
        with Live(self.draw((), None), console=self.console, auto_refresh=False, transient=transient) as self._live:
            yield

    def say(self, line: str) -> None:
        with self._lock:
            self._lines = [*self._lines, line][-_LAST_LINES:]
            self._update(line)

    def show(self, figures: _T) -> None:
        with self._lock:
            self._figures = figures
            is_due = figures.elapsed_seconds >= self._printed_seconds + self.every_seconds
            if is_due:
                self._printed_seconds = figures.elapsed_seconds
            self._update(self.line(figures) if is_due else None)

    def _update(self, line: str | None) -> None:
        if self._live is not None:
            self._live.update(self.draw(self._lines, self._figures), refresh=True)
        elif line is not None:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
