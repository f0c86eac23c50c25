"""Drift of rollups: where raw_events, the cubes and rollup_builds count different events in a unit of time. Pure.

Sources can't be read at one instant while events land. So a unit is judged by two observations: one that differs is
drifted only if both say exactly the same, and nothing is known to be on its way into it.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from metrics_pipeline.rollups.grains import LIVE, UNIT
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name

RAW, BUILDS = "raw_events", "rollup_builds"


@dataclass(frozen=True, slots=True)
class Count:
    requests: int = 0
    errors: int = 0

    def __str__(self) -> str:
        return f"{self.requests} ({self.errors} errors)"


@dataclass(frozen=True, slots=True)
class Build:
    """A build in a table: its number (0: rows as events came), and what its rows count."""

    number: int
    count: Count


@dataclass(frozen=True, slots=True)
class CubeRows:
    """The builds that a table holds of one bucket."""

    table: str
    builds: tuple[Build, ...]

    def of(self, number: int) -> Count:
        return next((b.count for b in self.builds if b.number == number), Count())


@dataclass(frozen=True, slots=True)
class UnitFigures:
    """One unit, as each source counts it. `repair` is the build that readers take (0: none was needed yet).

    `mismatched` are coarser buckets, (grain's name, start, difference), whose events in rollup_builds are not the sum
    of their units'; each belongs to the first unit within it.
    """

    start_seconds: int
    raw: Count = Count()
    cubes: tuple[CubeRows, ...] = ()
    events: int = 0
    repair: int = 0
    repair_requests: int = 0
    is_day_in_raw: bool = True
    mismatched: tuple[tuple[str, int, int], ...] = ()

    @property
    def current(self) -> dict[str, Count]:
        """Table -> what readers get of it."""
        return {rows.table: rows.of(self.repair) for rows in self.cubes}

    @property
    def is_exact(self) -> bool:
        return self.events == self.raw.requests and not self.wrong_cubes and not self.mismatched

    @property
    def wrong_cubes(self) -> tuple[str, ...]:
        return tuple(table for table, count in self.current.items() if count != self.raw)

    @property
    def is_late(self) -> bool:
        """Events came after the repair. That is no fault: rollup_builds counts them, and the next repair has them."""
        return self.repair > 0 and self.repair_requests < self.events == self.raw.requests and not self.mismatched

    @property
    def is_stale(self) -> bool:
        """Repaired, and not all events are in the repair."""
        return self.repair > 0 and self.repair_requests != self.events

    @property
    def is_gone(self) -> bool:
        """The day was dropped from raw_events, and the rollups agree with each other: nothing to compare them with."""
        counts = {count.requests for count in self.current.values()} | {self.events}
        return not self.is_day_in_raw and len(counts) == 1 and counts != {0} and not self.mismatched

    def left_over(self, before_build: int) -> bool:
        """Are there rows that no reader takes: replaced by a repair, or of one, begun before, that never ended?"""
        return any(self._is_left_over(b.number, before_build) for rows in self.cubes for b in rows.builds)

    def _is_left_over(self, number: int, before_build: int) -> bool:
        if number > self.repair:
            return number < before_build
        return number < self.repair and not (number == 0 and self.is_stale)


@dataclass(frozen=True, slots=True)
class BuiltFigures:
    """A published build of a coarser bucket: its count in rollup_builds, and the count of its rows."""

    grain: str
    start_seconds: int
    build: int
    requests: int
    cubes: tuple[CubeRows, ...] = ()

    @property
    def wrong_tables(self) -> tuple[str, ...]:
        counts = {rows.table: rows.of(self.build) for rows in self.cubes}
        errors = {count.errors for count in counts.values()}
        wrong = tuple(table for table, count in counts.items() if count.requests != self.requests)
        return wrong or (tuple(counts) if len(errors) > 1 else ())


@dataclass(frozen=True, slots=True)
class Observation:
    """All sources of a span, read once."""

    units: tuple[UnitFigures, ...] = ()
    builds: tuple[BuiltFigures, ...] = ()

    @property
    def suspects(self) -> tuple[UnitFigures, ...]:
        return tuple(unit for unit in self.units if not unit.is_exact and not unit.is_gone)

    @property
    def gone(self) -> tuple[int, ...]:
        return tuple(unit.start_seconds for unit in self.units if unit.is_gone)

    @property
    def wrong_builds(self) -> tuple[BuiltFigures, ...]:
        return tuple(build for build in self.builds if build.wrong_tables)


class State(StrEnum):
    """What became of a drift."""

    FOUND = "found"
    REPAIRED = "repaired"
    REFUSED = "refused"
    """raw_events has nothing to repair from."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Drift:
    """A bucket that drifted: the tables that are wrong in it, and a sentence with the figures."""

    start_seconds: int
    grain: str
    tables: tuple[str, ...]
    said: str
    state: State = State.FOUND
    has_raw: bool = True

    def __str__(self) -> str:
        done = {
            State.FOUND: "",
            State.REPAIRED: "; repaired",
            State.REFUSED: "; not repaired, since raw_events holds nothing of it: if that was deleted on purpose, "
            "leave it; `metrics-pipeline rollups check --repair --force` makes the rollups forget it, too",
            State.FAILED: "; the repair did not hold: run it again",
        }
        return f"{self.grain} from {minute_name(self.start_seconds)}: {self.said}{done[self.state]}"


@dataclass(frozen=True, slots=True)
class Judged:
    """What two observations tell. `late` and `in_flux` are starts of units."""

    drifts: tuple[Drift, ...] = ()
    builds: tuple[tuple[BuiltFigures, Drift], ...] = ()
    late: tuple[int, ...] = ()
    in_flux: tuple[int, ...] = ()


def judge(first: Observation, second: Observation, in_flight: Collection[int] = frozenset()) -> Judged:
    """Suspects of the first observation, judged by the second; `in_flight` are starts of units."""
    again = {unit.start_seconds: unit for unit in second.units}
    drifts, late, in_flux = [], [], []
    for unit in first.suspects:
        start = unit.start_seconds
        if again.get(start) != unit or start in in_flight:
            in_flux.append(start)
        elif unit.is_late:
            late.append(start)
        else:
            drifts.append(_drift(unit))
    rebuilt = set(second.builds)
    builds = tuple((b, _built_drift(b)) for b in first.wrong_builds if b in rebuilt)
    return Judged(tuple(drifts), builds, tuple(late), tuple(in_flux))


def units_of(minutes: Iterable[int]) -> frozenset[int]:
    """The units that hold these minutes."""
    return frozenset(UNIT.floor(minute) for minute in minutes)


def chunks(units: Sequence[UnitFigures], longest: int, max_events: int) -> Iterator[list[UnitFigures]]:
    """Units in order, cut so that a chunk has at most `longest` units and `max_events` events (but at least one unit),
    and lies within a day: then its raw events are in one partition."""
    for _, of_day in groupby(units, key=lambda unit: unit.start_seconds // DAY_SECONDS):
        chunk: list[UnitFigures] = []
        events = 0
        for unit in of_day:
            if chunk and (len(chunk) == longest or events + unit.raw.requests > max_events):
                yield chunk
                chunk, events = [], 0
            chunk.append(unit)
            events += unit.raw.requests
        yield chunk


def _drift(unit: UnitFigures) -> Drift:
    tables = unit.wrong_cubes
    parts = [f"{RAW} has {unit.raw}"]
    parts += [f"{table} counts {unit.current[table]}" for table in tables]
    if unit.events != unit.raw.requests or unit.mismatched:
        tables += (BUILDS,)
        parts.append(f"{BUILDS} says {unit.events}")
    parts += [
        f"{BUILDS} counts {difference:+} too many or too few for the {grain} from {minute_name(start)}"
        for grain, start, difference in unit.mismatched
    ]
    has_rows = unit.events != 0 or any(count.requests for count in unit.current.values())
    has_raw = unit.raw.requests > 0 or not has_rows
    return Drift(unit.start_seconds, UNIT.name, tables, ", ".join(parts), has_raw=has_raw)


def _built_drift(figures: BuiltFigures) -> Drift:
    counts = ", ".join(
        f"{rows.table} counts {rows.of(figures.build)}" for rows in figures.cubes if rows.table in figures.wrong_tables
    )
    said = f"{BUILDS} says that its build counts {figures.requests}, {counts}"
    return Drift(figures.start_seconds, figures.grain, figures.wrong_tables, said)


if UNIT.seconds % LIVE.seconds or DAY_SECONDS % UNIT.seconds:
    raise AssertionError("a unit must hold whole live buckets, and a day whole units")
