"""The schema of a cluster: on every server, whatever each of them lacks; engines of replicas."""

import json
import time
from dataclasses import replace
from functools import partial

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import SHARD_SUFFIX, connect, connect_to
from metrics_pipeline.clickhouse.cluster import connect_shards, read_servers
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.delivery.tables import DEAD_LETTERS
from metrics_pipeline.delivery.warehouse import ClickHouseWarehouse
from metrics_pipeline.errors import ClickHouseUnavailableError, ConfigurationError
from metrics_pipeline.schema.targets import apply_everywhere, plan_everywhere
from metrics_pipeline.settings import Settings
from tests.worlds.hours import past_events
from tests.worlds.pipeline import assert_exact, drain_once, send


def test_a_server_that_lost_everything_gets_all_of_it_from_the_next_apply(settings: Settings) -> None:
    """As a replaced one has."""
    assert plan_everywhere(settings).changes == ()
    _, second = read_servers(settings)
    with connect_to(settings, second.url, "default") as client:
        for database in (settings.kafka.topic, settings.kafka.topic + SHARD_SUFFIX):
            client.command(f"DROP DATABASE {database} SYNC")
            client.command(f"CREATE DATABASE {database}")
    planned = plan_everywhere(settings)
    assert {change.object.split(":")[0] for change in planned.changes} == {"127.0.0.1"}
    assert all(change.object.startswith(second.name) for change in planned.changes)
    apply_everywhere(settings)
    assert plan_everywhere(settings).changes == ()
    send(settings, past_events(100))
    drain_once(settings)
    assert_exact(settings, events=100)


def test_a_column_that_the_shards_lack_is_added_there_first(settings: Settings) -> None:
    with connect_shards(settings) as shards:
        for shard in shards:
            shard.command("ALTER TABLE batches DROP COLUMN added_dead_letters")
    places = [change.object for change in plan_everywhere(settings).changes]
    assert len(places) == 2
    assert all("shard" in place for place in places)
    apply_everywhere(settings)
    assert plan_everywhere(settings).changes == ()


def test_a_table_over_all_shards_of_other_columns_is_replaced(settings: Settings) -> None:
    first, _ = read_servers(settings)
    with connect_to(settings, first.url, settings.kafka.topic) as client:
        client.command(
            f"CREATE OR REPLACE TABLE canaries (topic String) ENGINE = Distributed('lab', '{settings.kafka.topic}"
            f"{SHARD_SUFFIX}', 'canaries')"
        )
    (change,) = plan_everywhere(settings).changes
    assert change.is_needed, "drains of this version can't go on without it"
    apply_everywhere(settings, expected_hash=plan_everywhere(settings).hash)
    assert plan_everywhere(settings).changes == ()


def test_commands_say_which_server_lacks_what(settings: Settings) -> None:
    _, second = read_servers(settings)
    with connect_to(settings, second.url, settings.kafka.topic + SHARD_SUFFIX) as client:
        client.command("DROP TABLE canaries")
    told = CliRunner().invoke(app, ["schema", "plan"])
    assert f"{second.name}, shard 2: canaries: create the table" in told.output
    assert CliRunner().invoke(app, ["schema", "check"]).exit_code == 1
    planned = json.loads(CliRunner().invoke(app, ["schema", "plan", "--json"]).output)
    refused = CliRunner().invoke(app, ["schema", "apply", "--expect", "another"])
    assert isinstance(refused.exception, ConfigurationError)
    assert CliRunner().invoke(app, ["schema", "apply", "--expect", planned["hash"]]).exit_code == 0
    assert CliRunner().invoke(app, ["schema", "check"]).exit_code == 0


def changed(settings: Settings, **values: object) -> Settings:
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update=values)})


def test_wrong_names_of_the_cluster_and_its_servers_are_told(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="the server knows no cluster unheard_of"):
        read_servers(changed(settings, cluster="unheard_of"))
    with pytest.raises(ConfigurationError, match="names no server of shard 2"):
        read_servers(changed(settings, servers=settings.clickhouse.servers[:1]))
    dead = SecretStr("http://127.0.0.1:9/x")
    with pytest.raises(ClickHouseUnavailableError, match=r"no server of shard 2 .* is 127.0.0.1:9 up"):
        read_servers(changed(settings, servers=(settings.clickhouse.servers[0], dead)))
    # Another replica of its shard answers, which is enough for everything but the schema.
    with_dead = changed(settings, servers=(dead, *settings.clickhouse.servers))
    assert [server.shard for server in read_servers(with_dead)] == [1, 2]
    with pytest.raises(ClickHouseUnavailableError):
        plan_everywhere(with_dead)


def test_hosts_of_the_cluster_get_the_port_and_the_account_of_the_url(settings: Settings) -> None:
    url = settings.clickhouse.servers[0].get_secret_value().replace("http://", "http://default:@")
    servers = read_servers(changed(settings, servers=(), url=SecretStr(url)))
    assert [(server.shard, server.replica, server.url) for server in servers] == [(1, 1, url), (2, 1, url)]


def test_replicas_need_a_keeper(settings: Settings) -> None:
    """The statements are the server's to judge: it takes all of them, up to where it wants its Keeper."""
    storage = Storage(10_000, is_replicated=True, database="somewhere")
    table = replace(DEAD_LETTERS, name="replicated")
    with connect_shards(settings) as (first, _), pytest.raises(Exception, match=r"(?i)zookeeper|macro") as refused:
        first.command(table.ddl(storage))
    assert "syntax" not in str(refused.value).lower()


def test_replicas_forget_tokens_also_by_time(settings: Settings) -> None:
    now_ms, day_ms = time.time_ns() // 1_000_000, 86_400_000
    with connect(settings) as client:
        tables = partial(ClickHouseWarehouse, client, partial(connect_shards, settings), "t", "id", "g")
        replicas, alone = (tables(Storage(10_000, is_replicated=replicated)) for replicated in (True, False))
        assert replicas.remembers(now_ms - 3 * day_ms)
        assert not replicas.remembers(now_ms - 4 * day_ms)
        assert alone.remembers(now_ms - 400 * day_ms)
