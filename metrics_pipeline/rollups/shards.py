"""Rollups operated: each shard has those of its own rows, so everything is done on one after the other. A single server
is one shard."""

from collections.abc import Iterator, Sequence
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
        parts = self._parts(progress)
        return sum((s.rebuild(span, grains, only_stale=only_stale, progress=part) for s, part in parts), Rebuilt())

    def remake(
        self, span: Span, *, force: bool = False, since_build: int = 0, progress: Progress = lambda _share: None
    ) -> Rebuilt:
        parts = self._parts(progress)
        made = (s.remake(span, force=force, since_build=since_build, progress=part) for s, part in parts)
        return sum(made, Rebuilt())

    def check(
        self, span: Span, *, repair: bool = False, force: bool = False, progress: Progress = lambda _share: None
    ) -> Checked:
        parts = self._parts(progress)
        return sum((s.check(span, repair=repair, force=force, progress=part) for s, part in parts), Checked())

    def _parts(self, progress: Progress) -> Iterator[tuple[Rollups, Progress]]:
        """Each shard, with what hears of its progress."""
        for number, shard in enumerate(self.shards):
            yield shard, part_of(progress, number, len(self.shards))
