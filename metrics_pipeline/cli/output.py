"""How commands print."""

import json
from typing import Any

import typer


def print_json(value: Any) -> None:
    """One JSON object on one line, for scripts."""
    typer.echo(json.dumps(value, ensure_ascii=False))
