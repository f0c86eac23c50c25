"""The named steps of drains, backfills, replays and retention; whoever passes `observe` hears of each as it begins."""

from enum import StrEnum


class Step(StrEnum):
    """In the order of a run that recovers a batch and goes on with the next ones."""

    REGISTER = "register"
    FENCE = "fence"
    FENCE_RIVALS = "fence rivals"
    RECOVER = "recover"
    CLAIM = "claim"
    FETCH = "fetch"
    INTENT = "intent"
    LOOK_UP = "look-up"
    EVENTS = "events"
    SEARCH = "search"
    YIELD = "yield"
    """Of a backfill alone."""
    DEAD = "dead letters"
    LEDGER = "ledger"
    CLOSE = "close"


class ReplayStep(StrEnum):
    """In the order of a replay of dead letters that recovers a chunk and goes on with the next ones."""

    FENCE = "fence"
    RECOVER = "recover"
    READ = "read"
    KEEP = "keep"
    INTENT = "intent"
    EVENTS = "events"
    SEARCH = "search"
    LEDGER = "ledger"
    MARK = "mark"
    CLOSE = "close"


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
