"""Rollups operated: what was built, building what is not, finding drift and repairing it.

Dagster and the command line both work through this. Only closed buckets are built: until then events are still to come,
and readers take finer rows anyway. What lies before retained_from is final: it is neither compared nor made again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.rollups.building import Bucket, Built, RollupBuilder
from metrics_pipeline.rollups.drift import BuiltFigures, Drift, Judged, Observation, State, UnitFigures, chunks, judge
from metrics_pipeline.rollups.grains import BUILT, SETTLE_SECONDS, UNIT, Grain, grain_named
from metrics_pipeline.rollups.observing import RollupObserver
from metrics_pipeline.rollups.repair import MAX_EVENTS, MAX_UNITS, RollupRepairer
from metrics_pipeline.rollups.retained_from import RetainedFrom
from metrics_pipeline.runtime.ports import Clock
from metrics_pipeline.runtime.timerange import DAY_SECONDS, minute_name

LONGEST_SPAN_DAYS = 4_000
"""Longest span of one call."""
PAUSE_SECONDS = 2.0
"""Between two observations of a unit: longer than an insert takes from its first row to its last."""
GRACE_SECONDS = 1.0
"""Wait before replaced rows are deleted: a query that has read rollup_builds before has read its rows by then."""
ROUNDS = 3
"""A unit into which events come during this many repairs is left to the next check."""
ABANDONED_SECONDS = 600
"""Rows of a repair that began this long ago and was not published are deleted."""

InFlight = Callable[[int, int], frozenset[int]]
"""Starts of units within [start, end) that rows of unfinished batches are in."""
Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def part_of(progress: Progress, number: int, of: int) -> Progress:
    """For one of several parts of equal weight."""
    return lambda share: progress((number + share) / of)


@dataclass(frozen=True, slots=True)
class Span:
    """[start, end), epoch seconds."""

    start_seconds: int
    end_seconds: int

    def __post_init__(self) -> None:
        if self.end_seconds - self.start_seconds > LONGEST_SPAN_DAYS * DAY_SECONDS:
            raise ConfigurationError(
                f"the range is longer than {LONGEST_SPAN_DAYS} days: give --from and --to, a part at a time"
            )

    def around(self, grain: Grain) -> "Span":
        """The smallest span of whole buckets around it."""
        return Span(grain.floor(self.start_seconds), grain.ceil(self.end_seconds))

    def since(self, start_seconds: int) -> "Span":
        return Span(max(self.start_seconds, start_seconds), max(self.end_seconds, start_seconds))

    def until(self, end_seconds: int) -> "Span":
        return Span(self.start_seconds, max(self.start_seconds, min(self.end_seconds, end_seconds)))

    def days(self) -> Iterator["Span"]:
        """Cut at midnights, UTC."""
        start = self.start_seconds
        while start < self.end_seconds:
            end = min(self.end_seconds, (start // DAY_SECONDS + 1) * DAY_SECONDS)
            yield Span(start, end)
            start = end


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did: units made again from raw_events, and buckets built, per grain."""

    units: int = 0
    units_in_flux: int = 0
    refused: tuple[int, ...] = ()
    built: dict[str, Built] = field(default_factory=dict)
    unpublished: tuple[tuple[str, int], ...] = ()
    """(grain, start) of buckets whose build counts other events than rollup_builds, although none arrived meanwhile."""

    @property
    def published(self) -> int:
        return sum(built.published for built in self.built.values())

    @property
    def in_flux(self) -> int:
        return sum(built.in_flux for built in self.built.values())

    def __add__(self, other: "Rebuilt") -> "Rebuilt":
        grains = self.built | other.built
        return Rebuilt(
            self.units + other.units,
            self.units_in_flux + other.units_in_flux,
            self.refused + other.refused,
            {grain: self.built.get(grain, Built()) + other.built.get(grain, Built()) for grain in grains},
            self.unpublished + other.unpublished,
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. `units` were compared with raw_events; of `gone` ones it holds nothing any more."""

    units: int = 0
    drifts: tuple[Drift, ...] = ()
    late: tuple[int, ...] = ()
    in_flux: tuple[int, ...] = ()
    gone: int = 0

    @property
    def is_exact(self) -> bool:
        return not self.drifts

    @property
    def repaired(self) -> frozenset[int]:
        """Starts of the units that were repaired, wherever they had drifted."""
        return frozenset(d.start_seconds for d in self.drifts if d.grain == UNIT.name) - self.unrepaired

    @property
    def unrepaired(self) -> frozenset[int]:
        """Starts of units that drifted and still do, as far as is known."""
        return frozenset(d.start_seconds for d in self.drifts if d.grain == UNIT.name and d.state is not State.REPAIRED)

    def __add__(self, other: "Checked") -> "Checked":
        return Checked(
            self.units + other.units,
            self.drifts + other.drifts,
            self.late + other.late,
            self.in_flux + other.in_flux,
            self.gone + other.gone,
        )


@dataclass(slots=True)
class Rollups:
    """Operates the rollups of one database. Any number may work at once."""

    builder: RollupBuilder
    observer: RollupObserver
    repairer: RollupRepairer
    clock: Clock
    in_flight: InFlight
    retained_from: RetainedFrom

    def closed_until(self) -> int:
        """Buckets that end by then are closed; epoch seconds."""
        return self.clock.now_ms() // 1_000 - SETTLE_SECONDS

    def planned(self, span: Span, grains: Sequence[Grain] = BUILT, *, only_stale: bool) -> dict[Grain, list[Bucket]]:
        """The closed buckets that overlap the span and have events; with `only_stale` those without a right build."""
        found = {}
        for grain in grains:
            around = span.around(grain).until(self.closed_until()).since(self.retained_from.buildable_from(grain))
            found[grain] = self.builder.buckets(grain, around.start_seconds, around.end_seconds, only_stale=only_stale)
        return found

    def stale_units(self, span: Span) -> list[int]:
        """Closed units that were repaired and got events since."""
        around = span.around(UNIT).until(self.closed_until()).since(self.retained_from.compared_from)
        return self.repairer.stale(around.start_seconds, around.end_seconds)

    def units_in_raw(self, span: Span) -> int:
        """Closed units of the span of which raw_events holds events."""
        return sum(
            unit.raw.requests > 0
            for day in self._units_around(span).days()
            for unit in self.observer.observe(day.start_seconds, day.end_seconds).units
        )

    def rebuild(
        self,
        span: Span,
        grains: Sequence[Grain] = BUILT,
        *,
        only_stale: bool = True,
        progress: Progress = lambda _share: None,
    ) -> Rebuilt:
        """Build the closed buckets that overlap the span, finest first, after stale repairs were done again."""
        repaired, in_flux = self._repair_starts(self.stale_units(span))
        done = Rebuilt(units=len(repaired), units_in_flux=len(in_flux))
        plan = self.planned(span, grains, only_stale=only_stale)
        todo = max(1, sum(map(len, plan.values())))
        at = 0
        for grain, buckets in plan.items():
            built = Built()
            for part in self.builder.build(grain, buckets):
                built += part
                progress((at + built.published + built.in_flux) / todo)
            at += len(buckets)
            around = span.around(grain)
            self.builder.prune(grain, around.start_seconds, around.end_seconds)
            done.built[grain.name] = built
            if built.in_flux:
                done = replace(done, unpublished=(*done.unpublished, *self._unpublished(grain, buckets)))
        progress(1.0)
        return done

    def remake(
        self, span: Span, *, force: bool = False, since_build: int = 0, progress: Progress = lambda _share: None
    ) -> Rebuilt:
        """Make all closed units of the span again from raw_events, whatever is there; coarser builds become stale.

        With `since_build` only those that have no newer repair: an interrupted one goes on so.

        Units of which raw_events holds nothing, while the rollups do, are left alone and named, unless forced. Raises
        ConfigurationError for a span that begins where retention dropped events.
        """
        done, cutoff = Rebuilt(), self.retained_from.compared_from
        if UNIT.floor(span.start_seconds) < cutoff:
            raise ConfigurationError(
                f"retention dropped events before {minute_name(cutoff)}, so nothing before can be made again from "
                f"them: give --from {minute_name(cutoff)}"
            )
        around = self._units_around(span)
        for day in around.days():
            units = self.observer.observe(day.start_seconds, day.end_seconds).units
            todo = [u for u in units if (u.raw.requests or force) and not 0 < since_build <= u.repair]
            repaired, in_flux = self._repair(todo)
            refused = tuple(u.start_seconds for u in units if not (u.raw.requests or force))
            done = replace(
                done,
                units=done.units + len(repaired),
                units_in_flux=done.units_in_flux + len(in_flux),
                refused=(*done.refused, *refused),
            )
            progress((day.end_seconds - around.start_seconds) / (around.end_seconds - around.start_seconds))
        return done

    def check(
        self, span: Span, *, repair: bool = False, force: bool = False, progress: Progress = lambda _share: None
    ) -> Checked:
        """Compare raw_events, all cubes and rollup_builds in the closed units that the span overlaps, and the builds of
        coarser buckets that hold them; with `repair` mend what drifted."""
        found = Checked()
        around = self._units_around(span)
        for day in around.days():
            of_day = self._check_day(day, repair=repair, force=force)
            # A bucket of many days is seen on each of them.
            known = {(drift.grain, drift.start_seconds) for drift in found.drifts}
            new = tuple(d for d in of_day.drifts if (d.grain, d.start_seconds) not in known)
            found += replace(of_day, drifts=new)
            progress((day.end_seconds - around.start_seconds) / (around.end_seconds - around.start_seconds))
        return found

    def _units_around(self, span: Span) -> Span:
        """The closed units that overlap the span, and that can be compared with raw_events."""
        closed = self.closed_until() // UNIT.seconds * UNIT.seconds
        return span.around(UNIT).until(closed).since(self.retained_from.compared_from)

    def _check_day(self, day: Span, *, repair: bool, force: bool) -> Checked:
        first = self.observer.observe(day.start_seconds, day.end_seconds)
        judged = self._judge(day, first)
        gone = len(first.gone)
        found = Checked(len(first.units) - gone, judged.drifts, judged.late, judged.in_flux, gone)
        if not repair:
            return replace(found, drifts=(*judged.drifts, *(drift for _, drift in judged.builds)))
        self._sweep(first.units)
        return replace(
            found,
            drifts=(
                *self._mend_units(judged, first.units, force=force),
                *(self._mend_build(figures, drift) for figures, drift in judged.builds),
            ),
        )

    def _judge(self, day: Span, first: Observation) -> Judged:
        """Look again at what differs, after a pause."""
        suspects = first.suspects
        starts = [u.start_seconds for u in suspects] + [
            max(day.start_seconds, UNIT.floor(b.start_seconds)) for b in first.wrong_builds
        ]
        if not starts:
            return Judged()
        self.clock.sleep(PAUSE_SECONDS)
        begin, end = min(starts), max(starts) + UNIT.seconds
        in_flight = self.in_flight(begin, end) if suspects else frozenset()
        return judge(first, self.observer.observe(begin, end), in_flight)

    def _sweep(self, units: Iterable[UnitFigures]) -> None:
        """Delete rows that no reader takes: a repair may have ended before it did."""
        before = (self.clock.now_ms() - ABANDONED_SECONDS * 1_000) * 1_000_000
        left = {unit.start_seconds: unit.repair for unit in units if unit.left_over(before)}
        if left:
            self.repairer.forget(left, before)

    def _mend_units(self, judged: Judged, units: Sequence[UnitFigures], *, force: bool) -> list[Drift]:
        refused = {drift.start_seconds for drift in judged.drifts if not (drift.has_raw or force)}
        wanted = {drift.start_seconds for drift in judged.drifts} - refused | set(judged.late)
        repaired, _ = self._repair([unit for unit in units if unit.start_seconds in wanted])
        if repaired:
            self.rebuild(Span(repaired[0], repaired[-1] + UNIT.seconds))
        states = dict.fromkeys(refused, State.REFUSED) | dict.fromkeys(repaired, State.REPAIRED)
        return [replace(drift, state=states.get(drift.start_seconds, State.FAILED)) for drift in judged.drifts]

    def _mend_build(self, figures: BuiltFigures, drift: Drift) -> Drift:
        grain = grain_named(figures.grain)
        end = figures.start_seconds + grain.seconds
        buckets = self.builder.buckets(grain, figures.start_seconds, end, only_stale=False)
        built = sum(self.builder.build(grain, buckets), Built())
        return replace(drift, state=State.FAILED if built.in_flux else State.REPAIRED)

    def _repair_starts(self, starts: Sequence[int]) -> tuple[list[int], list[int]]:
        repaired: list[int] = []
        in_flux: list[int] = []
        for _, of_day in groupby(starts, key=lambda start: start // DAY_SECONDS):
            wanted = set(of_day)
            units = self.observer.observe(min(wanted), max(wanted) + UNIT.seconds).units
            done, left = self._repair([unit for unit in units if unit.start_seconds in wanted and unit.raw.requests])
            repaired += done
            in_flux += left
        return repaired, in_flux

    def _repair(self, units: Sequence[UnitFigures]) -> tuple[list[int], list[int]]:
        """Make these units again; returns those of which all sources then said the same, and the others."""
        repaired: list[int] = []
        in_flux: list[int] = []
        for chunk in chunks(units, MAX_UNITS, MAX_EVENTS):
            pending = [unit.start_seconds for unit in chunk]
            has_rows = any(rows.builds for unit in chunk for rows in unit.cubes)
            for _ in range(ROUNDS):
                left = self._repair_once(pending, has_rows=has_rows)
                repaired += sorted(set(pending) - set(left))
                pending, has_rows = left, True
                if not pending:
                    break
            in_flux += pending
        return sorted(repaired), sorted(in_flux)

    def _repair_once(self, starts: Sequence[int], *, has_rows: bool) -> list[int]:
        """Returns the units that are to be repaired again."""
        published = self.repairer.make(starts)
        if published and has_rows:
            self.clock.sleep(GRACE_SECONDS)
            self.repairer.forget(published)
        # Another repair at the same time may have corrected rollup_builds, too: only another look tells.
        after = self.observer.observe(starts[0], starts[-1] + UNIT.seconds)
        wrong = {unit.start_seconds for unit in after.units if not unit.is_exact}
        return [start for start in starts if start in wrong or start not in published]

    def _unpublished(self, grain: Grain, buckets: Sequence[Bucket]) -> Iterator[tuple[str, int]]:
        """Buckets that are still stale, while no event came."""
        planned = set(buckets)
        end = buckets[-1].start_seconds + grain.seconds
        for bucket in self.builder.buckets(grain, buckets[0].start_seconds, end, only_stale=True):
            if bucket in planned:
                yield grain.name, bucket.start_seconds
