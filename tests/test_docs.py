"""What alerts, run books, rules and the list of metrics say of each other is true, and paths that pages name exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from deploy.generate.metrics import reference, rule_file
from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.cli import app
from metrics_pipeline.metrics.catalogue import METRICS, PREFIX, Type
from metrics_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
    *(page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md") if page.is_file()),
]
PLACES = (ROOT, ROOT / "metrics_pipeline")
RUNBOOKS = ROOT / "docs" / "runbooks"
OPERATIONS = ROOT / "docs" / "operations.md"
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"


def rules() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def commands_in(text: str) -> list[str]:
    """What a page says to type: from `metrics-pipeline` to the end of the code span or line."""
    quoted = re.findall(r"`(metrics-pipeline [^`]+)`", text)
    typed = [line.split("#")[0].strip() for line in text.splitlines() if line.strip().startswith("metrics-pipeline ")]
    return quoted + typed


def paths_in(text: str) -> list[str]:
    """Code spans that are a path: of a Python file, of a folder, or of anything in tests, docs or deploy."""
    spans = re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", text)
    return [span for span in spans if re.search(r"(\.py|/)$", span) or re.match(r"(tests|docs|deploy)/", span)]


def assert_exists(command: str) -> None:
    """Its words lead to a command, and its options are that command's."""
    words = shlex.split(command.replace("…", "x"))[1:]
    found = typer.main.get_command(app)
    while words and hasattr(found, "commands"):
        assert words[0] in found.commands, command
        found = found.commands[words.pop(0)]
    assert not hasattr(found, "commands"), f"{command} is a group"
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_each_kind_has_its_run_book_and_a_command_that_exists(kind) -> None:  # type: ignore[no-untyped-def]
    page = (RUNBOOKS / kind.runbook).read_text()
    for part in ("# ", "**What it means.**", "**Look.**", "**Do.**"):
        assert part in page
    assert_exists(kind.command)


@pytest.mark.parametrize("page", [*sorted(RUNBOOKS.glob("*.md")), OPERATIONS], ids=lambda page: page.stem)
def test_what_a_run_book_says_to_type_and_to_set_exists(page: Path) -> None:
    text = page.read_text()
    for command in commands_in(text):
        assert_exists(command)
    for part, name in re.findall(r"METRICS_([A-Z]+)__([A-Z_]+)", text):
        settings = Settings.model_fields[part.lower()].annotation
        assert settings is not None
        assert name.lower() in settings.model_fields, f"{part}__{name}"
    for link in re.findall(r"\]\(([^)#]+\.md)\)", text):
        assert (page.parent / link).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_that_a_page_names_exist(page: Path) -> None:
    """From the root of the repository or of the package, or from the page's own folder."""
    places = (*PLACES, page.parent)
    missing = [path for path in paths_in(page.read_text()) if not any((at / path).exists() for at in places)]
    assert missing == []


def test_each_rule_names_metrics_that_are_served_and_a_run_book_that_exists() -> None:
    served = set()
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.type is Type.HISTOGRAM else ("",)
        served |= {metric.full_name + suffix for suffix in suffixes}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        named = set(re.findall(rf"{PREFIX}\w+", str(rule["expr"])))
        assert named
        assert named <= served, rule["alert"]
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert (ROOT / annotations["runbook"]).is_file(), rule["alert"]
        assert str(rule["expr"]).count("(") == str(rule["expr"]).count(")")


def test_each_kind_of_alert_has_a_rule_in_prometheus_or_grafana() -> None:
    of_prometheus = {Path(rule["annotations"]["runbook"]).name for rule in rules()}  # type: ignore[index]
    assert of_prometheus | {kind.runbook for kind in KINDS.values() if kind.question} == {
        kind.runbook for kind in KINDS.values()
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_a_run_book_names_the_settings_that_its_alert_depends_on(kind) -> None:  # type: ignore[no-untyped-def]
    page = (RUNBOOKS / kind.runbook).read_text()
    assert {name for name in kind.settings if f"METRICS_ALERTS__{name.upper()}" not in page} == set()


def test_metrics_follow_prometheus_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]*", metric.name)
        assert (metric.type is Type.COUNTER) == metric.name.endswith("_total")
        assert bool(metric.bounds) == (metric.type is Type.HISTOGRAM)
        assert list(metric.bounds) == sorted(metric.bounds)
        assert metric.help.endswith(".")
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)\b", metric.name)


def test_the_lists_of_metrics_and_alerts_and_the_rules_are_the_generated_ones() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == reference(), "run `make generated`"
    assert RULES.read_text() == rule_file(), "run `make generated`"
