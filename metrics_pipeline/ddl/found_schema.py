"""What a server has, as values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Size:
    """What a change has to go through. `bytes_on_disk` is compressed."""

    partitions: int = 0
    rows: int = 0
    bytes_on_disk: int = 0


NOTHING = Size()


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """As the server prints it; `codec` and `default` are "" where it has none of its own."""

    type: str
    default: str = ""
    codec: str = ""
    comment: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FoundTable:
    """A table or view. Keys, indexes and settings are "" or empty where it has none."""

    engine: str
    """With its arguments, without keys and settings."""
    comment: str = ""
    columns: Mapping[str, FoundColumn] = field(default_factory=dict)
    partition_by: str = ""
    order_by: str = ""
    primary_key: str = ""
    ttl: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)
    """Name -> expression, type and granularity, as in a CREATE TABLE."""
    size: Size = NOTHING
    unfilled: Mapping[str, Size] = field(default_factory=dict)
    """Column -> the partitions with parts that don't hold it."""


Found = Mapping[str, FoundTable]
"""By name."""
