"""Our panels in the dashboard that every ClickHouse server has at /dashboard: a link, nothing to install."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from lzstring import LZString

from metrics_pipeline.clickhouse.rollups.cubes import LATENCY_MERGE_FUNCTION, LATENCY_QUANTILES

_RECENT_MINUTES = "minute >= now() - {seconds:UInt32}"
_RECENT_BATCHES = "visible_at >= now() - {seconds:UInt32}"
_BY_MINUTE = "toStartOfInterval(minute, toIntervalSecond(greatest({rounding:UInt32}, 60)))::INT AS t"
_BY_BATCH = "toStartOfInterval(visible_at, toIntervalSecond({rounding:UInt32}))::INT AS t"


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: the query's first column is time, every other one a line."""

    title: str
    query: str


def _latency_query(condition: str) -> str:
    p50, p95, p99 = (LATENCY_QUANTILES.index(q) + 1 for q in (0.5, 0.95, 0.99))
    return (
        f"SELECT {_BY_MINUTE}, quantiles[{p50}] AS p50, quantiles[{p95}] AS p95, quantiles[{p99}] AS p99 FROM ("
        f"SELECT minute, {LATENCY_MERGE_FUNCTION}(latency_ms) AS quantiles FROM rollup_1m "
        f"WHERE {_RECENT_MINUTES}{condition} GROUP BY minute) ORDER BY t"
    )


PANELS = (
    Panel(
        "Events landed per second",
        f"SELECT {_BY_BATCH}, sum(consumed) / {{rounding:UInt32}} AS events FROM batches "
        f"WHERE {_RECENT_BATCHES} GROUP BY t ORDER BY t WITH FILL STEP {{rounding:UInt32}}",
    ),
    Panel(
        "Freshness, seconds from produced to visible",
        f"SELECT {_BY_BATCH}, quantileExactWeighted(0.5)(age, n) / 1000 AS p50, "
        "quantileExactWeighted(0.99)(age, n) / 1000 AS p99 FROM batches ARRAY JOIN freshness_ms AS age, "
        f"freshness_events AS n WHERE {_RECENT_BATCHES} GROUP BY t ORDER BY t",
    ),
    Panel("Latency of all requests, ms", _latency_query("")),
    Panel("Latency of enterprise requests, ms", _latency_query(" AND tier = 'enterprise'")),
    Panel(
        "Requests per second by tier",
        f"SELECT {_BY_MINUTE}, sumIf(requests, tier = 'free') / 60 AS free, "
        "sumIf(requests, tier = 'pro') / 60 AS pro, sumIf(requests, tier = 'enterprise') / 60 AS enterprise "
        f"FROM rollup_1m WHERE {_RECENT_MINUTES} GROUP BY t ORDER BY t",
    ),
    Panel(
        "Errors, % of requests",
        f"SELECT {_BY_MINUTE}, 100 * sum(errors) / sum(requests) AS errors FROM rollup_1m "
        f"WHERE {_RECENT_MINUTES} GROUP BY t ORDER BY t",
    ),
    Panel(
        "Duplicates and dead letters per second",
        f"SELECT {_BY_BATCH}, sum(duplicates) / {{rounding:UInt32}} AS duplicates, "
        "sum(dead_letters) / {rounding:UInt32} AS dead_letters FROM batches "
        f"WHERE {_RECENT_BATCHES} GROUP BY t ORDER BY t",
    ),
    Panel(
        "A batch's way, ms",
        f"SELECT {_BY_BATCH}, avg(commit_duration_ms) AS commit, "
        "avg(look_up_duration_ms) AS look_up, avg(insert_duration_ms) AS insert FROM batches "
        f"WHERE {_RECENT_BATCHES} GROUP BY t ORDER BY t",
    ),
)


def dashboard_url(clickhouse_url: str, *, seconds: int = 900, rounding_seconds: int = 5) -> str:
    """A link that opens the server's own dashboard with PANELS, over the last `seconds`.

    The page asks for a password itself; the link holds none.
    """
    parts = urlsplit(clickhouse_url)
    database = parts.path.strip("/") or "default"
    host = f"{parts.scheme}://{parts.hostname}:{parts.port or 8123}"
    state = {
        "host": f"{host}/?database={database}" if database != "default" else host,
        "user": parts.username or "default",
        "queries": [{"title": p.title, "query": p.query} for p in PANELS],
        "params": {"seconds": str(seconds), "rounding": str(rounding_seconds)},
        "search_query": "",
        "customized": True,
    }
    return f"{host}/dashboard#{LZString().compressToEncodedURIComponent(json.dumps(state))}"


def play_url(clickhouse_url: str) -> str:
    """The server's own page for queries."""
    parts = urlsplit(clickhouse_url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 8123}/play"
