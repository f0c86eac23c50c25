"""Charts of results-*.json for the docs, as small SVG files."""

from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from benchmarks.questions.fill import RANGES_SECONDS
from benchmarks.questions.report import Results, is_raw, load, quantile

GOAL_MS = 100
GOAL_STATES = 20_000
_COLOURS = {"alone": "#4878a8", "ingest": "#d1605e"}
_LABELS = {"alone": "alone", "ingest": "during 40,000 events/s of ingest"}


def plot(home: Path, images: Path) -> None:
    results = load(home)
    images.mkdir(parents=True, exist_ok=True)
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "questions", "font.size": 9})
    _by_range(results, images / "questions-by-range.svg")
    _by_states(results, images / "questions-by-states.svg")


def _by_range(results: Results, file: Path) -> None:
    """p50 and p99 of each panel per range, a dot per panel; rollups and the ledger only."""
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    for at, phase in enumerate(results):
        for position, range_name in enumerate(RANGES_SECONDS):
            chosen = [c for c in results[phase]["cells"] if c["range"] == range_name and not is_raw(c)]
            place = position + (at - 0.5) * 0.3
            p99s = [quantile(c["warm_ms"], 0.99) for c in chosen]
            label = _LABELS[phase] if not position else None
            axes.scatter([place] * len(p99s), p99s, s=9, alpha=0.5, color=_COLOURS[phase], linewidths=0, label=label)
            whole = [ms for c in chosen for ms in c["warm_ms"]]
            axes.hlines(quantile(whole, 0.5), place - 0.12, place + 0.12, color=_COLOURS[phase], linewidth=2)
    axes.axhline(GOAL_MS, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(RANGES_SECONDS)), list(RANGES_SECONDS))
    axes.set_yscale("log")
    axes.set_ylabel("ms")
    axes.set_title("Warm p99 of each panel (dots), median of all answers (bars)", fontsize=9)
    axes.legend(frameon=False, loc="upper left")
    _save(figure, file)


def _by_states(results: Results, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(7.2, 3.2))
    for phase in results:
        chosen = [c for c in results[phase]["cells"] if c["states"]]
        axes.scatter(
            [c["states"] for c in chosen], [quantile(c["warm_ms"], 0.5) for c in chosen],
            s=9, alpha=0.6, color=_COLOURS[phase], linewidths=0, label=_LABELS[phase],
        )  # fmt: skip
    axes.axhline(GOAL_MS, color="black", linewidth=0.8, linestyle="--")
    axes.axvline(GOAL_STATES, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("states merged")
    axes.set_ylabel("p50, ms")
    axes.legend(frameon=False, loc="upper left")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
