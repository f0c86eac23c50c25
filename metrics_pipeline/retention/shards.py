"""Retention of all shards: each drops its own rows by the one policy, and notes how far back it is whole itself. A
single server is one shard.

Views of rollups go by their own shard's retained_from, and audits compare from where all shards are whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metrics_pipeline.retention.report import Report, joined
from metrics_pipeline.retention.run import Retention
from metrics_pipeline.rollups.operate import Progress, part_of


@dataclass(frozen=True, slots=True)
class RetentionOfShards:
    """Does what `Retention` does, on one shard after the other."""

    shards: Sequence[Retention]

    def run(self, *, dry_run: bool = False, progress: Progress = lambda _share: None) -> Report:
        """Raises what `Retention.run` raises; shards before have done their part then."""
        of = len(self.shards)
        return joined([s.run(dry_run=dry_run, progress=part_of(progress, n, of)) for n, s in enumerate(self.shards)])
