"""The pipeline as its operators see it: Dagster's own pages in a real browser, before a whole running stack."""

import json
import re
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.definitions import defs
from metrics_pipeline.lab.loadgen.plan import LoadPlan
from metrics_pipeline.lab.loadgen.run import produce
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.lab.local.dagster import start_dagster
from metrics_pipeline.lab.local.kafka import KafkaServer
from metrics_pipeline.lab.local.process import choose_port
from metrics_pipeline.settings import Settings, load_settings
from metrics_pipeline.wiring.drain import prepare
from tests.worlds.browser import Page, browser, opened_browser
from tests.worlds.receivers import HttpReceiver, http_receiver
from tests.worlds.waiting import await_

BACKFILLED = [["replay"]]
"""What is backfilled."""
PARTITIONS = [f"{datetime.now(UTC) - timedelta(hours=hours):%Y-%m-%d-%H}:00" for hours in (2, 1, 0)]
"""Three hours: the load is in the last of them."""
CHECKS = ("audit", "drift", "check_dead_letters", "freshness", "enforce_retention")
"""Jobs that evaluate all checks but the canary's, which is off by default."""
LOAD = LoadPlan(rate=0, events=20_000, duplicates=0.02, late=0.02, malformed=0.01, seed=7)
MORE = LoadPlan(rate=0, events=500, seed=8)
LIMIT_SECONDS = 180
"""For what takes some 30 s on two idle cores: sensors and backfills wait for their next tick."""
WIDTH = 1600
CHECK_SECONDS = 0.5

