"""The module in a real Terraform, against a real server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

MODULE = Path(__file__).parents[3] / "deploy" / "terraform"
CLI = f"{sys.executable} -m metrics_pipeline"
CHANGES = 2
"""Exit code of `terraform plan -detailed-exitcode`."""

Terraform = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def terraform(database: Client, tmp_path: Path) -> Terraform:
    program = shutil.which("terraform")
    if program is None:
        pytest.skip("no terraform on PATH")
    folder = tmp_path / "terraform"
    shutil.copytree(MODULE, folder)
    environment = {**os.environ, "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    environment |= {"TF_VAR_plan_file": str(tmp_path / "schema.json"), "TF_VAR_command": CLI}
    environment["TF_VAR_environment"] = json.dumps({"METRICS_CLICKHOUSE__URL": os.environ["METRICS_CLICKHOUSE__URL"]})

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program, *arguments, "-no-color"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = run("init", "-input=false")
    assert done.returncode == 0, done.stderr
    return run


def plan_schema(tmp_path: Path) -> dict[str, Any]:
    done = subprocess.run([*CLI.split(), "schema", "plan", "--json"], capture_output=True, text=True, check=True)
    (tmp_path / "schema.json").write_text(done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def apply(terraform: Terraform) -> "subprocess.CompletedProcess[str]":
    return terraform("apply", "-auto-approve", "-input=false")


def told(done: "subprocess.CompletedProcess[str]") -> str:
    """Terraform's words without its lines and frames."""
    return " ".join((done.stdout + done.stderr).replace("│", " ").split())


def tables(database: Client) -> int:
    return int(database.query("SELECT count() FROM system.tables WHERE database = currentDatabase()").result_rows[0][0])


def test_the_schema_is_planned_applied_and_then_left_alone(
    terraform: Terraform, database: Client, tmp_path: Path
) -> None:
    wanted = plan_schema(tmp_path)
    shown = terraform("plan", "-input=false", "-detailed-exitcode")
    assert shown.returncode == CHANGES, shown.stderr
    assert "CREATE TABLE" in shown.stdout
    assert tables(database) == 0
    assert apply(terraform).returncode == 0
    assert tables(database) == len(wanted["statements"])
    assert plan_schema(tmp_path)["statements"] == []
    assert terraform("plan", "-input=false", "-refresh-only=false", "-out=next").returncode == 0
    after = json.loads(terraform("show", "-json", "next").stdout)
    assert [c["change"]["actions"] for c in after["resource_changes"]] == [["no-op"]]
    assert apply(terraform).returncode == 0


def test_a_server_that_changed_since_the_plan_is_left_alone(
    terraform: Terraform, database: Client, tmp_path: Path
) -> None:
    plan_schema(tmp_path)
    database.command("CREATE TABLE batches (batch String) ENGINE = MergeTree ORDER BY batch")
    done = apply(terraform)
    assert done.returncode != 0
    assert "is not what the plan was made for" in told(done)
    assert tables(database) == 1


def test_what_apply_does_not_mend_stops_before_it(terraform: Terraform, database: Client, tmp_path: Path) -> None:
    database.command("CREATE TABLE batches (batch UInt8) ENGINE = MergeTree ORDER BY batch")
    assert plan_schema(tmp_path)["differences"]
    done = terraform("plan", "-input=false")
    assert done.returncode != 0
    assert "batches.batch: is UInt8, wanted String" in told(done)


def test_a_plan_that_somebody_else_applied_is_no_error(terraform: Terraform, database: Client, tmp_path: Path) -> None:
    plan_schema(tmp_path)
    subprocess.run([*CLI.split(), "schema", "apply"], check=True, capture_output=True)
    assert apply(terraform).returncode == 0
