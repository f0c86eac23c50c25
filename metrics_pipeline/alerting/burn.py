"""How fast late events use up what the freshness objective allows. Pure.

The objective is a share of events that is visible within METRICS_ALERTS__FRESHNESS_SECONDS; the rest of them is the
budget. A burn rate of 1 uses the budget up exactly, whatever the period.

Windows and rates are those that Google's Site Reliability Workbook recommends for paging (chapter 5, "Alerting on
SLOs", multiwindow, multi-burn-rate alerts: https://sre.google/workbook/alerting-on-slos/). The long window keeps a blip
from being an alert. The short window ends the alert soon after the problem. The fast rule fires once 2% of a 30-day
budget went in an hour, the slow rule once 5% went in six hours.
"""

from collections.abc import Mapping
from dataclasses import dataclass

WINDOWS: Mapping[str, int] = {"5m": 300, "30m": 1_800, "1h": 3_600, "6h": 21_600}
"""Name -> seconds, shortest first."""
MIN_LATE = 3
"""With fewer late events in the long window nothing is concluded: of few events, one is a large share."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Events whose fate is known, and how many of them were late."""

    late: int = 0
    events: int = 0


Tallies = Mapping[str, Tally]
"""Window's name -> events in it."""


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Fires if both windows burn faster than `rate`."""

    long: str
    short: str
    rate: float


FAST = BurnRule("1h", "5m", 14.4)
SLOW = BurnRule("6h", "30m", 6.0)
RULES = (FAST, SLOW)


@dataclass(frozen=True, slots=True)
class Burning:
    """A rule that fires, and the burn rate of its long window."""

    rule: BurnRule
    rate: float


def burn_rate(tally: Tally, objective_share: float) -> float | None:
    """Share of late events over the share that may be late; None without events."""
    if not tally.events:
        return None
    return tally.late / tally.events / (1 - objective_share)


def burning(tallies: Tallies, objective_share: float) -> Burning | None:
    """The fastest rule that fires, if any does."""
    for rule in RULES:
        long, short = (tallies.get(window, Tally()) for window in (rule.long, rule.short))
        rates = [burn_rate(tally, objective_share) for tally in (long, short)]
        if long.late >= MIN_LATE and all(rate is not None and rate > rule.rate for rate in rates):
            return Burning(rule, rates[0] or 0.0)
    return None
