"""How commands print."""

import json
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


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
