"""`latency`: p99 of this endpoint, for this tier, last Tuesday."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console

from metrics_pipeline.cli.output import print_json
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.latency import Answer, Question, ask
from metrics_pipeline.core.timerange import TimeRange, given_range, named_range
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import load_settings

app = typer.Typer()


@app.command(
    epilog="Example: metrics-pipeline latency --service checkout --endpoint /cart/:id/pay --tier enterprise "
    "--when 'last tuesday'"
)
def latency(
    service: str = typer.Option("", help="Service; all without it."),
    endpoint: str = typer.Option("", help="Endpoint; all without it."),
    tier: str = typer.Option("", help="Customer tier; all without it."),
    when: str | None = typer.Option(None, help="'yesterday', 'last tuesday', '2026-11-03', 'last 30 minutes' …"),
    start: str | None = typer.Option(None, "--from", help="Start, e.g. 2026-11-03T10:15 or '2 hours ago'."),
    end: str | None = typer.Option(None, "--to", help="End, not included; now without it."),
    timezone: str = typer.Option("UTC", help="Time zone of days and of times without one, e.g. Europe/Berlin."),
    exact: bool = typer.Option(False, "--exact", help="From the raw events: exact quantiles, slower."),
    as_json: bool = typer.Option(False, "--json", help="Print the answer as one JSON object."),
) -> None:
    """Requests, errors and latency quantiles over a span of time."""
    span = _span(when, start, end, timezone)
    settings = load_settings()
    with connect(settings) as client:
        answer = ask(client, Question(span, service, endpoint, tier), exact=exact)
    if as_json:
        print_json(
            {
                "requests": answer.requests,
                "errors": answer.errors,
                "p50_ms": answer.p50_ms,
                "p95_ms": answer.p95_ms,
                "p99_ms": answer.p99_ms,
                "from": answer.span.start.isoformat(),
                "to": answer.span.end.isoformat(),
            }
        )
    else:
        print_answer(" ".join(filter(None, (service, endpoint, tier))) or "everything", answer)


def print_answer(subject: str, answer: Answer) -> None:
    """The answer for people."""
    console = Console(highlight=False)
    console.print(f"[bold]{subject}[/], {answer.span.start:%Y-%m-%d %H:%M:%S} to {answer.span.end:%H:%M:%S %Z}")
    if not answer.requests:
        console.print("  no requests")
        return
    share = answer.errors / answer.requests
    console.print(f"  p50 {answer.p50_ms:.1f} ms   p95 {answer.p95_ms:.1f} ms   [bold]p99 {answer.p99_ms:.1f} ms[/]")
    console.print(f"  {answer.requests:,} requests, {answer.errors:,} errors ({share:.2%})")


def _span(when: str | None, start: str | None, end: str | None, timezone: str) -> TimeRange:
    now = datetime.now(UTC).astimezone(_zone(timezone))
    if when is not None and start is None and end is None:
        return named_range(when, now)
    if when is None and start is not None:
        return given_range(start, end or "now", now)
    raise ConfigurationError("say when: either --when, or --from with or without --to")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigurationError(f"there is no time zone {name!r}: write it like Europe/Berlin or UTC") from None
