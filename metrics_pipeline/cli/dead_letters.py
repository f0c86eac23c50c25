"""`dead-letters list | show | replay`: messages that are no valid event, and what to do with them."""

import json
from collections.abc import Iterator
from dataclasses import astuple

import typer
from clickhouse_connect.driver.client import Client
from rich.console import RenderableType
from rich.table import Column
from rich.text import Text

from metrics_pipeline.cli.output import LATER, WARNING, answer, json_option, right, table
from metrics_pipeline.cli.spans import END, START, WHEN, asked_span, now_in
from metrics_pipeline.cli.working import carefully, counting, run_id, stoppable
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import LetterFilter, Verdict, letter_filter, position_of, verdict_on
from metrics_pipeline.dead_letters.replay import ReplayReport
from metrics_pipeline.dead_letters.store import ClickHouseDeadLetters, Letter
from metrics_pipeline.drain.shards import rules_of
from metrics_pipeline.errors import RetryableError
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.dead_letters import dead_letter_warnings, preview_dead_letters, replay_dead_letters

app = typer.Typer(help="Look at messages that are no valid event, and replay them by today's rules.")

_REASON = typer.Option([], "--reason", help="Reason by the rules that judged it last; may be repeated.")
_SERVICE = typer.Option([], "--service", help="Service, where it could be read; may be repeated.")
_JSON = json_option("one JSON object")
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
    names = [Column(name, no_wrap=True) for name in ("reason", "service", "day")]
    rows = ([f"{cell:,}" if isinstance(cell, int) else cell for cell in astuple(group)] for group in groups)
    letters = table([*names, *right("letters", "new", "kept", "landed", "duplicates")], rows)
    cut = [f"{LATER} more than {limit} rows: narrow it down, or raise --limit"] if is_cut else []
    said: list[RenderableType] = [letters, *cut, *(f"{WARNING} {warning}" for warning in warnings)]
    answer(as_json, {"groups": groups, "is_cut": is_cut, "warnings": warnings}, said)


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
    as_json: bool = json_option("one JSON object per letter"),
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
        message_ms = round(letter.message_time.timestamp() * 1_000)
        verdict = verdict_on(letter.payload, letter.reason, message_ms, rules_of(settings))
        answer(as_json, _letter(letter, verdict), _told_letter(letter, verdict))


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

    At a terminal it says first what would happen, and asks; elsewhere, or with --yes or --json, it begins at once. May
    run beside drains, be interrupted and be repeated; one replay at a time, the newest wins.
    """
    settings, wanted = load_settings(), _filter(reason, service, when, start, end)

    def look() -> ReplayReport:
        with counting("looking") as show:
            return preview_dead_letters(settings, wanted, lambda r: show(r.looked_at, r.total))

    def act() -> ReplayReport:
        with stoppable("replaying") as (stop, show):
            return replay_dead_letters(
                settings, wanted, run_id(), stop=stop, on_progress=lambda r: show(r.looked_at, r.total)
            )

    carefully(
        look,
        act,
        lambda report, _is_dry: answer(as_json, {**report.figures, "kept": report.kept}, _told(report)),
        lambda shown: f"Land {shown.landed} events?" if shown.landed else "",
        dry_run=dry_run,
        asks=not (as_json or yes),
    )


def _filter(
    reasons: list[str], services: list[str], when: str | None, start: str | None, end: str | None
) -> LetterFilter:
    is_anytime = (when, start, end) == (None, None, None)
    return letter_filter(reasons, services, None if is_anytime else asked_span(when, start, end, now_in("UTC")))


def _warnings(settings: Settings, client: Client) -> tuple[str, ...]:
    """Letters can be looked at while Kafka is away."""
    try:
        return dead_letter_warnings(settings, client)
    except RetryableError as error:
        return (f"{error}: whether letters are dropped soon is not known",)


def _letter(letter: Letter, verdict: Verdict) -> dict[str, object]:
    return {
        **picked(letter, "partition", "offset", "topic_id", "message_time", "stored_at", "service", "batch", "reason"),
        "detail": letter.detail,
        "outcome": letter.outcome or None,
        "replayed_at": letter.replayed_at if letter.outcome else None,
        "replay_reason": letter.replay_reason or None,
        "replay_detail": letter.replay_detail or None,
        "today": verdict,
        "payload_bytes": len(letter.payload),
        "payload": letter.payload.decode(errors="backslashreplace"),
    }


def _told_letter(letter: Letter, verdict: Verdict) -> Iterator[Text]:
    """Without markup: what a stranger wrote may look like some."""
    yield Text(f"{letter.partition}:{letter.offset}", style="bold")
    told = [
        ("message", f"{letter.message_time:%Y-%m-%d %H:%M:%S.%f %Z}"),
        ("service", letter.service or "unknown"),
        ("reason", f"{letter.reason}: {letter.detail}"),
    ]
    if letter.outcome:
        said = f" {letter.replay_reason}: {letter.replay_detail}" if letter.replay_reason else ""
        told.append(("replayed", f"{letter.replayed_at:%Y-%m-%d %H:%M:%S}: {letter.outcome}{said}"))
    told.append(("today", "an event: a replay lands it" if verdict.is_event else f"{verdict.reason}: {verdict.detail}"))
    yield from (Text(f"  {name:<9}{value}") for name, value in told)
    yield Text(_pretty(letter.payload))


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


def _told(report: ReplayReport) -> Iterator[str]:
    yield f"{report.looked_at:,} dead letters"
    yield f"  {report.landed:,} {'would land' if report.is_dry else 'landed'}"
    yield f"  {report.duplicates:,} {'are' if report.is_dry else 'were'} stored already, as another message"
    yield f"  {sum(report.kept.values()):,} {'would stay' if report.is_dry else 'stay'}"
    for reason, letters in sorted(report.kept.items(), key=lambda item: -item[1]):
        yield f"    {letters:,} {reason}"
    if report.waiting:
        yield f"  {report.waiting:,} belong to batches that are still on their way: replay again later"
    if report.recovered:
        yield f"  {report.recovered:,} of an earlier replay that broke off were finished first"
