"""Panels for pages that know their span only when a query runs: the server computes what Python does elsewhere."""

import re
from collections.abc import Mapping

from metrics_pipeline.dashboards.panel import Panel, render
from metrics_pipeline.dashboards.steps import Reach, bucket_sql
from metrics_pipeline.rollups.grains import COARSEST_SECONDS

_PREFIX = "p_"
"""Begins the names in front of the query. No column begins with it."""


def named_query(panel: Panel, *, time: str, start: str, end: str, variables: Mapping[str, str]) -> str:
    """The panel's query behind a WITH that names all it needs.

    `time` is the first column of a series, made of t in epoch seconds; `start` and `end` are the span in epoch
    seconds, and `variables` say what each variable is, all as SQL.
    """
    limit = panel.span_seconds
    begin = f"{_PREFIX}begin"
    last = f"{_PREFIX}finish" if panel.reach is Reach.ROWS else f"intDiv({_PREFIX}finish + 59, 60) * 60"
    names = {
        "finish": end,
        "begin": f"greatest({start}, {_PREFIX}finish - {limit})" if limit else start,
        "span": f"{_PREFIX}finish - {begin}",
        "bucket": bucket_sql(panel.reach, f"{_PREFIX}span"),
        "step": str(COARSEST_SECONDS) if panel.reach is Reach.WHOLE else f"{_PREFIX}bucket",
        "start": f"toDateTime({begin} - {begin} % {_PREFIX}bucket, 'UTC')",
        "end": f"toDateTime({last}, 'UTC')",
        **variables,
    }
    query = render(panel.query, {"t": time, **{name: f"{_PREFIX}{name}" for name in names}})
    wanted = _named_in(query, names)
    definitions = ",\n    ".join(f"{sql} AS {_PREFIX}{name}" for name, sql in names.items() if name in wanted)
    return f"WITH {definitions}\n{query}" if definitions else query


def _named_in(sql: str, names: Mapping[str, str]) -> set[str]:
    """Names in the query, and in what they mean."""
    found = {name for name in names if re.search(rf"\b{_PREFIX}{name}\b", sql)}
    return found.union(*(_named_in(names[name], names) for name in found))
