"""The server for retention: what partitions there are, dropping, selective delete and moving them."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.tables import ALERT_LOG, CANARIES
from metrics_pipeline.clickhouse.query import query_rows, run_command
from metrics_pipeline.ddl.live import time_to_live_days
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.ledger.tables import BATCHES
from metrics_pipeline.retention.plan import Partition, SelectiveDelete
from metrics_pipeline.retention.policy import RawPolicy
from metrics_pipeline.rollups.cubes import CUBES, SERVICES
from metrics_pipeline.rollups.grains import GRAINS, UNIT
from metrics_pipeline.rollups.tables import BUILDS, ROLLUP_TABLES
from metrics_pipeline.rollups.views import source_of
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import DAY_SECONDS

MAX_PARTITIONS = 100_000
GRAIN_OF = {cube.table(grain): grain for cube in CUBES for grain in GRAINS}
TTL_COLUMNS: Mapping[str, str] = {RAW_EVENTS.name: "timestamp", DEAD_LETTERS.name: "kafka_timestamp"}
"""Tables that get a TTL, by the column that it goes by. Rollups get none, as a TTL doesn't know whether longer buckets
are built, nor does the ledger, of which the last row of a quiet partition must stay."""
_NAMES = tuple(table.name for table in (RAW_EVENTS, DEAD_LETTERS, BATCHES, CANARIES, *ROLLUP_TABLES))
NO_TIME = "197001"
"""The partition of ledger rows without messages: of lost offsets alone."""


class TableState(NamedTuple):
    """`time_to_live_days`: None without a TTL, or with one that does other things as well (`has_other_ttl`)."""

    time_to_live_days: float | None
    has_other_ttl: bool


class RetentionStore:
    """One database. Every statement may be repeated."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def partitions(self, cold_volume: str = "") -> list[Partition]:
        """Of all tables that retention knows, with what they hold now. Raises ConfigurationError for a strange one."""
        sql = """SELECT table, partition_id, sum(rows), sum(bytes_on_disk), groupUniqArray(disk_name) FROM system.parts
            WHERE active AND database = currentDatabase() AND table IN {tables:Array(String)}
            GROUP BY table, partition_id LIMIT {limit:UInt32}"""
        cold = self.disks(cold_volume) if cold_volume else {}
        rows = self._rows("reading partitions", sql, {"tables": list(_NAMES), "limit": MAX_PARTITIONS})
        return [
            Partition(
                str(table),
                str(id_),
                *_span(str(table), str(id_)),
                int(count),
                int(size),
                GRAIN_OF[table].name if table in GRAIN_OF else "",
                is_cold=bool(cold) and set(disks) <= set(cold.get(table, ())),
            )
            for table, id_, count, size, disks in rows
            if not (table == BATCHES.name and id_ == NO_TIME)
        ]

    def counted_events(self, start_seconds: int, end_seconds: int) -> dict[int, int]:
        """Start of each day -> the events that raw_events was given for it, by rollup_builds."""
        sql = f"""SELECT toUnixTimestamp(toStartOfDay(minute)) AS day, sum(events) FROM {BUILDS.name}
            WHERE grain = {UNIT.seconds} AND minute >= {{start:DateTime('UTC')}} AND minute < {{end:DateTime('UTC')}}
            GROUP BY day"""
        rows = self._rows("reading rollup_builds", sql, {"start": start_seconds, "end": end_seconds})
        return {int(day): int(events) for day, events in rows}

    def distinct_events(self, id_: str) -> int:
        """Events of a partition of raw_events, each counted once: reads all of it."""
        sql = f"SELECT count() FROM {RAW_EVENTS.name} FINAL WHERE _partition_id = {{id:String}}"
        return int(self._rows("counting raw events", sql, {"id": id_})[0][0])

    def drop(self, table: str, id_: str) -> None:
        self._do(f"dropping partition {id_} of {table}", f"ALTER TABLE {table} DROP PARTITION ID {{id:String}}", id=id_)

    def ended_rows(self, selective_delete: SelectiveDelete) -> int:
        sql = f"SELECT count() FROM {RAW_EVENTS.name} WHERE _partition_id = {{id:String}} AND {_ENDED}"
        parameters = _delete_parameters(selective_delete)
        return int(self._rows("counting events that have reached their time", sql, parameters)[0][0])

    def delete_selectively(self, selective_delete: SelectiveDelete) -> None:
        """Begin to delete; the server goes on by itself, and after a restart."""
        sql = f"ALTER TABLE {RAW_EVENTS.name} DELETE IN PARTITION ID {{id:String}} WHERE {_ENDED}"
        doing = f"deleting from partition {selective_delete.partition.id} of {RAW_EVENTS.name}"
        run_command(self._client, doing, sql, _delete_parameters(selective_delete), {"mutations_sync": 0})

    def mutations(self) -> tuple[int, str]:
        """Deletes of raw events that are under way, and why one of them fails, if it does."""
        sql = """SELECT count(), max(latest_fail_reason) FROM system.mutations
            WHERE database = currentDatabase() AND table = {table:String} AND NOT is_done
                AND match(command, '^\\\\(?DELETE')"""
        count, reason = self._rows("looking at deletes", sql, {"table": RAW_EVENTS.name})[0]
        return int(count), str(reason)

    def move(self, partition: Partition, volume: str) -> None:
        """`volume` is a name that the policy checked: the server takes no parameter there."""
        sql = f"ALTER TABLE {partition.table} MOVE PARTITION ID {{id:String}} TO VOLUME '{volume}'"
        self._do(f"moving partition {partition.id} of {partition.table} to {volume}", sql, id=partition.id)

    def disks(self, volume: str) -> Mapping[str, tuple[str, ...]]:
        """Table -> the disks of that volume. Raises ConfigurationError where a table's storage policy has none."""
        sql = """SELECT t.name, t.storage_policy, arrayFlatten(groupArrayIf(p.disks, p.volume_name = {volume:String}))
            FROM system.tables AS t INNER JOIN system.storage_policies AS p ON p.policy_name = t.storage_policy
            WHERE t.database = currentDatabase() AND t.name IN {tables:Array(String)} GROUP BY 1, 2"""
        names = [RAW_EVENTS.name, *GRAIN_OF]
        rows = self._rows("reading storage policies", sql, {"volume": volume, "tables": names})
        for table, storage_policy, disks in rows:
            if not disks:
                raise ConfigurationError(
                    f"cold.volume: the storage policy {storage_policy} of {table} has no volume {volume}: name one "
                    "that it has (system.storage_policies lists them), or add it to the server's configuration"
                )
        return {str(table): tuple(map(str, disks)) for table, _, disks in rows}

    def table_states(self) -> Mapping[str, TableState]:
        sql = """SELECT name, engine_full FROM system.tables
            WHERE database = currentDatabase() AND name IN {tables:Array(String)}"""
        rows = self._rows("reading tables", sql, {"tables": list(TTL_COLUMNS)})
        return {
            str(name): TableState(time_to_live_days(engine), " TTL " in engine and time_to_live_days(engine) is None)
            for name, engine in rows
        }

    def set_time_to_live(self, table: str, days: int) -> None:
        """Whole parts go, nothing is rewritten, neither now nor later."""
        self._do(f"setting up {table}", f"ALTER TABLE {table} MODIFY SETTING ttl_only_drop_parts = 1")
        sql = f"ALTER TABLE {table} MODIFY TTL toDateTime({TTL_COLUMNS[table]}) + INTERVAL {int(days)} DAY"
        run_command(self._client, f"setting the TTL of {table}", sql, settings={"materialize_ttl_after_modify": 0})

    def never_replayed(self, id_: str) -> int:
        """Dead letters of a partition that no replay looked at."""
        sql = f"SELECT countIf(outcome = '') FROM {DEAD_LETTERS.name} FINAL WHERE _partition_id = {{id:String}}"
        return int(self._rows("counting dead letters", sql, {"id": id_})[0][0])

    def forget_alerts(self, before_seconds: int) -> int:
        """Delete states of alerts that were forgotten before that and have not come back; returns how many."""
        where = "phase = 'gone' AND updated_at < toDateTime64({before:UInt32}, 3, 'UTC')"
        sql = f"SELECT count() FROM {ALERT_LOG.name} FINAL WHERE {where}"
        count = int(self._rows("counting old alerts", sql, {"before": before_seconds})[0][0])
        if count:
            # Of a key, older versions are older, too: deleting the newest leaves none behind.
            keys = f"SELECT key FROM {ALERT_LOG.name} FINAL WHERE {where}"
            sql = f"DELETE FROM {ALERT_LOG.name} WHERE key IN ({keys})"
            self._do("deleting old alerts", sql, before=before_seconds)
        return count

    def raw_days(self, policy: RawPolicy, end_seconds: int, days: int) -> float | None:
        """How long an event is kept on average, weighed by the requests of the last days; None without any."""
        sql = f"""SELECT sum(requests * {_KEPT_DAYS}), sum(requests) AS n FROM {source_of(SERVICES)} HAVING n > 0"""
        span = {"start": end_seconds - days * DAY_SECONDS, "end": end_seconds, "step": GRAINS[-1].seconds}
        rows = self._rows("weighing overrides", sql, _overrides(policy) | span)
        return float(rows[0][0]) / float(rows[0][1]) if rows else None

    def _rows(self, doing: str, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return query_rows(self._client, doing, sql, parameters)

    def _do(self, doing: str, sql: str, **parameters: Any) -> None:
        run_command(self._client, doing, sql, parameters)


_ENDED = """service NOT IN {kept_services:Array(String)} AND tier NOT IN {kept_tiers:Array(String)}
    AND ({is_default_over:UInt8} OR service IN {ended_services:Array(String)} OR tier IN {ended_tiers:Array(String)})"""
_KEPT_DAYS = """if((greatest(
        transform(service, {services:Array(String)}, {service_days:Array(UInt32)}, toUInt32(0)),
        transform(tier, {tiers:Array(String)}, {tier_days:Array(UInt32)}, toUInt32(0))) AS longest) > 0,
    longest, {days:UInt32})"""


def _delete_parameters(selective_delete: SelectiveDelete) -> dict[str, Any]:
    lists = picked(selective_delete, "kept_services", "kept_tiers", "ended_services", "ended_tiers")
    return {
        "id": selective_delete.partition.id,
        **{name: list(names) for name, names in lists.items()},
        "is_default_over": int(selective_delete.is_default_over),
    }


def _overrides(policy: RawPolicy) -> dict[str, Any]:
    # The server wants at least one name; no service and no tier has this one.
    services, tiers = policy.services or {"\0": 0}, policy.tiers or {"\0": 0}
    return {
        "days": policy.days,
        "services": list(services),
        "service_days": list(services.values()),
        "tiers": list(tiers),
        "tier_days": list(tiers.values()),
    }


def _span(table: str, id_: str) -> tuple[int, int]:
    """[start, end) of the times that a partition may hold, epoch seconds."""
    if table in GRAIN_OF and id_.isdigit():
        return int(id_), int(id_) + GRAIN_OF[table].partition_days * DAY_SECONDS
    if re.fullmatch(r"\d{8}", id_):
        start = datetime.strptime(id_ + "Z", "%Y%m%d%z")
        return _seconds(start), _seconds(start + timedelta(days=1))
    if re.fullmatch(r"\d{6}", id_):
        start = datetime.strptime(id_ + "01Z", "%Y%m%d%z")
        return _seconds(start), _seconds((start + timedelta(days=32)).replace(day=1))
    raise ConfigurationError(
        f"partition {id_} of {table}: the table is partitioned otherwise than this version does; run `metrics-pipeline "
        "schema plan` and look at SHOW CREATE TABLE"
    )


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
