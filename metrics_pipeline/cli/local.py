"""`up` and `down`: engines and Dagster on this machine."""

import typer

from metrics_pipeline.cli.output import answer, json_option, pairs, tell
from metrics_pipeline.lab.local import stack

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline up --engines-only --json")
def up(
    engines_only: bool = typer.Option(False, "--engines-only", help="Kafka and ClickHouse, without Dagster."),
    as_json: bool = json_option("the addresses as one JSON object"),
) -> None:
    """Start a local Kafka, ClickHouse and Dagster, create topic and schema, and return when all answer.

    Engines that METRICS_KAFKA__BOOTSTRAP_SERVERS or METRICS_CLICKHOUSE__URL place elsewhere are not started.
    """
    addresses = stack.up(engines_only=engines_only, say=_say)
    answer(as_json, addresses, [pairs({name: address or "not started" for name, address in addresses.items()})])


@app.command(epilog="Example: metrics-pipeline down")
def down() -> None:
    """Stop what `up` started; running drains flush and commit first. Data stay for the next `up`."""
    stack.down(say=_say)


def _say(text: str) -> None:
    tell([f"[dim]{text} …[/]"], to_stderr=True)
