"""`alerts status | test`."""

from collections.abc import Iterator
from datetime import UTC, datetime

import typer

from metrics_pipeline.alerting.notifications import AlertState
from metrics_pipeline.alerting.run import Standing, standing, try_out
from metrics_pipeline.cli.output import BAD, GOOD, LATER, answer, json_option
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import Settings, destination_urls, load_settings

app = typer.Typer(help="What is wrong with the pipeline, and whether notifications arrive.")


@app.command(epilog="Example: metrics-pipeline alerts status --json")
def status(as_json: bool = json_option("everything as one JSON object")) -> None:
    """What is wrong right now; notifies nobody. Failed runs and checks are as the sensor saw them last.

    Exit 0 whatever is wrong: the JSON field `ok` says whether anything is.
    """
    settings = load_settings()
    found = standing(settings)
    fields = {
        "ok": not found.states,
        "alerts": [_alert(settings, state) for state in found.states],
        "engines": {engine.name: engine.problem for engine in found.engines},
        "destinations": len(destination_urls(settings.alerts)),
    }
    answer(as_json, fields, _told(settings, found))


@app.command("test", epilog="Example: metrics-pipeline alerts test")
def send_test(as_json: bool = json_option("the results as one JSON object")) -> None:
    """Send a test message to every destination, and say where it arrived; exit 1 if it didn't everywhere."""
    settings = load_settings()
    if not destination_urls(settings.alerts):
        raise ConfigurationError(
            "no destination is set: METRICS_ALERTS__DESTINATIONS='slack://… mailtos://…', apprise URLs apart by blanks"
        )
    deliveries = try_out(settings)
    fields = {"destinations": [picked(d, "destination", "problem") for d in deliveries]}
    lines = [f"{BAD} {d.destination}: {d.problem}" if d.problem else f"{GOOD} {d.destination}" for d in deliveries]
    answer(as_json, fields, lines, is_ok=not any(d.problem for d in deliveries))


def _alert(settings: Settings, state: AlertState) -> dict[str, object]:
    alert = state.alert
    return {
        **picked(alert, "kind", "subject"),
        "severity": alert.severity.value,
        "phase": state.phase.value,
        "since": datetime.fromtimestamp(state.since, UTC).isoformat(timespec="seconds"),
        "summary": alert.summary,
        **picked(alert.about, "meaning", "command"),
        "runbook": f"{settings.alerts.runbook_url.rstrip('/')}/{alert.about.runbook}",
        "run_id": alert.run_id or None,
    }


def _told(settings: Settings, found: Standing) -> Iterator[str]:
    if not found.states:
        yield f"{GOOD} nothing is wrong"
    for fields in (_alert(settings, state) for state in found.states):
        yield f"{BAD} {fields['severity']}: {fields['summary']}"
        yield f"  {fields['phase']} since {fields['since']}"
        yield f"  {fields['meaning']}"
        yield f"  run: {fields['command']}; run book: {fields['runbook']}"
    if not destination_urls(settings.alerts):
        yield f"{LATER} no destination is set (METRICS_ALERTS__DESTINATIONS): nobody is notified"
