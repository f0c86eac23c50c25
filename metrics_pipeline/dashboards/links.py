"""Links to the pages that every ClickHouse server has, with our queries in them: nothing to install."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from lzstring import LZString


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart of /dashboard: the query's first column is time in epoch seconds, every other one a line."""

    title: str
    query: str


def dashboard_url(clickhouse_url: str, charts: Sequence[Chart], parameters: Mapping[str, str]) -> str:
    """A link that opens the server's own dashboard with these charts; each parameter is a box for its value.

    The page asks for a password itself; the link holds none.
    """
    parts = urlsplit(clickhouse_url)
    host = _host(clickhouse_url)
    database = _database(clickhouse_url)
    # The page appends "?" and its own arguments: here they become the value of a parameter that no query has.
    inner = {"database": database, "default_format": "JSONColumnsWithMetadata", "param_page": ""}
    state = {
        "host": host if database == "default" else f"{host}/?{urlencode(inner)}",
        "user": parts.username or "default",
        "queries": [{"title": chart.title, "query": chart.query} for chart in charts],
        "params": dict(parameters),
        "search_query": "",
        "customized": True,
    }
    return f"{host}/dashboard#{LZString().compressToEncodedURIComponent(json.dumps(state))}"


def play_url(clickhouse_url: str, query: str = "", parameters: Mapping[str, str] | None = None) -> str:
    """The server's own page for queries, with one filled in; the link holds no password."""
    page = f"{_host(clickhouse_url)}/play"
    if not query:
        return page
    arguments = {"database": _database(clickhouse_url), **{f"param_{k}": v for k, v in (parameters or {}).items()}}
    return f"{page}?{urlencode(arguments, quote_via=quote)}#{b64encode(query.encode()).decode()}"


def _host(clickhouse_url: str) -> str:
    parts = urlsplit(clickhouse_url)
    host = parts.hostname or ""
    port = parts.port or (8443 if parts.scheme == "https" else 8123)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _database(clickhouse_url: str) -> str:
    return urlsplit(clickhouse_url).path.strip("/") or "default"
