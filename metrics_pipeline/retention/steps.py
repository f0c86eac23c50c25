"""The steps of retention, for tests that end it there."""

from enum import StrEnum


class RetentionStep(StrEnum):
    """In this order, the last three as often as there are partitions."""

    RETAINED_FROM = "retained from"
    VIEWS = "views"
    DROP = "drop"
    DELETE = "delete selectively"
    MOVE = "move"
