"""How commands print."""

import json
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn


def print_json(value: Any) -> None:
    """One JSON object on one line, for scripts."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def counting_progress() -> Progress:
    """A bar on stderr that counts up to its total, and is gone at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def share_progress() -> Progress:
    """Likewise, with the share that is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def share_of(bar: Progress, doing: str) -> Callable[[float], None]:
    """Begins a line of the bar; call the result with the share that is done, 0 to 1."""
    task = bar.add_task(doing, total=1.0)
    return lambda share: bar.update(task, completed=share)
