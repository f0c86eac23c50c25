"""`alerts status | test`."""

from datetime import UTC, datetime

import typer
from rich.console import Console

from metrics_pipeline.alerting.notifications import AlertState
from metrics_pipeline.alerting.run import Standing, standing, try_out
from metrics_pipeline.cli.output import print_json
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import Settings, destination_urls, load_settings

app = typer.Typer(help="What is wrong with the pipeline, and whether notifications arrive.")


@app.command(epilog="Example: metrics-pipeline alerts status --json")
def status(as_json: bool = typer.Option(False, "--json", help="Print everything as one JSON object.")) -> None:
    """What is wrong right now; notifies nobody. Failed runs and checks are as the sensor saw them last.

    Exit 0 whatever is wrong: the JSON field `ok` says whether anything is.
    """
    settings = load_settings()
    found = standing(settings)
    if as_json:
        print_json(_as_fields(settings, found))
    else:
        _print(settings, found)


@app.command("test", epilog="Example: metrics-pipeline alerts test")
def send_test(as_json: bool = typer.Option(False, "--json", help="Print the results as one JSON object.")) -> None:
    """Send a test message to every destination, and say where it arrived; exit 1 if it didn't everywhere."""
    settings = load_settings()
    if not destination_urls(settings.alerts):
        raise ConfigurationError(
            "no destination is set: METRICS_ALERTS__DESTINATIONS='slack://… mailtos://…', apprise URLs apart by blanks"
        )
    deliveries = try_out(settings)
    if as_json:
        print_json({"destinations": [{"destination": d.destination, "problem": d.problem} for d in deliveries]})
    else:
        for delivery in deliveries:
            said = f"[red]✗[/] {delivery.destination}: " if delivery.problem else f"[green]✓[/] {delivery.destination}"
            Console(highlight=False).print(said + (delivery.problem or ""), soft_wrap=True)
    if any(delivery.problem for delivery in deliveries):
        raise typer.Exit(1)


def _as_fields(settings: Settings, found: Standing) -> dict[str, object]:
    return {
        "ok": not found.states,
        "alerts": [_alert(settings, state) for state in found.states],
        "engines": {engine.name: engine.problem for engine in found.engines},
        "destinations": len(destination_urls(settings.alerts)),
    }


def _alert(settings: Settings, state: AlertState) -> dict[str, object]:
    alert = state.alert
    return {
        "kind": alert.kind,
        "subject": alert.subject,
        "severity": alert.severity.value,
        "phase": state.phase.value,
        "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="seconds"),
        "summary": alert.summary,
        "meaning": alert.about.meaning,
        "command": alert.about.command,
        "runbook": f"{settings.alerts.runbook_url.rstrip('/')}/{alert.about.runbook}",
        "run_id": alert.run_id or None,
    }


def _print(settings: Settings, found: Standing) -> None:
    console = Console(highlight=False)
    if not found.states:
        console.print("[green]✓[/] nothing is wrong")
    for state in found.states:
        fields = _alert(settings, state)
        console.print(f"[red]✗[/] {fields['severity']}: {state.alert.summary}", soft_wrap=True)
        console.print(f"  {fields['phase']} since {fields['since']}", soft_wrap=True)
        console.print(f"  {fields['meaning']}", soft_wrap=True)
        console.print(f"  run: {fields['command']}; run book: {fields['runbook']}", soft_wrap=True)
    if not destination_urls(settings.alerts):
        console.print("[yellow]…[/] no destination is set (METRICS_ALERTS__DESTINATIONS): nobody is notified")
