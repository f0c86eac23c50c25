"""`retention`: drop what the policy keeps no longer, and what keeping the rest costs."""

import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from metrics_pipeline.cli.output import in_shares, print_json
from metrics_pipeline.retention.plan import Costs
from metrics_pipeline.retention.report import MOVE, Report
from metrics_pipeline.retention.shards import RetentionOfShards
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
    yes: bool = typer.Option(False, "--yes", help="Don't ask."),
    show_policy: bool = typer.Option(
        False,
        "--show-policy",
        help="Only print the policy in force, as a file for METRICS_RETENTION__POLICY, with each value's origin.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the report as one JSON object."),
) -> None:
    """Drop what the policy keeps no longer: whole partitions, and events that no override keeps.

    Nothing is dropped that longer buckets don't count: what is stale is built first. Says first what would happen, and
    asks where it can. May run beside drains, be interrupted and be repeated. Exit 1 if something stays until somebody
    acts. Runs of Dagster are pruned by the asset `retention`.
    """
    settings, console = load_settings(), Console(highlight=False, stderr=as_json)
    if show_policy:
        typer.echo(policy_text(load_policy(settings).model_dump(), values_from_file(settings)))
        return
    with retention(settings) as work:
        if dry_run or not as_json:
            report = _run(work, dry_run=True)
            if dry_run and as_json:
                print_json(_fields(report))
            elif not as_json:
                _print(console, report)
        if not dry_run:
            if not as_json and not yes and report.done and sys.stdin.isatty():
                typer.confirm(f"Drop or move {len(report.done)} partitions?", abort=True)
            report = _run(work, dry_run=False)
            if as_json:
                print_json(_fields(report))
            else:
                _print(console, report)
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
        "bytes_freed": report.bytes_freed,
        "done": [asdict(done) for done in report.done],
        "refused": [asdict(refused) for refused in report.refused],
        "warnings": report.warnings,
        "times_to_live_days": report.times_to_live,
        "alerts_forgotten": report.alerts_forgotten,
        "costs": asdict(report.costs),
    }


def _print(console: Console, report: Report) -> None:
    per_table: dict[tuple[str, str], list[int]] = {}
    for done in report.done:
        figures = per_table.setdefault((done.table, done.action), [0, 0, 0])
        for at, figure in enumerate((1, done.rows, done.bytes)):
            figures[at] += figure
    table = Table("table", "", "partitions", "rows", "MB", box=None)
    for (name, action), (partitions, rows, size) in sorted(per_table.items()):
        table.add_row(name, action, f"{partitions:,}", f"{rows:,}", f"{size / 1e6:,.1f}")
    if per_table:
        console.print(table)
    for name, days in report.times_to_live.items():
        console.print(f"TTL of {name}: {days} days")
    moved = sum(done.bytes for done in report.done if done.action == MOVE)
    verb = "would free" if report.is_dry else "freed"
    console.print(f"{verb} {report.bytes_freed / 1e6:,.1f} MB{f', moved {moved / 1e6:,.1f} MB' if moved else ''}")
    for warning in report.warnings:
        console.print(f"[yellow]![/] {warning}", soft_wrap=True)
    for refused in report.refused[:_SHOWN]:
        mark = "[dim]·[/]" if refused.is_waiting else "[red]✗[/]"
        console.print(f"{mark} {refused}", soft_wrap=True)
    if len(report.refused) > _SHOWN:
        console.print(f"[red]✗[/] {len(report.refused) - _SHOWN} more: --json lists them")
    if report.is_dry:
        _print_costs(console, report.costs)


def _print_costs(console: Console, costs: Costs) -> None:
    table = Table("table", "MB now", "MB a day", "days kept", "GB in the end", "price a month", box=None)
    for cost in costs.tables:
        figures = (
            f"{cost.bytes / 1e6:,.1f}",
            f"{cost.bytes_per_day / 1e6:,.1f}",
            f"{cost.days:,.0f}",
            f"{cost.steady_bytes / 1e9:,.2f}",
            f"{cost.price_per_month:,.2f}",
        )
        table.add_row(cost.table, *figures)
    console.print(table)
    console.print(
        f"{costs.months} months at the present rate: {costs.price:,.2f}, at {costs.price_per_gb_month} per GB and month"
    )
