"""`retention`: drop what the policy keeps no longer, and what keeping the rest costs."""

import json
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

import typer
from rich.console import RenderableType

from metrics_pipeline.cli.output import BAD, WARNING, YES, answer, first_of, json_option, table
from metrics_pipeline.cli.working import carefully, in_shares
from metrics_pipeline.retention.plan import Costs
from metrics_pipeline.retention.report import MOVE, Report
from metrics_pipeline.retention.run import RetentionOfShards
from metrics_pipeline.runtime.picked import picked
from metrics_pipeline.settings import load_settings
from metrics_pipeline.wiring.retention import load_policy, retention, values_from_file

app = typer.Typer()

_SHOWN = 40


@app.command(
    "retention",
    epilog="Examples: metrics-pipeline retention --dry-run;  metrics-pipeline retention --yes --json;  "
    "metrics-pipeline retention --show-policy > retention.toml",
)
def retain(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be dropped, and what stays and why."),
    yes: bool = YES,
    show_policy: bool = typer.Option(
        False,
        "--show-policy",
        help="Only print the policy in force, as a file for METRICS_RETENTION__POLICY, with each value's origin.",
    ),
    as_json: bool = json_option("the report as one JSON object"),
) -> None:
    """Drop what the policy keeps no longer: whole partitions, and events that no override keeps.

    Nothing is dropped that longer buckets don't count: what is stale is built first. At a terminal it says first what
    would happen, and asks; elsewhere, or with --yes or --json, it begins at once. May run beside drains, be interrupted
    and be repeated. Exit 1 if something stays until somebody acts. Runs of Dagster are pruned by the asset `retention`.
    """
    settings = load_settings()
    if show_policy:
        typer.echo(policy_text(load_policy(settings).model_dump(), values_from_file(settings)))
        return
    with retention(settings) as work:
        report = carefully(
            lambda: _run(work, dry_run=True),
            lambda: _run(work, dry_run=False),
            lambda report, _is_dry: answer(as_json, _fields(report), _told(report)),
            lambda shown: f"Drop or move {len(shown.done)} partitions?" if shown.done else "",
            dry_run=dry_run,
            asks=not (as_json or yes),
        )
    if report.stuck:
        raise typer.Exit(1)


def policy_text(policy: Mapping[str, Any], given: Collection[str], section: str = "") -> str:
    """As TOML, each value with its origin."""
    prefix = f"{section}." if section else ""
    values = [
        f"{_toml(key)} = {_toml(value)}  # {'file' if f'{prefix}{key}' in given else 'default'}"
        for key, value in policy.items()
        if not isinstance(value, Mapping)
    ]
    head = f"[{section}]\n" if section and values else ""
    parts = [head + "\n".join(values)] if values else []
    parts += [
        policy_text(value, given, f"{prefix}{key}") if value else f"[{prefix}{key}]\n# name = days"
        for key, value in policy.items()
        if isinstance(value, Mapping)
    ]
    return "\n\n".join(part for part in parts if part)


def _toml(value: Any) -> str:
    """As TOML writes it: without lone surrogates, and without characters that a terminal would obey."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _run(work: RetentionOfShards, *, dry_run: bool) -> Report:
    with in_shares() as share_of:
        return work.run(dry_run=dry_run, progress=share_of("looking" if dry_run else "dropping"))


def _fields(report: Report) -> dict[str, object]:
    return {
        "dry_run": report.is_dry,
        **picked(report, "bytes_freed", "done", "refused", "warnings"),
        "times_to_live_days": report.times_to_live,
        **picked(report, "alerts_forgotten", "costs"),
    }


def _told(report: Report) -> Iterator[RenderableType]:
    if report.done:
        yield table(["table", "", "partitions", "rows", "MB"], _per_table(report))
    yield from (f"TTL of {name}: {days} days" for name, days in report.times_to_live.items())
    moved = sum(done.bytes for done in report.done if done.action == MOVE)
    verb = "would free" if report.is_dry else "freed"
    yield f"{verb} {report.bytes_freed / 1e6:,.1f} MB{f', moved {moved / 1e6:,.1f} MB' if moved else ''}"
    yield from (f"{WARNING} {warning}" for warning in report.warnings)
    refused = [f"{'[dim]·[/]' if refused.is_waiting else BAD} {refused}" for refused in report.refused]
    yield from first_of(refused, _SHOWN)
    if report.is_dry:
        yield from _told_costs(report.costs)


def _per_table(report: Report) -> Iterator[tuple[str, ...]]:
    where = attrgetter("table", "action")
    for place, of_place in groupby(sorted(report.done, key=where), key=where):
        done = list(of_place)
        yield *place, f"{len(done):,}", f"{sum(d.rows for d in done):,}", f"{sum(d.bytes for d in done) / 1e6:,.1f}"


def _told_costs(costs: Costs) -> Iterator[RenderableType]:
    rows = (
        (
            cost.table,
            f"{cost.bytes / 1e6:,.1f}",
            f"{cost.bytes_per_day / 1e6:,.1f}",
            f"{cost.days:,.0f}",
            f"{cost.steady_bytes / 1e9:,.2f}",
            f"{cost.price_per_month:,.2f}",
        )
        for cost in costs.tables
    )
    yield table(["table", "MB now", "MB a day", "days kept", "GB in the end", "price a month"], rows)
    yield (
        f"{costs.months} months at the present rate: {costs.price:,.2f}, at {costs.price_per_gb_month} per GB and month"
    )
