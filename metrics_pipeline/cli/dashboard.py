"""`dashboard`: links to our panels in the pages of the ClickHouse server."""

from datetime import UTC, datetime, timedelta

import typer
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.dashboard import Chart, dashboard_url, play_url
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.dashboards.builtin import (
    DEFAULT_SECONDS,
    LIVE,
    builtin_query,
    charts,
    default_variables,
    parameters,
    tables,
)
from metrics_pipeline.dashboards.options import OPTIONS
from metrics_pipeline.dashboards.panel import Dashboard, panel_query
from metrics_pipeline.dashboards.panels import DASHBOARDS
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import clickhouse_url, load_settings

app = typer.Typer()

_ALL = (LIVE, *DASHBOARDS)


@app.command(epilog="Example: metrics-pipeline dashboard service-overview --service checkout --seconds 3600 --open")
def dashboard(
    name: str = typer.Argument("", help=f"One of {', '.join(d.name for d in _ALL)}; all without it."),
    service: str = typer.Option("", help="Service of the panels about one; without it the one with most requests."),
    endpoint: str = typer.Option("", help="Endpoint of the panels about one; without it the one with most requests."),
    seconds: int = typer.Option(DEFAULT_SECONDS, min=60, max=400 * 86_400, help="How far the panels look back."),
    with_tables: bool = typer.Option(False, "--tables", help="Also print links to the panels that are tables."),
    open_it: bool = typer.Option(False, "--open", help="Open it in the browser: the first, where no name is given."),
) -> None:
    """Print links that open our panels in the pages of the ClickHouse server: nothing to install."""
    wanted = tuple(d for d in _ALL if name in ("", d.name))
    if not wanted:
        raise ConfigurationError(f"no dashboard is named {name!r}; there are {', '.join(d.name for d in _ALL)}")
    settings = load_settings()
    url = clickhouse_url(settings)
    with connect(settings) as client:
        service = service or _busiest(client, "service", seconds)
        endpoint = endpoint or _busiest(client, "endpoint", seconds, service=service)
    for one in wanted:
        typer.echo(f"{one.title}: {link(url, one, seconds=seconds, service=service, endpoint=endpoint)}")
        for panel in tables(one) if with_tables else ():
            values = parameters((panel,), seconds, default_variables(one, service, endpoint))
            typer.echo(f"{one.title}, {panel.title}: {play_url(url, builtin_query(panel), values)}")
    if open_it:
        typer.launch(link(url, wanted[0], seconds=seconds, service=service, endpoint=endpoint))


def link(url: str, shown: Dashboard, *, seconds: int = DEFAULT_SECONDS, service: str = "", endpoint: str = "") -> str:
    """A link to the dashboard, over the last `seconds`."""
    panels = charts(shown)
    values = parameters(panels, seconds, default_variables(shown, service, endpoint))
    return dashboard_url(url, [Chart(p.title, builtin_query(p)) for p in panels], values)


def _busiest(client: Client, variable: str, seconds: int, **variables: str) -> str:
    """The value with the most requests; "" without any."""
    end = datetime.now(UTC)
    sql, values = panel_query(OPTIONS[variable], end - timedelta(seconds=seconds), end, **variables)
    rows = calling(f"looking for the busiest {variable}", lambda: client.query(sql, parameters=values).result_rows)
    return str(rows[0][0]) if rows else ""
