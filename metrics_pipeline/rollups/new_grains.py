"""Counting what rollup_builds lacks of a new grain: the events of its buckets from before its view counted them."""

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.rollups.grains import BUILT, UNIT
from metrics_pipeline.rollups.tables import BUILDS

_UNITS = f"grain = {UNIT.seconds}"


def count_buckets(client: Client) -> bool:
    """Add to each bucket the events that its units have and it lacks; nothing where the grain was counted all along.

    Until then a bucket counts too few events, so no build of it is right and readers take finer rows. A bucket into
    which an insert is on its way may still count too few, until the check of drift corrects it.
    """
    for grain in BUILT[1:]:
        start = f"minute - toIntervalSecond(toUnixTimestamp(minute) % {grain.seconds})"
        sql = f"""INSERT INTO {BUILDS.name} (grain, minute, events)
            SELECT {grain.seconds}, {start} AS bucket,
                sumIf(events, {_UNITS}) - sumIf(events, grain = {grain.seconds}) AS missing
            FROM {BUILDS.name} WHERE grain IN ({UNIT.seconds}, {grain.seconds})
            GROUP BY bucket HAVING missing > 0"""
        settings = {
            # Another apply at the same time counts once, too.
            "insert_deduplicate": 1,
            "insert_deduplication_token": f"buckets of {grain.name}",
            "max_partitions_per_insert_block": 1_000,
            "max_threads": 1,
        }
        run_command(client, f"counting the buckets of {grain.name}", sql, settings=settings)
    return True
