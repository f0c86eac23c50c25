"""Which runs of a Dagster instance are ours: those of this code location.

An instance may be shared with other teams, and with another code location of this package: their jobs, tags and
partitions may have the same names. Dagster labels each run that a code location launches with "repository@location".

Where there is no label - a job that a script executes in its own process - no run is ours: nothing says whose the other
runs without one are, and retention must not delete by guess.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

import dagster as dg

LABEL_TAG = ".dagster/repository"


@dataclass(frozen=True)
class OwnRuns:
    """The runs of one code location; whatever looks for runs goes through here."""

    instance: dg.DagsterInstance
    label: str | None

    @classmethod
    def of_sensor(cls, context: dg.SensorEvaluationContext) -> "OwnRuns":
        """Those of the code location that the sensor is in."""
        origin = context.code_location_origin
        return cls(context.instance, f"{context.repository_name}@{origin.location_name}" if origin else None)

    @classmethod
    def of_run(cls, instance: dg.DagsterInstance, run: dg.DagsterRun) -> "OwnRuns":
        """Those of the code location that launched the run."""
        return cls(instance, run.tags_for_storage().get(LABEL_TAG))

    def records(
        self,
        *,
        limit: int,
        job_name: str | None = None,
        statuses: Sequence[dg.DagsterRunStatus] = (),
        tags: Mapping[str, str] | None = None,
        updated_after: datetime | None = None,
        created_before: datetime | None = None,
        ascending: bool = False,
        cursor: str | None = None,
    ) -> Sequence[dg.RunRecord]:
        """As Dagster's `get_run_records`: the newest first, unless ascending."""
        if self.label is None:
            return ()
        wanted = dg.RunsFilter(
            job_name=job_name,
            statuses=statuses,
            tags={**(tags or {}), LABEL_TAG: self.label},
            updated_after=updated_after,
            created_before=created_before,
        )
        return self.instance.get_run_records(wanted, limit=limit, ascending=ascending, cursor=cursor)

    def among(self, run_ids: Collection[str]) -> set[str]:
        if self.label is None or not run_ids:
            return set()
        wanted = dg.RunsFilter(run_ids=list(run_ids), tags={LABEL_TAG: self.label})
        return {run.run_id for run in self.instance.get_runs(wanted)}


def failed_since_success(latest_first: Iterable[dg.RunRecord]) -> list[dg.RunRecord]:
    """The newest first; those under way say nothing."""
    ended = (record for record in latest_first if record.dagster_run.is_finished)
    return list(takewhile(lambda record: record.dagster_run.is_failure, ended))
