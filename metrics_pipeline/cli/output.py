"""How commands print: one JSON object for scripts, or lines and tables for people."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from metrics_pipeline.runtime.picked import picked

BAD, GOOD, LATER, WARNING = "[red]✗[/]", "[green]✓[/]", "[yellow]…[/]", "[yellow]![/]"
YES: bool = typer.Option(False, "--yes", help="Don't ask.")


def json_option(what: str) -> Any:
    return typer.Option(False, "--json", help=f"Print {what}.")


def print_json(value: Any) -> None:
    """One JSON object on one line, for scripts."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=_plain))


def tell(lines: Iterable[RenderableType], *, to_stderr: bool = False, wraps: bool = False) -> None:
    """For people: tables as wide as the terminal, and text, without line breaks that would cut what may be copied,
    unless it `wraps` at words. Figures have no colour."""
    console = Console(highlight=False, stderr=to_stderr)
    for line in lines:
        console.print(line, soft_wrap=isinstance(line, (str, Text)) and not wraps)


def answer(
    as_json: bool, as_fields: object, lines: Iterable[RenderableType], *, is_ok: bool = True, wraps: bool = False
) -> None:
    """What was asked for, in one form or the other. Exit 1 unless it is well."""
    if as_json:
        print_json(as_fields)
    else:
        tell(lines, wraps=wraps)
    if not is_ok:
        raise typer.Exit(1)


def first_of(lines: Sequence[str], most: int) -> Iterator[str]:
    """Not all where they are many."""
    yield from lines[:most]
    if len(lines) > most:
        yield f"{BAD} {len(lines) - most} more: --json lists them"


def table(columns: Iterable[str | Column], rows: Iterable[Iterable[str]]) -> Table:
    made = Table(*columns, box=None)
    for row in rows:
        made.add_row(*row)
    return made


def right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def pairs(values: Mapping[str, str]) -> Table:
    made = table(("", ""), values.items())
    made.show_header = False
    return made


def _plain(value: object) -> object:
    """What JSON has no word for."""
    if is_dataclass(value):
        return picked(value, *(field.name for field in fields(value)))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"no JSON: {value!r}")
