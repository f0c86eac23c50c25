"""After a replay: the rollups of what it has changed, made to say what raw_events says.

Inserts go through the views, so the rollups count events again of which only the rows in raw_events were lost; deletes
don't go through them. So the units that a replay has changed are compared with raw_events and repaired. The plans in
replay_plan say which units those are, so the next replay repairs what an interrupted one left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from metrics_pipeline.ledger.minutes import Scope
from metrics_pipeline.replay.ports import Tables
from metrics_pipeline.replay.units import UnitAccount, spans_of, unit_accounts
from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.rollups.shards import RollupsOfShards
from metrics_pipeline.runtime.retry import Retry

ROUNDS = 3
"""Tries, after which a unit that events land in all the time is left to the next replay."""
MAX_GAP_UNITS = 6
"""Looking at some units between costs less than another look does, which takes seconds."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """Units that were repaired, and units that are left: events came in between, or raw_events knows less of them."""

    units: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True)
class RollupRepair:
    """Of the replays of one consumer group."""

    tables: Tables
    rollups: RollupsOfShards
    retry: Retry

    def repair(self, assure_owner: Callable[[], None]) -> Repaired:
        """Repair what replays have changed since the last repair.

        `assure_owner` raises FencedError where a newer replay may have noted a plan that was read here, and not done it
        yet.
        """
        changed, newest_ms = self.retry.call(self.tables.plans.unrepaired)
        units = {UNIT.floor(minute) for minute in changed}
        repaired, in_flux, poorer = 0, units, 0
        for _ in range(ROUNDS):
            if not in_flux:
                break
            done, in_flux, kept = self._round(in_flux)
            repaired += done
            poorer += kept
        if newest_ms and not in_flux:
            assure_owner()
            self.retry.call(lambda: self.tables.plans.note_repaired(newest_ms))
        return Repaired(repaired, len(in_flux) + poorer)

    def _round(self, units: set[int]) -> tuple[int, set[int], int]:
        """How many units were repaired, those in flux, and how many are left as they are."""
        repaired, kept, in_flux = 0, 0, set[int]()
        for start, end in spans_of(units, MAX_GAP_UNITS):
            accounts = self._accounts(start, end)
            wanted = {unit: account for unit, account in accounts.items() if account.is_repairable}
            kept += len(units & accounts.keys() - wanted.keys())
            for span in spans_of(unit for unit, account in wanted.items() if not account.is_to_be_forgotten):
                checked = self.retry.call(partial(self.rollups.check, Span(*span), repair=True))
                repaired += len(checked.repaired)
                in_flux |= set(checked.in_flux) | set(checked.unrepaired)
            for span in spans_of(unit for unit, account in wanted.items() if account.is_to_be_forgotten):
                repaired += self._forget(Span(*span))
        return repaired, in_flux, kept

    def _forget(self, span: Span) -> int:
        """`check` ignores buckets without raw events, assuming that they were deleted on purpose; these were not."""
        made = self.retry.call(lambda: self.rollups.remake(span, force=True))
        self.retry.call(lambda: self.rollups.rebuild(span))
        return made.units

    def _accounts(self, start: int, end: int) -> dict[int, UnitAccount]:
        scope = Scope(start, end)
        ledger = self.retry.call(lambda: self.tables.minutes.ledger_minutes(scope))
        raw = self.retry.call(lambda: self.tables.minutes.raw_minutes(scope, distinct=True))
        rollup = self.retry.call(lambda: self.tables.minutes.rollup_minutes(scope))
        none = dict.fromkeys(range(start, end, UNIT.seconds), UnitAccount())
        return none | unit_accounts(ledger, raw, rollup)
