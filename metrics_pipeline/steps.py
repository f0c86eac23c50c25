"""The named steps of a drain run; whoever passes `observe` hears of each before it begins."""

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
    VERDICT = "verdict"
    DEAD = "dead letters"
    LEDGER = "ledger"
    CLOSE = "close"
