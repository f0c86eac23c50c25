"""The command line `metrics-pipeline`: one file per group of commands."""

import logging
import sys
from importlib.metadata import version

import typer
from rich.console import Console
from rich.logging import RichHandler

from metrics_pipeline.cli import (
    alerts,
    audit,
    canary,
    chaos,
    dashboard,
    dead_letters,
    demo,
    drain,
    exporter,
    latency,
    local,
    produce,
    replay,
    retention,
    rollups,
    schema,
    skip_to_head,
    status,
    top,
)
from metrics_pipeline.errors import ConfigurationError, PipelineError, RetryableError, StuckClientError

EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2
EXIT_TRY_AGAIN = 75
"""sysexits' EX_TEMPFAIL: the same command may succeed later."""

app = typer.Typer(
    name="metrics-pipeline",
    help="Application events from Kafka into ClickHouse, exactly once. Settings: METRICS_* in the environment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_OPERATING = (local, demo, status, dashboard, produce, drain, skip_to_head, replay, retention)
_ASKING = (audit, latency, top, canary, exporter, chaos)
for module in (*_OPERATING, *_ASKING):
    app.registered_commands.extend(module.app.registered_commands)
app.add_typer(schema.app, name="schema")
app.add_typer(rollups.app, name="rollups")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(alerts.app, name="alerts")


def _say_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(version("metrics-pipeline"))
        raise typer.Exit


@app.callback()
def _configure(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Say more on stderr."),
    _version: bool = typer.Option(False, "--version", callback=_say_version, is_eager=True, help="Print the version."),
) -> None:
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S")],
    )
    logging.getLogger("metrics_pipeline").setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.getLogger("clickhouse_connect").setLevel(logging.DEBUG if verbose else logging.ERROR)


def main() -> None:
    """Entry point: runs a command; an error of ours is one message and an exit code, no traceback."""
    try:
        app()
    except PipelineError as error:
        sys.stderr.write(f"metrics-pipeline: {error}\n")
        sys.exit(_exit_code(error))


def _exit_code(error: PipelineError) -> int:
    if isinstance(error, ConfigurationError):
        return EXIT_WRONG_SETTINGS
    return EXIT_TRY_AGAIN if isinstance(error, (RetryableError, StuckClientError)) else EXIT_FAILED
