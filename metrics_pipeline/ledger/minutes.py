"""Minutes of event time, as the ledger, raw_events and rollup_1m count them: which are settled, and which contradict.

The three can't be read at one instant, and batches land meanwhile. So a look at them is framed by the ledger: it is
read before and after the tables. A minute whose figures differ is judged only if nothing landed in it between the two
(the ledger says the same twice) and nothing was on its way (raw_events has no row of an open batch in it: the server
makes rows visible there before the view's in rollup_1m). Any other is looked at again.

Minutes are epoch seconds of their starts; frames have the columns `minute` and `events`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import polars as pl

from metrics_pipeline.runtime.timerange import MINUTE_SECONDS

COUNTS_SCHEMA = pl.Schema({"minute": pl.Int64(), "events": pl.Int64()})


@dataclass(frozen=True, slots=True)
class Scope:
    """What an audit looks at: minutes in [start, end), or `minutes` of them. Without bounds: everything.

    What retention dropped is taken out of the comparison of minutes by `since`.
    """

    start_seconds: int | None = None
    end_seconds: int | None = None
    minutes: tuple[int, ...] = ()

    @property
    def is_everything(self) -> bool:
        return self.start_seconds is None and self.end_seconds is None and not self.minutes

    def since(self, start_seconds: int) -> "Scope":
        """Without what is before; 0: the same."""
        if not start_seconds:
            return self
        start = max(self.start_seconds or 0, start_seconds)
        return replace(self, start_seconds=start, end_seconds=self.end_seconds and max(start, self.end_seconds))

    @staticmethod
    def around(minutes: Collection[int], longest_list: int) -> "Scope":
        """Around these minutes (at least one): exactly them, or, where they are too many to name, their span."""
        ordered = sorted(minutes)
        named = tuple(ordered) if len(ordered) <= longest_list else ()
        return Scope(ordered[0], ordered[-1] + MINUTE_SECONDS, named)


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Look:
    """One look at all sources, framed by the ledger. `distinct` counts raw_events without doubles, if it was read."""

    before: pl.DataFrame
    raw: pl.DataFrame
    rollup: pl.DataFrame
    after: pl.DataFrame
    distinct: pl.DataFrame | None = None


@dataclass(frozen=True, slots=True)
class MinuteDrift:
    """A settled minute of which the sources say different figures. `doubles` are rows that raw_events holds more than
    once.
    """

    minute: int
    ledger: int
    raw: int
    rollup: int
    doubles: int = 0


def tabulate(look: Look) -> pl.DataFrame:
    """One row per minute: before, ledger (the later reading), raw, rollup, distinct, is_touched."""
    sources = {
        "before": look.before,
        "ledger": look.after,
        "raw": look.raw,
        "rollup": look.rollup,
        "distinct": look.raw if look.distinct is None else look.distinct,
    }
    named = [frame.select("minute", pl.col("events").alias(name)) for name, frame in sources.items()]
    return (
        pl.concat(named, how="diagonal")
        .group_by("minute")
        .agg(pl.col(*sources).sum())
        .with_columns(is_touched=pl.col("before") != pl.col("ledger"))
        .sort("minute")
    )


def disagreeing(table: pl.DataFrame) -> pl.DataFrame:
    """The minutes whose sources don't all say the same. The ledger agrees if either of its readings does."""
    raw = pl.col("raw")
    is_in_ledger = (raw == pl.col("before")) | (raw == pl.col("ledger"))
    return table.filter(~((raw == pl.col("rollup")) & (raw == pl.col("distinct")) & is_in_ledger))


def unsettled(suspects: pl.DataFrame, open_minutes: Collection[int]) -> pl.Series:
    """The minutes among disagreeing ones that can't be judged by this look."""
    is_open = pl.col("minute").is_in(list(open_minutes))
    return suspects.filter(pl.col("is_touched") | is_open)["minute"]


def drifts(suspects: pl.DataFrame) -> list[MinuteDrift]:
    """Disagreeing minutes as values."""
    figures = suspects.select("minute", "ledger", "raw", "rollup", doubles=pl.col("raw") - pl.col("distinct"))
    return [MinuteDrift(**row) for row in figures.iter_rows(named=True)]