_ENVIRONMENT = {
    "METRICS_DRAIN__IDLE_SECONDS": "5",
    # Only failed runs are to notify: the machine may be slow, and its disk full.
    "METRICS_ALERTS__FRESHNESS_SECONDS": "3600",
    "METRICS_ALERTS__DISK_FREE_SHARE": "0",
    "METRICS_ALERTS__DISK_DAYS": "0",
    "METRICS_ALERTS__STALLED_SECONDS": "3000",
    "METRICS_ALERTS__ROLLUPS_SECONDS": "864000",
    "METRICS_ALERTS__PENDING_SECONDS": "0",
}
_MACHINE_PATH = r"\/[^\s\"']*?\/(?:site-packages\/)?(?=dagster\/|metrics_pipeline\/)"
_LAUNCH_BACKFILL = """mutation ($wanted: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $wanted) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status runs(limit: 10) { status } } } }"""
_LAUNCH_JOB = """mutation ($wanted: ExecutionParams!) { launchRun(executionParams: $wanted) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
_RUNS = """query ($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 20) {
    ... on Runs { results { id status } } } }"""

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Stack:
    """Everything running; `pictures` is where screenshots go, `receiver` where alerts do."""

    url: str
    page: Page
    settings: Settings
    receiver: HttpReceiver
    pictures: Path

    def ask(self, query: str, **variables: Any) -> Any:
        """Dagster's GraphQL, as its pages use it."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(  # noqa: S310 - our own loopback address
            f"{self.url}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - likewise
            return json.load(answer)["data"]

    def open(self, path: str, *wanted: str, height: int) -> Page:
        """A page that shows all of `wanted`."""
        self.page.size(WIDTH, height).open(self.url + path)
        return self.page.await_text(*wanted, limit_seconds=LIMIT_SECONDS)

    def picture(self, name: str) -> None:
        """Of the open page, once it has come to rest."""
        self.page.await_rest(LIMIT_SECONDS).run(_WITHOUT_MACHINE_PATHS)
        self.page.picture(self.pictures / f"{name}.png")

    def statuses(self, job: str) -> list[str]:
        """Of its runs, the newest first."""
        return [run["status"] for run in self.ask(_RUNS, filter={"pipelineName": job})["runsOrError"]["results"]]

    def run_job(self, job: str) -> None:
        selector = {
            "repositoryLocationName": "metrics_pipeline",
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        launched = self.ask(_LAUNCH_JOB, wanted={"selector": selector, "runConfigData": {}})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched


def eventually(what: str, condition: Callable[[], object]) -> None:
    await_(what, condition, LIMIT_SECONDS, check_seconds=CHECK_SECONDS)


@pytest.fixture(scope="module")
def stack(
    kafka: KafkaServer,
    clickhouse: ClickHouseServer,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Stack]:
    """With events drained by the relay's runs."""
    browser()
    folder, name, port = tmp_path_factory.mktemp("stack"), f"ui_{uuid.uuid4().hex[:8]}", choose_port(None)
    url = clickhouse.url.removesuffix("default") + name
    with connect(Settings(clickhouse={"url": clickhouse.url})) as client:  # type: ignore[arg-type]
        client.command(f"CREATE DATABASE {name}")
    with http_receiver() as receiver, opened_browser(folder / "browser") as page, pytest.MonkeyPatch.context() as patch:
        environment = {
            **_ENVIRONMENT,
            "METRICS_KAFKA__BOOTSTRAP_SERVERS": kafka.address,
            "METRICS_KAFKA__TOPIC": name,
            "METRICS_KAFKA__GROUP": name,
            "METRICS_CLICKHOUSE__URL": url,
            "METRICS_ALERTS__DESTINATIONS": receiver.url,
            "METRICS_ALERTS__DAGSTER_URL": f"http://127.0.0.1:{port}",
            "METRICS_LOCAL__HOME": str(folder),
        }
        for variable, value in environment.items():
            patch.setenv(variable, value)
        settings = load_settings()
        prepare(settings)
        dagster_stack = start_dagster(folder / "dagster", folder / "home", environment, preferred_port=port)
        try:
            pictures = request.config.getoption("--screenshots") or folder
            made = Stack(dagster_stack.url, page, settings, receiver, pictures)
            produce(LOAD, settings)
            eventually("the relay's run has drained", lambda: "SUCCESS" in made.statuses("drain"))
            yield made
        finally:
            for process in reversed(dagster_stack.processes):
                process.stop(40)
    with connect(settings) as client:
        client.command(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def backfill(stack: Stack) -> str:
    """Its name; launched before anything is looked at, since a backfill waits for its daemon."""
    wanted = {"partitionNames": PARTITIONS, "assetSelection": [{"path": path} for path in BACKFILLED]}
    launched = stack.ask(_LAUNCH_BACKFILL, wanted=wanted)["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def checks_by_asset() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for key in defs.resolve_asset_graph().asset_check_keys:
        found.setdefault("/".join(key.asset_key.path), set()).add(key.name)
    return found


def shown_in(page: Page, names: set[str]) -> set[str]:
    """Those of the names that the page holds; a graph drawn small cuts long ones in the middle."""
    texts = set(re.findall(r">([^<>]+)<", page.run("document.documentElement.outerHTML")))
    cut = [text.split("…") for text in texts if text.count("…") == 1]
    return {n for n in names if n in texts or any(n.startswith(a) and n.endswith(z) and a and z for a, z in cut)}


@pytest.mark.usefixtures("backfill")
def test_the_asset_graph_shows_every_asset_and_its_checks(stack: Stack) -> None:
    for job in CHECKS:
        stack.run_job(job)
    for job in CHECKS:
        eventually(f"{job} has run", lambda job=job: "SUCCESS" in stack.statuses(job))  # type: ignore[misc]
    graph = defs.resolve_asset_graph()
    groups = sorted({graph.get(key).group_name for key in graph.get_all_asset_keys()})
    names = {key.path[-1] for key in graph.get_all_asset_keys()}
    opened = quote(",".join(f"global@global:{group}" for group in groups), safe="")
    page = stack.open(f"/asset-groups?expanded={opened}", *groups, "raw_events", height=800)
    stack.picture("dagster-assets")
    assert names - shown_in(page, names) == set()
    checks = checks_by_asset()
    of_raw = len(checks["clickhouse/raw_events"])
    passed = ("1 / 1 Passed", f"{of_raw - 1} / {of_raw} Passed")
    stack.open("/locations/__repository__@metrics_pipeline/asset-groups/events", *passed, height=800)
    stack.picture("dagster-events")
    assert {"clickhouse/raw_events", "clickhouse/rollup_1m", "clickhouse/dead_letters"} <= set(checks)
    for asset, wanted in checks.items():
        stack.open(f"/assets/{asset}?view=checks", f"Checks ({len(wanted)})", *wanted, height=800)


def test_the_page_of_retention_says_what_went_and_what_the_rest_costs(stack: Stack) -> None:
    shown = ("price_of_13_months", "bytes_freed", "runs_pruned", "costs", "enforce_retention", "At 03:42 AM UTC")
    page = stack.open("/assets/retention?view=overview", *shown, height=900)
    stack.picture("dagster-retention")
    assert [words for words in shown if words not in page.text()] == []


def test_a_backfill_of_three_partitions_completes(stack: Stack, backfill: str) -> None:
    def found() -> Any:
        return stack.ask(_BACKFILL, id=backfill)["partitionBackfillOrError"]

    eventually("the backfill has ended", lambda: found()["status"] not in ("REQUESTED", "CANCELING"))
    assert found()["status"] == "COMPLETED_SUCCESS"
    assert {run["status"] for run in found()["runs"]} == {"SUCCESS"}
    names = [" / ".join(path) for path in BACKFILLED]
    page = stack.open(f"/runs/b/{backfill}", *names, "Succeeded", "100% completed", height=560)
    stack.picture("dagster-backfill")
    assert page.text().count("100% completed") == len(BACKFILLED)


def test_a_run_that_fails_is_seen_and_told_once_and_its_recovery_too(stack: Stack) -> None:
    def told(words: str) -> list[dict[str, Any]]:
        return [posted for posted in stack.receiver.received if words in posted["message"]]

    failed, resolved = "critical: drain shard 0-of-1: ", "resolved: runs fail. It was: drain shard 0-of-1: "

    with connect(stack.settings) as client:
        # As if this version had been deployed before its schema.
        client.command("ALTER TABLE dead_letters DROP COLUMN replay_detail")
    produce(MORE, stack.settings)
    eventually("a drain has failed", lambda: stack.statuses("drain")[0] == "FAILURE")
    eventually("its alert has arrived", lambda: told(failed))
    stack.open("/runs?q[0]=job:drain", "drain", "Failure", "metrics/shard: 0-of-1", height=600)
    stack.picture("dagster-runs")
    (alert,) = told(failed)
    print(alert["title"], alert["message"], sep="\n", flush=True)
    assert alert["type"] == "failure"
    (link,) = re.findall(r"Look at: (\S+)", alert["message"])
    stack.open(link.removeprefix(stack.url) + "?logs=type:STEP_FAILURE", "Failure", "schema apply", height=720)
    stack.picture("dagster-failed-run")
    # What the error says to do: `metrics-pipeline schema apply`.
    prepare(stack.settings)
    eventually("a drain goes well", lambda: stack.statuses("drain")[0] == "SUCCESS")
    eventually("the recovery has been told", lambda: told(resolved))
    assert (len(told(failed)), len(told(resolved))) == (1, 1)
    with connect(stack.settings) as client:
        ((events,),) = client.query("SELECT uniqExact(event_id) FROM raw_events").result_rows
    assert events > LOAD.events * 0.9


_WITHOUT_MACHINE_PATHS = f"""(() => {{
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replace(/{_MACHINE_PATH}/g, '');
}})()"""
"""For the picture: a traceback names files by where this machine has them."""
