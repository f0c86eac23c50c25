"""Dependencies point one way; imports say so."""

import ast
from pathlib import Path

import pytest

import metrics_pipeline

ROOT = Path(metrics_pipeline.__file__).parent
FORBIDDEN = {
    "core": (
        "apprise",
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "kafka": ("clickhouse_connect", "dagster", "metrics_pipeline.clickhouse", "metrics_pipeline.drain"),
    "clickhouse": (
        "confluent_kafka",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.drain",
        "metrics_pipeline.dashboards",
    ),
    "clickhouse/rollups": ("metrics_pipeline.clickhouse.questions",),
    "clickhouse/questions": (
        "metrics_pipeline.clickhouse.warehouse",
        "metrics_pipeline.clickhouse.books",
        "metrics_pipeline.cli",
        "rich",
        "typer",
    ),
    "cli": ("dagster", "metrics_pipeline.defs"),
    "local": ("dagster", "metrics_pipeline.defs", "metrics_pipeline.cli"),
    "chaos": ("dagster", "metrics_pipeline.defs", "metrics_pipeline.cli"),
    "loadgen": ("dagster", "clickhouse_connect", "metrics_pipeline.defs", "metrics_pipeline.cli"),
    "dashboards": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.cli",
        "metrics_pipeline.clickhouse.client",
        "metrics_pipeline.defs",
        "metrics_pipeline.drain",
        "metrics_pipeline.kafka",
        "metrics_pipeline.local",
    ),
    "exporter": ("confluent_kafka", "dagster", "apprise", "metrics_pipeline.defs", "metrics_pipeline.cli"),
    "ports.py": ("confluent_kafka", "clickhouse_connect", "dagster", "metrics_pipeline.drain"),
    "audit.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "rollups.py": ("confluent_kafka", "clickhouse_connect", "dagster", "metrics_pipeline.kafka"),
    "dead_letters.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "landing.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "replay.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "drain.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
    ),
    "canary.py": ("confluent_kafka", "clickhouse_connect.driver.exceptions", "dagster"),
    "alerting.py": ("confluent_kafka", "clickhouse_connect.driver.exceptions", "apprise", "dagster"),
    "notify.py": (
        "confluent_kafka",
        "clickhouse_connect",
        "dagster",
        "metrics_pipeline.kafka",
        "metrics_pipeline.clickhouse",
        "metrics_pipeline.settings",
    ),
    "delivery.py": ("confluent_kafka", "clickhouse_connect", "dagster"),
    "takeover.py": ("confluent_kafka", "clickhouse_connect", "dagster"),
    **dict.fromkeys(
        ("jump.py", "owed.py", "ranges.py", "settling.py"),
        (
            "confluent_kafka",
            "clickhouse_connect",
            "dagster",
            "metrics_pipeline.kafka",
            "metrics_pipeline.clickhouse",
            "metrics_pipeline.settings",
        ),
    ),
}


def imports_of(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = [ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports_of(file)
        for forbidden in FORBIDDEN[room]
        if name == forbidden or name.startswith(forbidden + ".")
    }
    assert wrong == set()


def test_only_its_adapter_imports_apprise() -> None:
    importers = {
        file.name for file in ROOT.rglob("*.py") if any(name.split(".")[0] == "apprise" for name in imports_of(file))
    }
    assert importers == {"notify.py"}


def test_only_defs_and_its_entry_import_dagster() -> None:
    importers = {
        file.relative_to(ROOT).parts[0]
        for file in ROOT.rglob("*.py")
        if any(name.split(".")[0] == "dagster" for name in imports_of(file))
    }
    assert importers == {"defs", "definitions.py"}


def test_only_the_generator_of_files_needs_the_sdk_of_grafana() -> None:
    """It is a dependency of development: nothing that runs may import it, or what imports it."""
    generator = {"dashboards/grafana.py", "dashboards/provisioning.py"}
    needs = (
        "grafana_foundation_sdk",
        "metrics_pipeline.dashboards.grafana",
        "metrics_pipeline.dashboards.provisioning",
    )
    importers = {
        str(file.relative_to(ROOT))
        for file in ROOT.rglob("*.py")
        if any(name == need or name.startswith(need + ".") for name in imports_of(file) for need in needs)
    }
    assert importers == generator
