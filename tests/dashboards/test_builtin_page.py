"""ClickHouse's own dashboard page in a real browser: each of our links opens, and each chart draws."""

import html
import re
import subprocess
from pathlib import Path

import pytest

from metrics_pipeline.cli.dashboard import link
from metrics_pipeline.dashboards.builtin import LIVE, charts
from metrics_pipeline.dashboards.links import Chart, dashboard_url
from metrics_pipeline.dashboards.panel import Dashboard
from metrics_pipeline.dashboards.panels import DASHBOARDS
from metrics_pipeline.questions.question import Names
from tests.dashboards.conftest import Drained
from tests.worlds.browser import browser

ATTEMPTS = 3
_ERROR = re.compile(r'<div class="query-error"[^>]*>(.*?)</div>', re.DOTALL)
_SCRIPT = re.compile(r"<script.*?</script>", re.DOTALL)
_GLOBAL_ERROR = re.compile(r'<div[^>]*id="global-error"[^>]*>(.*?)</div>', re.DOTALL)


def opened(url: str, folder: Path, charts_count: int) -> str:
    """The page's document, without its scripts, once each chart drew or said what is wrong.

    The browser ends when nothing seems to happen any more; on a busy machine that may be before the last answer.
    """
    document = ""
    for attempt in range(ATTEMPTS):
        document = _dumped(url, folder / str(attempt))
        if document.count("<canvas") + len(errors_in(document)) >= charts_count:
            break
    return document


def _dumped(url: str, folder: Path) -> str:
    command = [
        browser(), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
        "--window-size=1600,1200", "--virtual-time-budget=20000", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return _SCRIPT.sub("", done.stdout)


def errors_in(document: str) -> list[str]:
    texts = (*_ERROR.findall(document), *_GLOBAL_ERROR.findall(document))
    return [text for text in (html.unescape(text).strip() for text in texts) if text]


@pytest.mark.parametrize("dashboard", [LIVE, *DASHBOARDS], ids=lambda dashboard: dashboard.name)
def test_every_chart_draws(drained: Drained, dashboard: Dashboard, tmp_path: Path) -> None:
    wanted = charts(dashboard)
    document = opened(link(drained.url, dashboard, Names(**drained.variables), seconds=900), tmp_path, len(wanted))
    assert errors_in(document) == []
    assert document.count("<canvas") == len(wanted)
    for panel in wanted:
        assert html.escape(panel.title, quote=False) in document


def test_a_chart_that_does_not_draw_is_noticed(drained: Drained, tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    broken = [Chart("empty", "SELECT 1::INT AS t, 1 AS n WHERE t = 2"), Chart("wrong", "SELECT nothing FROM nowhere")]
    document = opened(dashboard_url(drained.url, broken, {"seconds": "900"}), tmp_path, len(broken))
    assert len(errors_in(document)) == 2
    assert document.count("<canvas") == 0
