"""results-*.json -> tables in Markdown: one by dashboard and range, one by panel and range."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.questions.fill import RANGES_SECONDS

PHASES = ("alone", "ingest")
Results = dict[str, dict[str, Any]]


def load(home: Path) -> Results:
    """Phase -> results, of the phases that were measured."""
    files = {phase: home / f"results-{phase}.json" for phase in PHASES}
    return {phase: json.loads(file.read_text()) for phase, file in files.items() if file.exists()}


def quantile(values: Iterable[float], q: float) -> float:
    """The smallest value that at least this share of them doesn't exceed."""
    known = sorted(values)
    return known[min(len(known) - 1, max(0, -int(-q * len(known) // 1) - 1))]


def by_dashboard(results: Results) -> str:
    """p50 / p99 in ms of all warm answers of a dashboard, per range; a row per dashboard and phase."""
    lines = _head("dashboard", "", *RANGES_SECONDS)
    groups = list(dict.fromkeys(cell["group"] for cell in _cells(results)))
    for group in groups:
        for phase in results:
            figures = [
                _pair(
                    [
                        ms
                        for c in _cells(results, phase)
                        if (c["group"], c["range"]) == (group, r)
                        for ms in c["warm_ms"]
                    ]
                )
                for r in RANGES_SECONDS
            ]
            lines.append(_row(group, phase, *figures))
    for phase in results:
        every = [[ms for c in _cells(results, phase) if c["range"] == r for ms in c["warm_ms"]] for r in RANGES_SECONDS]
        lines.append(_row("**all**", phase, *map(_pair, every)))
    return "\n".join(lines)


def by_panel(results: Results) -> str:
    """A row per panel and range: states, rows read, then cold, p50, p95, p99 and max of each phase."""
    names = [f"{phase} {what}" for phase in results for what in ("cold", "p50", "p95", "p99", "max")]
    lines = _head("panel", "range", "states", "rows read", *names)
    first = next(iter(results))
    other = {phase: {_key(c): c for c in _cells(results, phase)} for phase in results}
    for cell in _cells(results, first):
        same = [other[phase][_key(cell)] for phase in results if _key(cell) in other[phase]]
        figures = ["" if value is None else f"{value:.0f}" for c in same for value in _figures(c)]
        states = max(c["states"] for c in same)
        rows = max(max(c["rows"]) for c in same)
        lines.append(_row(f"{cell['group']}: {cell['name']}", cell["range"], f"{states:,}", f"{rows:,}", *figures))
    return "\n".join(lines)


def ratios(results: Results) -> str:
    lines = _head("question", "range", "rollups p50, ms", "raw events p50, ms", "ratio")
    for entry in results.get("alone", {}).get("ratios", []):
        rollup, raw = quantile(entry["rollup_ms"], 0.5), quantile(entry["raw_ms"], 0.5)
        lines.append(_row(entry["name"], entry["range"], f"{rollup:.0f}", f"{raw:.0f}", f"{raw / rollup:.1f}"))
    return "\n".join(lines)


def overall(results: Results) -> str:
    """One line per phase over all warm answers, raw events' panels apart."""
    lines = _head("phase", "answers", "p50", "p95", "p99", "max", "within 100 ms", "most states")
    kinds: Sequence[tuple[str, Callable[[dict[str, Any]], bool]]] = (
        ("rollups", lambda c: not is_raw(c)),
        ("raw events", is_raw),
    )
    for phase in results:
        for kind, belongs in kinds:
            chosen = [c for c in _cells(results, phase) if belongs(c)]
            took = [ms for c in chosen for ms in c["warm_ms"]]
            figures = [f"{quantile(took, q):.0f}" for q in (0.5, 0.95, 0.99, 1)]
            share = f"{100 * sum(ms <= 100 for ms in took) / len(took):.1f}%"
            states = f"{max(c['states'] for c in chosen):,}"
            lines.append(_row(f"{phase}, {kind}", f"{len(took):,}", *figures, share, states))
    return "\n".join(lines)


def is_raw(cell: dict[str, Any]) -> bool:
    return bool(cell["group"] == "incident-deep-dive")


def slow(results: Results, limit_ms: float = 100, limit_states: int = 20_000) -> list[dict[str, Any]]:
    """Cells beyond a limit, the slowest first."""
    found = [
        {"phase": phase, "key": _key(c), "p99": quantile(c["warm_ms"], 0.99), "p50": quantile(c["warm_ms"], 0.5),
         "states": c["states"], "rows": max(c["rows"])}
        for phase in results
        for c in _cells(results, phase)
        if quantile(c["warm_ms"], 0.99) > limit_ms or c["states"] > limit_states
    ]  # fmt: skip
    return sorted(found, key=lambda c: -c["p99"])


def _cells(results: Results, phase: str | None = None) -> list[dict[str, Any]]:
    return [c for name, document in results.items() if phase in {None, name} for c in document["cells"]]


def _key(cell: dict[str, Any]) -> str:
    return f"{cell['group']}/{cell['name']}/{cell['range']}"


def _figures(cell: dict[str, Any]) -> list[float | None]:
    """What was not measured is None."""
    cold = quantile(cell["cold_ms"], 0.5) if cell["cold_ms"] else None
    return [cold, *(quantile(cell["warm_ms"], q) for q in (0.5, 0.95, 0.99, 1))]


def _pair(took: Sequence[float]) -> str:
    return f"{quantile(took, 0.5):.0f} / {quantile(took, 0.99):.0f}" if took else ""


def _head(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def write(home: Path) -> None:
    """tables.md in the home folder, and a summary on the terminal."""
    results = load(home)
    parts = (overall(results), by_dashboard(results), ratios(results), by_panel(results))
    (home / "tables.md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts[:3]))
    for cell in slow(results):
        print(
            f"{cell['phase']:7} {cell['key']:60} p50 {cell['p50']:5.0f} p99 {cell['p99']:5.0f} ms "
            f"{cell['states']:>8,} states {cell['rows']:>11,} rows"
        )
