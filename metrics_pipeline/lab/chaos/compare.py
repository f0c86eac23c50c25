"""What landed against what was sent: every event once, with its values, in raw_events and in the rollup."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
from clickhouse_connect.driver.client import Client

from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.query import query_frame
from metrics_pipeline.lab.chaos.load import Eaten, Sent
from metrics_pipeline.lab.loadgen.sent import SENT_SCHEMA
from metrics_pipeline.ledger.deferred import merged
from metrics_pipeline.rollups.tables import CURRENT_ROWS

LONGEST_LIST = 5
"""Examples that are named of each difference."""

_VALUES = [name for name in SENT_SCHEMA.names() if name != "copies"]
_LANDED_SQL = """SELECT toString(event_id) AS event_id, toUnixTimestamp64Milli(timestamp) AS timestamp,
    service, endpoint, tier, status, latency_ms FROM raw_events"""
_DEAD_LETTERS_SQL = "SELECT count() AS rows FROM dead_letters FINAL"
_MINUTES_SQL = f"""SELECT toInt64(toUnixTimestamp(minute)) AS minute, toInt64(requests) AS requests
    FROM (SELECT minute, sum(requests) AS requests FROM rollup_1m WHERE {CURRENT_ROWS} GROUP BY minute)"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`differences` has a sentence for each, and is empty if all is exact. Counts are of unique events."""

    sent: int
    eaten: int
    landed: int
    lost: int
    doubled: int
    strange: int
    rollup_drift: int
    malformed: int
    dead_letters: int
    differences: tuple[str, ...]


def expected_events(sent: Sequence[Sent], eaten: Eaten) -> pl.DataFrame:
    """Every unique event of which at least one message was not eaten; SENT_SCHEMA."""
    events = pl.concat([part.events for part in sent])
    copies = events.group_by("event_id").agg(pl.col("copies").sum())
    unique = events.drop("copies").unique("event_id").join(copies, on="event_id")
    gone = pl.DataFrame(list(eaten.events.items()), {"event_id": pl.String, "eaten": pl.UInt32}, orient="row")
    left = unique.join(gone, on="event_id", how="left").filter(pl.col("copies") > pl.col("eaten").fill_null(0))
    return left.select(SENT_SCHEMA.names())


def compare(client: Client, sent: Sequence[Sent], eaten: Eaten, verdict: Verdict) -> Comparison:
    """Read all that landed and hold it against all that was sent; raises what the server's errors mean."""
    wanted = expected_events(sent, eaten)
    landed = _rows(client, _LANDED_SQL).cast({"status": pl.UInt16})
    unique = landed.unique("event_id")
    missing = wanted.join(unique, on="event_id", how="anti")
    strange = unique.join(wanted, on="event_id", how="anti")
    doubled = landed.filter(pl.col("event_id").is_duplicated()).unique("event_id")
    changed = wanted.join(unique, on="event_id", how="semi").join(unique, on=_VALUES, how="anti")
    minutes = _drifting_minutes(wanted, _rows(client, _MINUTES_SQL))
    malformed = sum(part.malformed for part in sent) - eaten.malformed
    dead_letters = int(_rows(client, _DEAD_LETTERS_SQL)["rows"].item())
    wrong = {
        "lost: sent, not in raw_events": missing,
        "in raw_events, never sent (or aborted, or eaten)": strange,
        "more than once in raw_events": doubled,
        "in raw_events with other values than sent": changed,
    }
    differences = [
        *(f"{len(rows)} events {what}: {_examples(rows)}" for what, rows in wrong.items() if len(rows)),
        *_named_minutes(minutes),
        *([f"{malformed} malformed messages, {dead_letters} dead letters"] if malformed != dead_letters else []),
        *_audit_differences(verdict, eaten),
    ]
    unique_sent = pl.concat([part.events for part in sent])["event_id"].n_unique()
    return Comparison(
        sent=unique_sent,
        eaten=unique_sent - len(wanted),
        landed=len(unique),
        lost=len(missing),
        doubled=len(doubled),
        strange=len(strange) + len(changed),
        rollup_drift=int((minutes["wanted"] - minutes["requests"]).abs().sum()),
        malformed=malformed,
        dead_letters=dead_letters,
        differences=tuple(differences),
    )


def _rows(client: Client, sql: str) -> pl.DataFrame:
    settings = {"output_format_arrow_low_cardinality_as_dictionary": 0}
    return query_frame(client, "reading what landed", sql, settings=settings)


def _drifting_minutes(wanted: pl.DataFrame, rollup: pl.DataFrame) -> pl.DataFrame:
    """minute, wanted, requests: of minutes where these differ."""
    counted = wanted.group_by(minute=pl.col("timestamp") // 60_000 * 60).agg(wanted=pl.len().cast(pl.Int64))
    joined = counted.join(rollup, on="minute", how="full", coalesce=True).fill_null(0)
    return joined.filter(pl.col("wanted") != pl.col("requests")).select("minute", "wanted", "requests").sort("minute")


def _examples(rows: pl.DataFrame) -> str:
    return "; ".join(str(row) for row in rows.head(LONGEST_LIST).select(_VALUES).iter_rows())


def _named_minutes(minutes: pl.DataFrame) -> list[str]:
    examples = [
        f"{datetime.fromtimestamp(minute, UTC):%Y-%m-%d %H:%M}: {sent} sent, {counted} counted"
        for minute, sent, counted in minutes.head(LONGEST_LIST).iter_rows()
    ]
    return [f"{len(minutes)} minutes differ in rollup_1m: {'; '.join(examples)}"] if examples else []


def _audit_differences(verdict: Verdict, eaten: Eaten) -> list[str]:
    """What the audit says, except that exactly what was eaten is lost."""
    others = [p for p in verdict.problems if not p.startswith("lost to retention")]
    said = [f"audit: {p}" for p in others[:LONGEST_LIST]]
    if len(others) > LONGEST_LIST:
        said.append(f"audit: {len(others) - LONGEST_LIST} further problems")
    audited, known = list(merged(verdict.books.ledger.lost)), list(merged(eaten.ranges))
    if audited != known:
        said.append(f"the audit lists as lost: {audited}; eaten were: {known}")
    return said
