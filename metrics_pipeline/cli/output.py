"""How commands print."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)


def print_json(value: Any) -> None:
    """One JSON object on one line, for scripts."""
    typer.echo(json.dumps(value, ensure_ascii=False))


@contextmanager
def counting(doing: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on stderr that is gone at the end. Yields what moves it: `advance`, or `completed` and `total`."""
    with _bar(MofNCompleteColumn()) as bar:
        yield partial(bar.update, bar.add_task(doing, total=total))


@contextmanager
def in_shares() -> Iterator[Callable[[str], Callable[[float], None]]]:
    """Likewise, of work that tells the share that is done, 0 to 1. Yields what begins a line, by what is done."""
    with _bar(TaskProgressColumn()) as bar:

        def begin(doing: str) -> Callable[[float], None]:
            task = bar.add_task(doing, total=1.0)
            return lambda share: bar.update(task, completed=share)

        yield begin


def _bar(figure: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), figure, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
