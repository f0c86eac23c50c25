"""Versions before this one, with their data in place: what they have stored, left open and not yet read."""

import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.replay import replay_hours
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.system.upgrade.snapshot import BROKEN, EVENTS, HOURS, PER_HOUR, engines_in, load, pack
from tests.worlds.pipeline import Brisk, Counts, counts, drain_once
from tests.worlds.rollups import assert_answers_are_raws

ARCHIVES = sorted(Path(__file__).parent.glob("*.tar.xz"))
"""None before the second version: what this one leaves behind is taken up as well, by itself."""
HOUR = 3_600


@pytest.fixture(params=[*ARCHIVES, None], ids=lambda a: a.name.removesuffix(".tar.xz") if a else "this version")
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Of engines that run on what a version left behind."""
    archive_path = request.param or _of_this_version(tmp_path)
    with tarfile.open(archive_path) as archive:
        archive.extractall(tmp_path / "left", filter="data")
    with engines_in(tmp_path / "left") as engines:
        yield engines.settings()


def _of_this_version(folder: Path) -> Path:
    with engines_in(folder / "made") as engines:
        load(engines.settings())
    pack(folder / "made", folder / "this.tar.xz")
    return folder / "this.tar.xz"


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as made:
        yield made


def test_data_of_the_version_before_stay_and_its_work_is_taken_up(settings: Settings, client: Client) -> None:
    stored = counts(settings)
    assert stored == Counts(raw=HOURS * PER_HOUR, distinct=HOURS * PER_HOUR, rollup=HOURS * PER_HOUR, dead=BROKEN)
    span = _span(client)
    storage = storage_of(settings)
    schema.apply(client, storage)
    assert schema.plan(client, storage).is_empty, "nothing is left for a person to do"
    assert counts(settings) == stored
    assert_answers_are_raws(client, span.start_seconds, span.end_seconds)
    drain_once(settings)
    assert counts(settings) == Counts(raw=EVENTS, distinct=EVENTS, rollup=EVENTS, dead=BROKEN)
    assert audit(settings).problems == ()
    with open_rollups(settings) as rollups:
        rollups.rebuild(span)
        checked = rollups.check(span)
        assert (checked.drifts, checked.in_flux) == ((), ())
    assert_answers_are_raws(client, span.start_seconds, span.end_seconds)
    messages = client.query("SELECT DISTINCT toStartOfHour(kafka_timestamp) FROM raw_events ORDER BY 1").result_rows
    for _ in range(2):
        report = replay_hours(
            settings, [int(hour.timestamp()) for (hour,) in messages], Mode.FILL, uuid.uuid4().hex, clock=Brisk()
        )
        assert report.changed == 0
    assert audit(settings).problems == ()


def _span(client: Client) -> Span:
    first, last = client.query(
        "SELECT toUnixTimestamp(min(timestamp)), toUnixTimestamp(max(timestamp)) FROM raw_events"
    ).first_row
    return Span(first - first % HOUR, last - last % HOUR + HOUR)
