"""Where the ledger can be cut: what is left must still tell where each partition's reading stands, without a gap."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.insert import delete_rows
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.ledger.tables import BATCHES

_AT = "if(last_message = toDateTime64(0, 3, 'UTC'), started_at, last_message)"
_HASHES = "sumIf(sipHash64(s), {0}) - sumIf(sipHash64(e), {0}) = sipHash64(minIf(s, {0})) - sipHash64(maxIf(e, {0}))"
_STANDS = f"""
    SELECT topic, consumer_group, topic_id, p, toUnixTimestamp64Milli(max(at)) AS newest, countIf(is_after) AS n,
        maxIf(e, is_after) = max(e), NOT ({_HASHES.format("1")}) OR n = 0 OR {_HASHES.format("is_after")}
    FROM (SELECT *, {_AT} AS at, at >= toDateTime64({{cutoff:UInt32}}, 3, 'UTC') AS is_after FROM {BATCHES.name} FINAL)
    ARRAY JOIN partitions AS p, partition_start AS s, partition_end AS e
    GROUP BY topic, consumer_group, topic_id, p ORDER BY topic, consumer_group, topic_id, p
"""
"""Whether ranges that tile still do without those before the cut-off; see audit/books.py for the hashes."""


class _Stand(NamedTuple):
    topic: str
    group: str
    topic_id: str
    partition: int
    newest_ms: int
    rows_after: int
    has_end: bool
    tiles: bool


def objection(client: Client, cutoff_seconds: int) -> str | None:
    """Why the rows of messages before this may not be dropped; None if they may."""
    rows = query_rows(client, "looking at the ledger", _STANDS, {"cutoff": cutoff_seconds})
    for _, found in groupby((_Stand(*row) for row in rows), key=lambda s: (s.topic, s.group)):
        of_topic = list(found)
        latest = max(of_topic, key=lambda s: s.newest_ms).topic_id
        for topic_id, of_incarnation in groupby(of_topic, key=lambda s: s.topic_id):
            if problem := _problem(list(of_incarnation), is_latest=topic_id == latest):
                return problem
    return None


def forget_losses(client: Client, cutoff_seconds: int) -> None:
    """Delete the rows of lost offsets alone, which have no messages and so no month."""
    where = "last_message = toDateTime64(0, 3, 'UTC') AND started_at < toDateTime64({cutoff:UInt32}, 3, 'UTC')"
    delete_rows(client, BATCHES.name, where, {"cutoff": cutoff_seconds})


def _problem(incarnation: Sequence[_Stand], *, is_latest: bool) -> str | None:
    """An incarnation of a topic that is over may go as a whole."""
    if not is_latest and not any(stand.rows_after for stand in incarnation):
        return None
    for stand in incarnation:
        name = f"partition {stand.partition} of {stand.topic}"
        if not (stand.rows_after and stand.has_end):
            return f"{name} has its last row there, which tells where its reading stands"
        if not stand.tiles:
            return f"rows of {name} from before and after that month alternate, so dropping it would leave a gap"
    return None
