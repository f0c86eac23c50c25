"""Rollups operated: each shard has those of its own rows, so everything is done on one after the other. A single server
is one shard."""

from collections.abc import Sequence
from dataclasses import dataclass

from metrics_pipeline.rollups.building import Bucket
from metrics_pipeline.rollups.grains import BUILT, Grain
from metrics_pipeline.rollups.operate import Checked, Progress, Rebuilt, Rollups, Span, part_of


@dataclass(frozen=True, slots=True)
class RollupsOfShards:
    """Does what `Rollups` does, on all shards; counts are sums, so a bucket that two shards have rows of is two."""

    shards: Sequence[Rollups]

    def closed_until(self) -> int:
        return min(shard.closed_until() for shard in self.shards)

    def planned(self, span: Span, grains: Sequence[Grain] = BUILT, *, only_stale: bool) -> dict[Grain, list[Bucket]]:
        plans = [shard.planned(span, grains, only_stale=only_stale) for shard in self.shards]
        return {grain: [bucket for plan in plans for bucket in plan[grain]] for grain in grains}

    def stale_units(self, span: Span) -> list[int]:
        return sorted(unit for shard in self.shards for unit in shard.stale_units(span))

    def units_in_raw(self, span: Span) -> int:
        return sum(shard.units_in_raw(span) for shard in self.shards)

    def rebuild(
        self,
        span: Span,
        grains: Sequence[Grain] = BUILT,
        *,
        only_stale: bool = True,
        progress: Progress = lambda _share: None,
    ) -> Rebuilt:
        done = Rebuilt()
        for number, shard in enumerate(self.shards):
            done += shard.rebuild(span, grains, only_stale=only_stale, progress=self._part(number, progress))
        return done

    def remake(
        self, span: Span, *, force: bool = False, since_build: int = 0, progress: Progress = lambda _share: None
    ) -> Rebuilt:
        done = Rebuilt()
        for number, shard in enumerate(self.shards):
            done += shard.remake(span, force=force, since_build=since_build, progress=self._part(number, progress))
        return done

    def check(
        self, span: Span, *, repair: bool = False, force: bool = False, progress: Progress = lambda _share: None
    ) -> Checked:
        found = Checked()
        for number, shard in enumerate(self.shards):
            found += shard.check(span, repair=repair, force=force, progress=self._part(number, progress))
        return found

    def _part(self, number: int, progress: Progress) -> Progress:
        return part_of(progress, number, len(self.shards))
