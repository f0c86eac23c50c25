"""`dead-letters list | show | replay`: messages that are no valid event, and what to do with them."""

import json
import sys
import uuid
from collections.abc import Callable

import typer
from clickhouse_connect.driver.client import Client
from rich.console import Console
from rich.table import Table

from metrics_pipeline.cli.output import counting, print_json
from metrics_pipeline.cli.signals import stop_on_signal
from metrics_pipeline.cli.spans import END, START, WHEN, asked_span, now_in
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import LetterFilter, Verdict, letter_filter, position_of, verdict_on
from metrics_pipeline.dead_letters.replay import ReplayReport
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters, Group, Letter
from metrics_pipeline.drain.owner import rules_of
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings, preview_dead_letters, replay_dead_letters

app = typer.Typer(help="Look at messages that are no valid event, and replay them by today's rules.")

_REASON = typer.Option([], "--reason", help="Reason by the rules that judged it last; may be repeated.")
_SERVICE = typer.Option([], "--service", help="Service, where it could be read; may be repeated.")
_JSON = typer.Option(False, "--json", help="Print one JSON object.")
_SHOWN_BYTES = 20_000


@app.command("list", epilog="Example: metrics-pipeline dead-letters list --service checkout --when today")
def list_(
    reason: list[str] = _REASON,
    service: list[str] = _SERVICE,
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    limit: int = typer.Option(50, min=1, max=100_000, help="Rows at most, the largest first."),
    as_json: bool = _JSON,
) -> None:
    """Count them by reason, service and day, and by what replays made of them."""
    settings, wanted = load_settings(), _filter(reason, service, when, start, end)
    with connect(settings) as client:
        groups = ClickHouseDeadLetters(client, settings.kafka.topic).groups(wanted, limit + 1)
        warnings = _warnings(settings, client)
    is_cut, groups = len(groups) > limit, groups[:limit]
    if as_json:
        print_json({"groups": [_group(g) for g in groups], "is_cut": is_cut, "warnings": list(warnings)})
        return
    console = Console(highlight=False)
    console.print(_table(groups))
    if is_cut:
        console.print(f"[yellow]…[/] more than {limit} rows: narrow it down, or raise --limit")
    for warning in warnings:
        console.print(f"[yellow]![/] {warning}", soft_wrap=True)


@app.command(
    epilog="Examples: metrics-pipeline dead-letters show 3:1042;  "
    "metrics-pipeline dead-letters show --reason timestamp_in_future --limit 3"
)
def show(
    position: str | None = typer.Argument(None, metavar="PARTITION:OFFSET", help="Of one message."),
    reason: list[str] = _REASON,
    service: list[str] = _SERVICE,
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    limit: int = typer.Option(1, min=1, max=1_000, help="Letters at most, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object per letter."),
) -> None:
    """Print them in full: the payload, what was wrong, and what today's rules say. Exit 1 if there is none."""
    settings, wanted = load_settings(), _filter(reason, service, when, start, end)
    at = None if position is None else position_of(position)
    with connect(settings) as client:
        letters = ClickHouseDeadLetters(client, settings.kafka.topic).show(wanted, limit, at)
    if not letters:
        typer.echo("no such dead letter", err=True)
        raise typer.Exit(1)
    for letter in letters:
        verdict = _verdict(letter, settings)
        if as_json:
            print_json(_letter(letter, verdict))
        else:
            _print(letter, verdict)


@app.command(
    epilog="Examples: metrics-pipeline dead-letters replay --reason timestamp_in_future --dry-run;  "
    "metrics-pipeline dead-letters replay --service checkout --when yesterday"
)
def replay(
    reason: list[str] = _REASON,
    service: list[str] = _SERVICE,
    when: str | None = WHEN,
    start: str | None = START,
    end: str | None = END,
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would land and what stays."),
    yes: bool = typer.Option(False, "--yes", help="Don't look first, and don't ask."),
    as_json: bool = _JSON,
) -> None:
    """Judge them by today's rules: land the good ones exactly once, keep the bad ones with their new reason.

    Says first what would happen, and asks where it can; with --yes or --json it begins at once. May run beside drains,
    be interrupted and be repeated; one replay at a time, the newest wins.
    """
    settings, wanted = load_settings(), _filter(reason, service, when, start, end)
    console = Console(highlight=False, stderr=as_json)
    if dry_run or not (as_json or yes):
        with counting("looking") as show:
            shown = preview_dead_letters(settings, wanted, _shown_by(show))
        if dry_run and as_json:
            print_json(_report(shown))
        else:
            _print_report(console, shown)
        if dry_run:
            return
        if shown.landed and sys.stdin.isatty():
            typer.confirm(f"Land {shown.landed} events?", abort=True)
    with stop_on_signal() as stop, counting("replaying") as show:
        report = replay_dead_letters(
            settings,
            wanted,
            f"cli-{uuid.uuid4()}",
            stop=stop.is_set,
            on_progress=_shown_by(show),
        )
    if as_json:
        print_json(_report(report))
    else:
        _print_report(console, report)


