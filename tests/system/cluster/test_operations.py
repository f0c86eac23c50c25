"""What is operated beside the drains, on two shards; and what commands and pages say of them."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from pydantic import SecretStr
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import SHARD_SUFFIX, connect
from metrics_pipeline.clickhouse.cluster import connect_shards
from metrics_pipeline.dashboards.panel import panel_query
from metrics_pipeline.dashboards.panels import PANELS
from metrics_pipeline.questions.latency import ask
from metrics_pipeline.questions.question import Question
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.schema.roles import roles
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import prepare
from metrics_pipeline.wiring.retention import retention
from metrics_pipeline.wiring.rollups import rollups
from tests.metrics.test_exporter import scrape
from tests.system.cluster.conftest import OF_ROLES, Shard, databases
from tests.worlds.hours import assert_exact, command, fingerprint, past_events, query, replay, with_wrong_rules
from tests.worlds.pipeline import drain_once, send
from tests.worlds.retention import DAY, TODAY, Impatient, events_of, held_days, land, midnight

POLICY = 'raw = { days = 30, tiers = { free = 90 } }\nrollups = { "1m" = 40 }\n'


def test_rows_that_a_shard_lost_are_found_and_made_again_there(settings: Settings) -> None:
    send(settings, past_events(1_000))
    drain_once(settings)
    with rollups(settings, Impatient()) as operated, connect_shards(settings, lightweight_deletes_sync=1) as shards:
        span = Span(operated.closed_until() - 8 * 3_600, operated.closed_until())
        operated.rebuild(span)
        assert operated.check(span).is_exact
        shards[1].command("DELETE FROM rollup_1m WHERE toMinute(minute) < 20")
        assert not operated.check(span).is_exact
        assert len(operated.check(span, repair=True).repaired) > 0
        assert operated.check(span).is_exact
    assert audit(settings, deep=True).problems == ()


def test_an_hour_is_filled_and_replaced_on_all_shards_and_again_changes_nothing(settings: Settings) -> None:
    values = past_events(1_000)
    send(settings, values)
    with_wrong_rules(settings)
    replay(settings, Mode.REPLACE)
    assert_exact(settings, events=1_000)
    rows = fingerprint(settings)[:3]
    command(settings, "DELETE FROM raw_events WHERE service = 'service-1'")
    assert replay(settings).restored > 0
    whole = fingerprint(settings)
    assert whole[:3] == rows
    for mode in Mode:
        replay(settings, mode)
        assert fingerprint(settings) == whole


def test_retention_leaves_each_shard_what_the_policy_says(settings: Settings, tmp_path: Path) -> None:
    policy = tmp_path / "retention.toml"
    policy.write_text(POLICY)
    by_policy = settings.model_copy(update={"retention": settings.retention.model_copy(update={"policy": policy})})
    events = events_of((1, 50, 51), random.Random(1))
    land(settings, events)
    with retention(by_policy, clock=Impatient()) as work:
        done = work.run()
        assert not work.run().done
    assert {d.action for d in done.done} == {"drop", "delete"}
    kept = Counter(e.day for e in events if e.day == 1 or e.tier == "free")
    with connect(settings) as client:
        assert held_days(client, "raw_events") == kept
        assert max(held_days(client, "rollup_1m")) == 1
        assert ask(client, Question(TimeRange(midnight(60), midnight(0)))).requests == len(events)
    assert audit(settings).problems == ()


def test_commands_pages_and_the_exporter_answer_for_all_shards(settings: Settings) -> None:
    send(settings, [*past_events(1_000), b"no event"])
    drain_once(settings)
    runner = CliRunner()
    for line in (
        "audit --deep",
        "status",
        "top --when 'last 24 hours'",
        "rollups status",
        "rollups rebuild --when 'last 6 hours'",
    ):
        told = runner.invoke(app, line)
        assert told.exit_code == 0, (line, told.output, told.exception)
    told = runner.invoke(app, ["latency", "--from", "24 hours ago", "--json"])
    assert json.loads(told.output)["requests"] == 1_000
    told = runner.invoke(app, ["dead-letters", "list", "--json"])
    assert [group["letters"] for group in json.loads(told.output)["groups"]] == [1]
    told = runner.invoke(app, ["retention", "--dry-run", "--json"])
    assert told.exit_code == 0, told.output
    now = datetime.now(UTC).replace(microsecond=0)
    with connect(settings) as client:
        answers = {}
        for panel in PANELS:
            sql, parameters = panel_query(panel, now - timedelta(days=1), now)
            answers[panel.name] = list(client.query(sql, parameters=parameters).named_results())
    assert sum(int(row["requests"]) for row in answers["services"]) == 1_000
    scraped = scrape(settings)
    stored = scraped.labelled("table_rows", "table")
    assert stored["raw_events"] == 1_000


@pytest.fixture
def granted(settings: Settings, shards: tuple[Shard, Shard]) -> Iterator[dict[str, Settings]]:
    """The settings of each role, on databases that the servers' users have their grants on."""

    def as_role(role: str, urls: Sequence[str]) -> Settings:
        first, *others = (SecretStr(url.replace("http://", f"http://{role}:{role}@")) for url in urls)
        return with_clickhouse(settings, url=first, servers=(first, *others))

    with databases(shards, OF_ROLES) as urls:
        yield {role.name: as_role(role.name, urls) for role in roles(OF_ROLES)}


