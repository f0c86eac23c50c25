"""Imports only go down: from a room to those that stand below it in ROOMS, never up, never to the side."""

import ast
from collections.abc import Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import metrics_pipeline

ROOT = Path(metrics_pipeline.__file__).parent
ROOMS: tuple[tuple[str, ...], ...] = (
    ("__main__", "definitions"),
    ("cli", "defs"),
    ("lab",),
    ("wiring",),
    ("retention",),
    ("schema",),
    ("metrics",),
    ("dashboards",),
    ("alerting",),
    ("replay",),
    ("dead_letters",),
    ("drain",),
    ("delivery",),
    ("audit",),
    ("questions",),
    ("rollups",),
    ("ledger",),
    ("ddl",),
    ("clickhouse",),
    ("kafka",),
    ("event",),
    ("settings",),
    ("runtime",),
    ("errors",),
)
"""From top to bottom; rooms of one line don't know each other. docs/architecture.md has the picture."""
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
IMPORTERS = {
    "apprise": {"alerting/notify.py"},
    "confluent_kafka": {"kafka", "lab"},
    "dagster": {"defs", "definitions.py"},
    # Dependencies of development: nothing that runs may import them.
    "deploy": set(),
    "grafana_foundation_sdk": set(),
    "rich": {"cli", "lab"},
    "typer": {"cli"},
}
"""Who may import what: rooms, or files."""


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Dotted names of modules and of what is imported from them."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(file for file in ROOT.rglob("*.py") if file != ROOT / "__init__.py")


def test_every_file_is_in_a_room() -> None:
    assert {room_of(file) for file in FILES} == set(LEVEL)


@pytest.mark.parametrize("room", LEVEL)
def test_a_room_imports_only_from_those_below(room: str) -> None:
    found = {
        (str(file.relative_to(ROOT)), name.split(".")[1])
        for file in FILES
        if room_of(file) == room
        for name in imports_of(file)
        if name.startswith("metrics_pipeline.")
    }
    assert {(file, to) for file, to in found if to != room and LEVEL[to] <= LEVEL[room]} == set()


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_these_import(library: str) -> None:
    importers = {
        str(file.relative_to(ROOT))
        for file in FILES
        if any(f"{name}.".startswith(f"{library}.") for name in imports_of(file))
    }
    allowed = IMPORTERS[library]
    assert {file for file in importers if file not in allowed and file.split("/")[0] not in allowed} == set()


def circle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other, the first one again at the end; empty without any."""
    try:
        TopologicalSorter({name: found - {name} for name, found in graph.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {"metrics_pipeline." + ".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in FILES}
    graph = {
        name: {known for found in imports_of(file) for known in (found, found.rpartition(".")[0]) if known in modules}
        for name, file in modules.items()
    }
    assert graph["metrics_pipeline.drain.drain"] >= {"metrics_pipeline.delivery.delivery"}
    assert circle_in(graph) == []
    back = {"metrics_pipeline.delivery.delivery": {"metrics_pipeline.drain.drain"}}
    assert circle_in({**graph, **back}) != []
