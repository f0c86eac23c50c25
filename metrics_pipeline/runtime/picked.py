"""Figures of a value by their names, for JSON and for metadata."""

from typing import Any


def picked(value: object, *names: str) -> dict[str, Any]:
    """Fields and properties of these names, in this order."""
    return {name: getattr(value, name) for name in names}
