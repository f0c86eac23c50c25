"""The command line as a user types it, without Dagster, on engines that it starts itself."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from metrics_pipeline.cli import app

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("METRICS_")}
    environment["METRICS_LOCAL__HOME"] = str(tmp_path / "home")

    def call(*arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "metrics_pipeline", *arguments],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    yield call
    call("down")


def parsed(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.engines
@pytest.mark.quick
def test_up_produce_drain_audit_latency_down(run: Run, tmp_path: Path) -> None:
    addresses = parsed(run("up", "--engines-only", "--json"))
    assert addresses["dagster"] is None
    noted = json.loads((tmp_path / "home" / "state.json").read_text())["processes"]
    sent = tmp_path / "sent.ndjson"
    produced = parsed(
        run(
            *("produce", "--events", "20000", "--rate", "0", "--duplicates", "0.05", "--late", "0.02"),
            *("--malformed", "0.02", "--odd", "0.02", "--seed", "7", "--sent", str(sent), "--json"),
        )
    )
    report = parsed(run("drain", "--once", "--json"))
    assert report["consumed"] == produced["messages"] == 20_000
    verdict = parsed(run("audit", "--json"))
    assert verdict["ok"]
    assert verdict["inserted"] == verdict["raw_rows"] == verdict["rollup_requests"] == produced["unique_events"]
    assert verdict["duplicates"] == produced["duplicates"]
    assert verdict["dead_letters"] == produced["malformed"]
    assert verdict["gaps"] == verdict["overlaps"] == []
    assert verdict["rollup_drift"] == 0
    part = parsed(run("audit", "--range", "2 days ago..in 2 hours", "--deep", "--json"))
    assert part["ok"]
    assert 0 < part["raw_rows"] == part["ledger_events"] <= verdict["raw_rows"]
    assert "✓ exact" in run("audit").stdout
    answer = parsed(run("latency", "--from", "4 days ago", "--to", "in 1 hour", "--json"))
    exact = parsed(run("latency", "--from", "4 days ago", "--to", "in 1 hour", "--exact", "--json"))
    assert answer["requests"] == exact["requests"] == produced["unique_events"]
    assert answer["errors"] == exact["errors"]
    assert answer["p99_ms"] == pytest.approx(exact["p99_ms"], rel=0.02)
    compared = parsed(
        run("latency", "--from", "4 days ago", "--service", "checkout", "--compare", "last week", "--json")
    )
    assert compared["requests"] > 0
    assert compared["compared"]["other"]["p99_ms"] is None
    assert sum(point["requests"] for point in compared["history"]) == compared["requests"]
    wrong = run("latency", "--from", "4 days ago", "--service", "chekout", "--json")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean checkout?" in wrong.stderr
    slowest = parsed(run("top", "--from", "4 days ago", "--limit", "3", "--min-requests", "1", "--json"))
    assert len(slowest["endpoints"]) == 3
    shown = run("top", "--by", "errors", "--from", "4 days ago", "--min-requests", "1", COLUMNS="80")
    assert max(map(len, shown.stdout.splitlines())) <= 80
    status = parsed(run("status", "--json"))
    assert (status["lag"], status["dead_letters"]) == (0, produced["malformed"])
    assert run("schema", "check").returncode == 0
    links = run("dashboard", "--tables").stdout.splitlines()
    server = addresses["clickhouse"].removesuffix("/default")
    assert {line.partition(": ")[2].partition("#")[0].partition("?")[0] for line in links} == {
        f"{server}/dashboard",
        f"{server}/play",
    }
    assert len(run("dashboard", "live").stdout.splitlines()) == 1
    assert "service-overview" in run("dashboard", "none").stderr
    assert run("down").returncode == 0
    assert not [p for p in noted if psutil.pid_exists(p["pid"])]


@pytest.mark.engines
def test_dead_letters_are_listed_shown_and_replayed(run: Run) -> None:
    """Late events are dead by the rules of the drain, and good by those of the replay."""
    parsed(run("up", "--engines-only", "--json"))
    produced = parsed(
        run(
            "produce", "--events", "2000", "--rate", "0", "--late", "0.2", "--malformed", "0.1", "--seed", "3", "--json"
        )
    )
    strict = {"METRICS_EVENTS__MAX_AGE_DAYS": "1"}
    dead = parsed(run("drain", "--once", "--json", **strict))["dead_letters"]
    late = dead - produced["malformed"]
    assert late > 0
    groups = parsed(run("dead-letters", "list", "--limit", "1000", "--json"))["groups"]
    assert sum(g["letters"] for g in groups) == sum(g["never_replayed"] for g in groups) == dead
    old = sum(g["letters"] for g in groups if g["reason"] == "timestamp_too_old")
    assert "timestamp_too_old" in run("dead-letters", "list", "--when", "last 1 hour").stdout
    one = parsed(run("dead-letters", "show", "--reason", "timestamp_too_old", "--json", **strict))
    assert one["today"]["reason"] == "timestamp_too_old"
    place = f"{one['partition']}:{one['offset']}"
    shown = run("dead-letters", "show", place).stdout
    assert place in shown
    assert '"event_id": "' in shown
    wanted = ("dead-letters", "replay", "--reason", "timestamp_too_old")
    dry = parsed(run(*wanted, "--dry-run", "--json"))
    assert (dry["dry_run"], dry["landed"], sum(dry["kept"].values())) == (True, late, old - late)
    assert f"{late} would land" in run(*wanted, "--dry-run").stdout
    done = run(*wanted, "--yes")
    assert f"  {late} landed" in done.stdout, done.stderr
    assert "would" not in done.stdout
    again = parsed(run(*wanted, "--json"))
    assert (again["landed"], again["duplicates"]) == (0, 0)
    verdict = parsed(run("audit", "--deep", "--json"))
    assert (verdict["ok"], verdict["replayed"]) == (True, late)
    assert verdict["raw_rows"] == produced["unique_events"]
    status = parsed(run("status", "--json"))
    assert status["dead_letters_never_replayed"] == dead - old
    assert status["warnings"] == []
    wrong = run("dead-letters", "replay", "--reason", "futrue")
    assert wrong.returncode == 2
    assert "timestamp_too_old" in wrong.stderr
    assert run("dead-letters", "show", "0:99999999").returncode == 1
    for command in ("list", "show", "replay"):
        assert f"metrics-pipeline dead-letters {command}" in " ".join(
            run("dead-letters", command, "--help").stdout.split()
        )


def test_wrong_settings_are_named_and_secrets_are_not_shown(run: Run) -> None:
    done = run("audit", METRICS_DRAIN__SHARDS="many", METRICS_CLICKHOUSE__URL="ftp://user:hidden@host")
    assert done.returncode == 2
    assert "METRICS_DRAIN__SHARDS" in done.stderr
    assert "METRICS_CLICKHOUSE__URL" in done.stderr
    assert "hidden" not in done.stderr
    unknown = run("audit", METRICS_DRIAN__SHARDS="1")
    assert unknown.returncode == 2
    assert "METRICS_DRIAN__SHARDS" in unknown.stderr


def test_without_engines_the_message_says_what_to_do(run: Run) -> None:
    done = run("drain", "--once")
    assert done.returncode == 2
    assert "metrics-pipeline up" in done.stderr


def commands() -> Iterator[str]:
    """Of all groups, as they are typed."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for name, command in root.commands.items():
        yield from (f"{name} {sub}" for sub in command.commands) if isinstance(command, TyperGroup) else [name]


@pytest.mark.parametrize("command", commands())
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--help"])
    assert done.exit_code == 0
    assert re.search(rf"Examples?: .*{command}", " ".join(done.stdout.split()))
