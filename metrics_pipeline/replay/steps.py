"""The steps of a replay of hours, for tests that end it there."""

from enum import StrEnum


class HourStep(StrEnum):
    """In the order of a replay of hours that finishes a chunk, settles, and goes on with the next ones."""

    FENCE = "fence"
    RECOVER = "recover"
    REPAIR_ROLLUPS = "repair rollups"
    READ = "read"
    INTENT = "intent"
    PLAN = "plan"
    REMOVE = "remove"
    EVENTS = "events"
    SEARCH = "search"
    DEAD = "dead letters"
    LEDGER = "ledger"
    CLOSE = "close"
