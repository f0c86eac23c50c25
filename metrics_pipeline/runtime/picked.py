"""Figures of a value by their names, for JSON and for metadata."""

from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def picked(value: object, *names: str) -> dict[str, Any]:
    """Fields and properties of these names, in this order."""
    return {name: getattr(value, name) for name in names}


def known(values: Mapping[str, _T | None]) -> dict[str, _T]:
    """What is not None."""
    return {name: value for name, value in values.items() if value is not None}
