"""`dashboard`: links to our panels in the pages of the ClickHouse server."""

from collections.abc import Set
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import typer

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dashboards.builtin import (
    DEFAULT_SECONDS,
    LIVE,
    builtin_query,
    charts,
    needed_names,
    parameters,
    tables,
)
from metrics_pipeline.dashboards.links import Chart, dashboard_url, play_url
from metrics_pipeline.dashboards.panel import Dashboard
from metrics_pipeline.dashboards.panels import DASHBOARDS
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.questions.names import busiest
from metrics_pipeline.questions.question import Names, Question
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.runtime.timerange import DAY_SECONDS, TimeRange
from metrics_pipeline.settings import Settings, clickhouse_url, load_settings

app = typer.Typer()

_ALL = (LIVE, *DASHBOARDS)


@app.command(epilog="Example: metrics-pipeline dashboard service-overview --service checkout --seconds 3600 --open")
def dashboard(
    name: str = typer.Argument("", help=f"One of {', '.join(d.name for d in _ALL)}; all without it."),
    service: str = typer.Option("", help="Service of the panels about one; without it the one with most requests."),
    endpoint: str = typer.Option("", help="Endpoint of the panels about one; without it the one with most requests."),
    seconds: int = typer.Option(DEFAULT_SECONDS, min=60, max=400 * DAY_SECONDS, help="How far the panels look back."),
    with_tables: bool = typer.Option(False, "--tables", help="Also print links to the panels that are tables."),
    open_it: bool = typer.Option(False, "--open", help="Open it in the browser: the first, where no name is given."),
) -> None:
    """Print links that open our panels in the pages of the ClickHouse server: nothing to install."""
    wanted = tuple(d for d in _ALL if name in ("", d.name))
    if not wanted:
        raise ConfigurationError(f"no dashboard is named {name!r}; there are {', '.join(d.name for d in _ALL)}")
    settings = load_settings()
    url = clickhouse_url(settings)
    names = _with_busiest(settings, Names(service, endpoint), {n for one in wanted for n in needed_names(one)}, seconds)
    for one in wanted:
        typer.echo(f"{one.title}: {link(url, one, names, seconds=seconds)}")
        for panel in tables(one) if with_tables else ():
            values = parameters((panel,), seconds, picked(names, *needed_names(one)))
            typer.echo(f"{one.title}, {panel.title}: {play_url(url, builtin_query(panel), values)}")
    if open_it:
        typer.launch(link(url, wanted[0], names, seconds=seconds))


def link(url: str, shown: Dashboard, names: Names = Names(), *, seconds: int = DEFAULT_SECONDS) -> str:
    panels = charts(shown)
    values = parameters(panels, seconds, picked(names, *needed_names(shown)))
    return dashboard_url(url, [Chart(p.title, builtin_query(p)) for p in panels], values)


def _with_busiest(settings: Settings, names: Names, needed: Set[str], seconds: int) -> Names:
    """The names, and for those that are needed and not given the ones with most requests in the last `seconds`."""
    missing = [name for name in ("service", "endpoint") if name in needed and not getattr(names, name)]
    if not missing:
        return names
    now = datetime.now(UTC)
    span = TimeRange(now - timedelta(seconds=seconds), now)
    with connect(settings) as client:
        for name in missing:
            found = busiest(client, name, Question(span, Names(service=names.service)))
            names = replace(names, **{name: found or ""})
    return names
