"""`schema plan | apply | check | roles`."""

from importlib.metadata import version

import typer

from metrics_pipeline.cli.output import json_option, print_json
from metrics_pipeline.clickhouse.client import database_name
from metrics_pipeline.clickhouse.cluster import shard_database, storage_of
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.ddl.change import Plan
from metrics_pipeline.ddl.wording import plan_lines
from metrics_pipeline.kafka.admin import ensure_topic
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.schema import all as schema
from metrics_pipeline.schema.roles import statements
from metrics_pipeline.schema.targets import plan_everywhere
from metrics_pipeline.settings import kafka_address, load_settings
from metrics_pipeline.wiring.schema import apply_schema

app = typer.Typer(help="Compare the server's tables with the wanted ones, and bring them there.")

_UP_TO_DATE = "the schema is up to date"


@app.command(epilog="Example: metrics-pipeline schema plan --json > schema.json")
def plan(
    as_json: bool = json_option("one JSON object, as deploy/terraform reads it"),
    sql: bool = typer.Option(False, "--sql", help="Print whole statements, not only how they begin."),
) -> None:
    """Print what `apply` would change, how (metadata only, background mutation, rebuild), and what it costs."""
    settings = load_settings()
    wanted = plan_everywhere(settings)
    if as_json:
        print_json(_as_json(wanted, storage_of(settings)))
        return
    for line in plan_lines(wanted, whole_statements=sql):
        typer.echo(line)
    if wanted.is_empty:
        typer.echo(_UP_TO_DATE)


@app.command(epilog="Example: metrics-pipeline schema apply --topic")
def apply(
    expect: str = typer.Option("", help="Hash of the plan that was looked at: refuse if another one is needed by now."),
    topic: bool = typer.Option(False, "--topic", help="Also create the topic, where it is missing."),
    allow_destructive: bool = typer.Option(
        False, "--allow-destructive", help="Also do what destroys data: columns and tables that are not wanted go."
    ),
) -> None:
    """Expand, migrate and, with --allow-destructive, contract. Safe to repeat, interrupt, and run twice at once."""
    settings = load_settings()
    if topic:
        ensure_topic(kafka_address(settings), settings.kafka)
    done = apply_schema(
        settings, expect, allow_destructive=allow_destructive, progress=lambda words: typer.echo(words, err=True)
    )
    made = len(done.safe) + (len(done.destructive) if allow_destructive else 0)
    typer.echo(f"made {made} changes" if made else _UP_TO_DATE)
    if not allow_destructive:
        _tell_leftovers(done)
    _fail_on(done.differences)


@app.command(epilog="Example: metrics-pipeline schema check --strict")
def check(
    strict: bool = typer.Option(False, "--strict", help="Also fail on what only `apply --allow-destructive` removes."),
) -> None:
    """For CI: exit 1 if the server's schema is not the wanted one, 0 if it is."""
    wanted = plan_everywhere(load_settings())
    for change in wanted.safe:
        typer.echo(f"missing: {change.difference}")
    _tell_leftovers(wanted)
    _fail_on(wanted.differences)
    if wanted.safe or (strict and wanted.destructive):
        raise typer.Exit(1)
    typer.echo(_UP_TO_DATE)


@app.command("roles", epilog="Example: metrics-pipeline schema roles | clickhouse-client --multiquery")
def print_roles(
    prefix: str = typer.Option("metrics_pipeline_", help="What the names of the roles begin with."),
) -> None:
    """Print SQL for the roles schema, writer and reader: what each must be granted, and the limits of readers."""
    settings = load_settings()
    own = "" if settings.clickhouse.cluster is None else shard_database(settings)
    for statement in statements(database_name(settings), prefix, own):
        typer.echo(f"{statement};")


def _as_json(wanted: Plan, storage: Storage) -> dict[str, object]:
    return {
        "version": version("metrics-pipeline"),
        "wanted": schema.wanted_hash(storage),
        **picked(wanted, "hash", "statements", "differences"),
        "destructive": [statement for change in wanted.destructive for statement in change.statements],
        "changes": [
            {
                **picked(change, "object", "what", "phase", "way"),
                "destroys_data": change.destroys,
                "refused": change.refusal,
                **picked(change.size, "partitions", "rows", "bytes_on_disk"),
            }
            for change in wanted.changes
        ],
    }


def _tell_leftovers(wanted: Plan) -> None:
    for change in wanted.destructive:
        typer.echo(f"left for `apply --allow-destructive`: {change.difference}", err=True)


def _fail_on(differences: tuple[str, ...]) -> None:
    for difference in differences:
        typer.echo(f"differs: {difference}", err=True)
    if differences:
        raise typer.Exit(1)