def test_the_grants_of_each_role_suffice_in_a_cluster(granted: dict[str, Settings]) -> None:
    prepare(granted["schema"])
    writer = granted["writer"]
    send(writer, past_events(500))
    drain_once(writer)
    with rollups(writer, Impatient()) as operated:
        span = Span(TODAY - 2 * DAY, operated.closed_until())
        operated.rebuild(span)
        assert operated.check(span, repair=True).is_exact
    replay(writer, Mode.REPLACE)
    assert audit(writer, deep=True).problems == ()
    with retention(granted["schema"], clock=Impatient()) as work:
        work.run()
    now = datetime.now(UTC)
    with connect(granted["reader"]) as client:
        assert ask(client, Question(TimeRange(now - timedelta(days=1), now))).requests == 500
        for refused in ("INSERT INTO canaries (topic) SELECT 'x'", f"DROP TABLE {OF_ROLES}{SHARD_SUFFIX}.raw_events"):
            with pytest.raises(DatabaseError, match=r"Code: (497|164)"):
                client.command(refused)


def test_tables_of_one_server_become_those_of_a_shard(
    settings: Settings, shards: tuple[Shard, Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/deploy.md says it."""
    values, name = past_events(500), "one"
    with databases(shards, name) as urls:
        single = with_clickhouse(settings, url=SecretStr(urls[0]), cluster=None, servers=())
        prepare(single)
        send(single, [*values, b"no event"])
        drain_once(single)
        listed = f"SELECT name FROM system.tables WHERE database = '{name}' AND engine "
        for (holds_nothing,) in query(single, listed + "NOT LIKE '%MergeTree'"):
            query(single, f"DROP TABLE {name}.{holds_nothing}")
        for (table,) in query(single, listed + "LIKE '%MergeTree'"):
            query(single, f"RENAME TABLE {name}.{table} TO {name}_shard.{table}")
        distributed = with_clickhouse(settings, url=SecretStr(urls[0]), servers=tuple(map(SecretStr, urls)))
        prepare(distributed)
        send(distributed, [*past_events(500, seed=1), *values[:200]])
        drain_once(distributed)
        assert_exact(distributed, events=1_000, dead=1)
        assert query(distributed, "SELECT count() > 100 FROM raw_events GROUP BY _shard_num") == [(True,), (True,)]


def with_clickhouse(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=values)})