def _filter(
    reasons: list[str], services: list[str], when: str | None, start: str | None, end: str | None
) -> LetterFilter:
    is_asked = when is not None or start is not None or end is not None
    return letter_filter(reasons, services, asked_span(when, start, end, now_in("UTC")) if is_asked else None)


def _warnings(settings: Settings, client: Client) -> tuple[str, ...]:
    """Letters can be looked at while Kafka is away."""
    try:
        return dead_letter_warnings(settings, client)
    except RetryableError as error:
        return (f"{error}: whether letters are dropped soon is not known",)


def _verdict(letter: Letter, settings: Settings) -> Verdict:
    message_ms = round(letter.message_time.timestamp() * 1_000)
    return verdict_on(letter.payload, letter.reason, message_ms, rules_of(settings))


def _group(group: Group) -> dict[str, str | int]:
    return {
        "reason": group.reason,
        "service": group.service,
        "day": group.day,
        "letters": group.letters,
        "never_replayed": group.unreplayed,
        "kept": group.kept,
        "landed": group.landed,
        "duplicates": group.duplicates,
    }


def _table(groups: list[Group]) -> Table:
    table = Table(box=None)
    for name in ("reason", "service", "day"):
        table.add_column(name, no_wrap=True)
    for name in ("letters", "new", "kept", "landed", "duplicates"):
        table.add_column(name, justify="right")
    for g in groups:
        counts = (g.letters, g.unreplayed, g.kept, g.landed, g.duplicates)
        table.add_row(g.reason, g.service, g.day, *(f"{n:,}" for n in counts))
    return table


def _letter(letter: Letter, verdict: Verdict) -> dict[str, object]:
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "topic_id": letter.topic_id,
        "message_time": letter.message_time.isoformat(),
        "stored_at": letter.stored_at.isoformat(),
        "service": letter.service,
        "batch": letter.batch,
        "reason": letter.reason,
        "detail": letter.detail,
        "outcome": letter.outcome or None,
        "replayed_at": letter.replayed_at.isoformat() if letter.outcome else None,
        "replay_reason": letter.replay_reason or None,
        "replay_detail": letter.replay_detail or None,
        "today": {"is_event": verdict.is_event, "reason": verdict.reason, "detail": verdict.detail},
        "payload_bytes": len(letter.payload),
        "payload": letter.payload.decode(errors="backslashreplace"),
    }


def _print(letter: Letter, verdict: Verdict) -> None:
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{letter.partition}:{letter.offset}", style="bold")
    told = [
        ("message", f"{letter.message_time:%Y-%m-%d %H:%M:%S.%f %Z}"),
        ("service", letter.service or "unknown"),
        ("reason", f"{letter.reason}: {letter.detail}"),
    ]
    if letter.outcome:
        said = f" {letter.replay_reason}: {letter.replay_detail}" if letter.replay_reason else ""
        told.append(("replayed", f"{letter.replayed_at:%Y-%m-%d %H:%M:%S}: {letter.outcome}{said}"))
    told.append(("today", "an event: a replay lands it" if verdict.is_event else f"{verdict.reason}: {verdict.detail}"))
    for name, value in told:
        console.print(f"  {name:<9}{value}")
    console.print(_pretty(letter.payload))


def _pretty(payload: bytes) -> str:
    """As indented JSON where it is JSON, else as it is; the beginning of what is very long."""
    try:
        text = json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = payload[:_SHOWN_BYTES].decode(errors="backslashreplace")
    # Control characters of a stranger's message must not reach the terminal.
    safe = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text[:_SHOWN_BYTES])
    more = f"\n… {len(payload):,} bytes in all" if max(len(text), len(payload)) > _SHOWN_BYTES else ""
    return safe + more


def _report(report: ReplayReport) -> dict[str, object]:
    return {**report.figures, "kept": report.kept}


def _print_report(console: Console, report: ReplayReport) -> None:
    lands, proves, stays = (
        ("would land", "are stored already", "would stay")
        if report.is_dry
        else ("landed", "were stored already", "stay")
    )
    console.print(f"{report.looked_at:,} dead letters")
    console.print(f"  {report.landed:,} {lands}")
    console.print(f"  {report.duplicates:,} {proves}, as another message")
    console.print(f"  {sum(report.kept.values()):,} {stays}")
    for reason, letters in sorted(report.kept.items(), key=lambda item: -item[1]):
        console.print(f"    {letters:,} {reason}")
    if report.waiting:
        console.print(f"  {report.waiting:,} belong to batches that are still on their way: replay again later")
    if report.recovered:
        console.print(f"  {report.recovered:,} of an earlier replay that broke off were finished first")


def _shown_by(show: Callable[..., None]) -> Callable[[ReplayReport], None]:
    return lambda report: show(completed=report.looked_at, total=max(report.total, report.looked_at))
