"""Retention of a cluster: each shard drops its own rows by the one policy, and notes how far back it is whole itself.

Views of rollups go by their own shard's retained_from, and audits compare from where all shards are whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from metrics_pipeline.retention.report import Report, joined
from metrics_pipeline.retention.run import Retention
from metrics_pipeline.rollups.operate import Progress


@dataclass(frozen=True, slots=True)
class RetentionOfShards:
    """Does what `Retention` does, on one shard after the other."""

    shards: Sequence[Retention]

    def run(self, *, dry_run: bool = False, progress: Progress = lambda _share: None) -> Report:
        """Raises what `Retention.run` raises; shards before have done their part then."""
        reports = []
        for number, shard in enumerate(self.shards):

            def of_shard(share: float, number: int = number) -> None:
                progress((number + share) / len(self.shards))

            reports.append(shard.run(dry_run=dry_run, progress=of_shard))
        return joined(reports)


AnyRetention = Retention | RetentionOfShards
"""Of one server, or of a cluster."""
