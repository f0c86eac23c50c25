"""`schema apply` put together: the statements, and the work that other rooms know how to do."""

import re
from functools import partial

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows, run_command
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.ddl.change import Plan, Work
from metrics_pipeline.ddl.migrating import Progress
from metrics_pipeline.ddl.objects import NOT_FILLED, quoted
from metrics_pipeline.delivery.tables import RAW_EVENTS
from metrics_pipeline.rollups.grains import UNIT
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.timerange import DAY_SECONDS
from metrics_pipeline.schema.targets import apply_everywhere
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.rollups import rollups_of_shard

_SINCE = re.compile(r" Remade since (\d+)\.$")


def apply_schema(
    settings: Settings,
    expected_hash: str = "",
    *,
    allow_destructive: bool = False,
    progress: Progress = lambda _words: None,
) -> Plan:
    """Bring all servers to the wanted schema; returns what was planned."""
    return apply_everywhere(
        settings,
        lambda shard: {Work.REMAKE_ROLLUPS: partial(_remake, settings, shard)},
        expected_hash,
        allow_destructive=allow_destructive,
        progress=progress,
    )


def _remake(settings: Settings, client: Client, progress: Progress) -> bool:
    """Remake all units that raw_events still has events of, except those that an earlier call has remade.

    Units of the last minutes can't be remade yet, and their rows may lack the new column: until their unit is closed
    it isn't over.
    """
    since_ns = _begun_ns(client)
    days, cutoff = _days(client), read_retained_from(client).compared_from
    in_flux = 0
    operated = rollups_of_shard(settings, client)
    closed_until = operated.closed_until()
    for number, day in enumerate(days, 1):
        span = Span(day, day + DAY_SECONDS).since(cutoff).until(closed_until)
        if span.start_seconds < span.end_seconds:
            progress(f"  day {number} of {len(days)}")
            in_flux += operated.remake(span, since_build=since_ns).units_in_flux
            operated.rebuild(span)
    left_seconds = UNIT.ceil(since_ns // 1_000_000_000) - closed_until
    if left_seconds > 0:
        progress(
            f"  rows of the last minutes may lack the column until {left_seconds} s from now: run `metrics-pipeline "
            f"schema apply` again then"
        )
    elif in_flux:
        progress(f"  {in_flux} units got events meanwhile: run `metrics-pipeline schema apply` again")
    return left_seconds <= 0 and not in_flux


def _begun_ns(client: Client) -> int:
    """When it was begun, noted where the next apply finds it: builds since then have the new column."""
    sql = """SELECT name, comment FROM system.tables
        WHERE database = currentDatabase() AND position(comment, {note:String}) > 0"""
    rows = query_rows(client, "looking for rollups to remake", sql, {"note": NOT_FILLED.strip()})
    noted = [_SINCE.search(comment) for _, comment in rows]
    if rows and all(noted):
        return max(int(found[1]) for found in noted if found)
    now_ns = server_clock(client, SystemClock()).now_ns()
    for table, comment in rows:
        note = f"{_SINCE.sub('', comment)} Remade since {now_ns}."
        run_command(client, f"noting that {table} is remade", f"ALTER TABLE {table} MODIFY COMMENT '{quoted(note)}'")
    return now_ns


def _days(client: Client) -> list[int]:
    """Midnights of the days that raw events are of, newest first: people ask for these first."""
    sql = f"""SELECT DISTINCT toUnixTimestamp(toDateTime(parseDateTime(partition_id, '%Y%m%d', 'UTC'), 'UTC'))
        FROM system.parts WHERE active AND database = currentDatabase() AND table = '{RAW_EVENTS.name}'
        ORDER BY 1 DESC"""
    return [int(row[0]) for row in query_rows(client, "looking for days", sql)]
