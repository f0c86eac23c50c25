"""Keeps the figures in the views of rollups up to date: before which moments retention left longer buckets only."""

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.rollups.views import rollup_views

_ROUNDS = 10


def refresh_views(client: Client) -> None:
    """Replace the views by ones that go by what retained_from says, whoever else does so at the same time.

    Raises RetryableError if other runs change retained_from all the time.
    """
    for _ in range(_ROUNDS):
        cutoffs = read_retained_from(client).cutoffs
        for view in rollup_views(cutoffs):
            run_command(client, f"replacing the view {view.name}", view.replacement)
        if read_retained_from(client).cutoffs == cutoffs:
            return
    raise RetryableError("other runs of retention change retained_from all the time: run it again")
