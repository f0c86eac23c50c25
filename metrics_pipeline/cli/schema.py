"""`schema plan | apply | check`."""

from importlib.metadata import version

import typer

from metrics_pipeline.cli.output import print_json
from metrics_pipeline.clickhouse import schema
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.kafka.admin import ensure_topic
from metrics_pipeline.settings import kafka_address, load_settings

app = typer.Typer(help="Compare the server's tables with the wanted ones, and create what is missing.")


@app.command(epilog="Example: metrics-pipeline schema plan --json > schema.json")
def plan(
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object, as deploy/terraform reads it."),
) -> None:
    """Print the statements that `apply` would run, and what differs."""
    settings = load_settings()
    window_blocks = settings.clickhouse.deduplication_window_blocks
    with connect(settings) as client:
        wanted = schema.plan(client, window_blocks)
    if as_json:
        print_json(
            {
                "version": version("metrics-pipeline"),
                "wanted": schema.wanted_hash(window_blocks),
                "hash": wanted.hash,
                "statements": wanted.statements,
                "differences": wanted.differences,
            }
        )
        return
    for statement in wanted.statements:
        typer.echo(statement + ";\n")
    for difference in wanted.differences:
        typer.echo(f"differs: {difference}")
    if wanted.is_empty:
        typer.echo("the schema is up to date")


@app.command(epilog="Example: metrics-pipeline schema apply --topic")
def apply(
    expect: str = typer.Option("", help="Hash of the plan that was looked at: refuse if another one is needed by now."),
    topic: bool = typer.Option(False, "--topic", help="Also create the topic, where it is missing."),
) -> None:
    """Create tables, views and columns that are missing. Safe to repeat."""
    settings = load_settings()
    if topic:
        ensure_topic(kafka_address(settings), settings.kafka)
    with connect(settings) as client:
        done = schema.apply(client, settings.clickhouse.deduplication_window_blocks, expect)
    typer.echo(f"added {len(done.statements)} tables, views or columns")
    _fail_on(done.differences)


@app.command(epilog="Example: metrics-pipeline schema check")
def check() -> None:
    """Exit 1 if the server's schema is not the wanted one."""
    settings = load_settings()
    with connect(settings) as client:
        wanted = schema.plan(client, settings.clickhouse.deduplication_window_blocks)
    for statement in wanted.statements:
        typer.echo(f"missing: {statement.splitlines()[0]}")
    _fail_on(wanted.differences)
    if wanted.statements:
        raise typer.Exit(1)
    typer.echo("the schema is up to date")


def _fail_on(differences: tuple[str, ...]) -> None:
    for difference in differences:
        typer.echo(f"differs: {difference}", err=True)
    if differences:
        raise typer.Exit(1)
