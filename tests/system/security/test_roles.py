"""The grants of each role are what its work needs, and no more: on a server whose users have just these."""

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from xml.sax.saxutils import escape

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.cluster import storage_of
from metrics_pipeline.errors import PipelineError
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.questions.latency import ask
from metrics_pipeline.questions.question import Question
from metrics_pipeline.replay.plan import Mode
from metrics_pipeline.retention.policy import Policy
from metrics_pipeline.rollups.operate import Span
from metrics_pipeline.rollups.tables import ROLLUP_UNIONS
from metrics_pipeline.runtime.timerange import TimeRange
from metrics_pipeline.schema import all as schema
from metrics_pipeline.schema.roles import Role, roles, statements
from metrics_pipeline.settings import ClickHouseSettings, LocalSettings, Settings
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.drain import prepare
from metrics_pipeline.wiring.replay import replay_hours
from metrics_pipeline.wiring.rollups import rollups as open_rollups
from tests.worlds.pipeline import drain_once
from tests.worlds.retention import DAY, TODAY, Impatient, events_of, land, midnight, retain
from tests.worlds.schemas import insert, with_version

DATABASE = "default"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """Users by the names of the roles, each with the grants and limits of its own."""
    folder = tmp_path_factory.mktemp("roles")
    users = folder / "roles.xml"
    users.write_text(users_xml(roles(DATABASE)))
    program = clickhouse_program(cache_folder(LocalSettings()))
    started = start_clickhouse(program, folder / "server", config={"users_config": str(users)})
    yield started
    started.process.stop(10)


def users_xml(made: tuple[Role, ...]) -> str:
    profiles = "".join(f"<{role.name}>{limits_xml(role)}</{role.name}>" for role in made)
    quotas = "".join(f"<{role.name}><interval><duration>3600</duration></interval></{role.name}>" for role in made)
    users = "".join(user_xml(role.name, role.name, role.grants) for role in made)
    return f"""<clickhouse><profiles><default/>{profiles}</profiles><quotas><default/>{quotas}</quotas>
        <users>{user_xml("default", "default", ())}{users}</users></clickhouse>"""


def user_xml(name: str, profile: str, grants: tuple[str, ...]) -> str:
    queries = "".join(f"<query>{escape(grant)}</query>" for grant in grants)
    granted = f"<grants>{queries}</grants>" if grants else ""
    return f"""<{name}><password>{name}</password><networks><ip>127.0.0.1</ip></networks><profile>{profile}</profile>
        <quota>{profile}</quota>{granted}</{name}>""".replace("<password>default</password>", "<password></password>")


def limits_xml(role: Role) -> str:
    values = "".join(f"<{key}>{value}</{key}>" for key, value in role.settings.items())
    bounds = "".join(f"<{key}><max>{value}</max></{key}>" for key, value in role.settings.items() if key != "readonly")
    return f"{values}<constraints>{bounds}</constraints>" if role.settings else ""


def as_role(settings: Settings, server: ClickHouseServer, role: str) -> Settings:
    url = server.url.replace("http://", f"http://{role}:{role}@")
    return settings.model_copy(update={"clickhouse": ClickHouseSettings(url=SecretStr(url))})


@pytest.fixture
def clients(settings: Settings, server: ClickHouseServer) -> Iterator[dict[str, Client]]:
    made = {role.name: connect(as_role(settings, server, role.name)) for role in roles(DATABASE)}
    yield made
    for client in made.values():
        client.close()


def test_each_role_can_do_its_work_and_no_other(
    settings: Settings, server: ClickHouseServer, clients: dict[str, Client]
) -> None:
    of = {role.name: as_role(settings, server, role.name) for role in roles(DATABASE)}
    prepare(of["schema"])
    events = events_of((1, 8, 9), random.Random(1))
    land(of["writer"], events)
    with open_rollups(of["writer"], Impatient()) as rollups:
        rollups.rebuild(Span(TODAY - 10 * DAY, TODAY))
        clients["writer"].command("DELETE FROM rollup_1m WHERE minute < now() - INTERVAL 8 DAY")
        assert len(rollups.check(Span(TODAY - 10 * DAY, TODAY), repair=True).repaired) > 0
    hour = TODAY + (int(time.time()) - TODAY) // 3_600 * 3_600
    lenient = of["writer"].model_copy(update={"events": settings.events.model_copy(update={"max_age_days": 50})})
    assert replay_hours(lenient, [hour], Mode.REPLACE, "run").messages == len(events)
    assert audit(of["writer"]).problems == ()
    policy = Policy.model_validate({"raw": {"days": 5, "tiers": {"free": 30}}, "rollups": {"1m": 6}})
    report = retain(of["schema"], clients["schema"], policy)
    assert {d.action for d in report.done} == {"drop", "delete"}
    with connect(of["reader"]) as client:
        assert ask(client, Question(TimeRange(midnight(10), midnight(0)))).requests == len(events)


def test_the_role_of_the_schema_can_make_every_kind_of_change(
    settings: Settings, server: ClickHouseServer, clients: dict[str, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(as_role(settings, server, "schema"))
    insert(clients["writer"], f"{datetime.now(UTC):%Y-%m-%d}", 100)
    union = replace(ROLLUP_UNIONS[0], tables=ROLLUP_UNIONS[0].tables[:-1])
    wanted = {o.name: o for o in (union, with_version())}
    storage = storage_of(settings)
    with monkeypatch.context() as version:
        version.setattr(schema, "OBJECTS", tuple(wanted.get(o.name, o) for o in schema.OBJECTS))
        assert len(schema.apply(clients["schema"], storage).changes) == 3
        schema.apply(clients["schema"], storage, allow_destructive=True)
        assert schema.plan(clients["schema"], storage).changes == ()
        assert schema.plan(clients["writer"], storage).changes == ()
    schema.apply(clients["schema"], storage, allow_destructive=True)
    schema.apply(clients["schema"], storage, allow_destructive=True)
    assert schema.plan(clients["schema"], storage).changes == ()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("reader", "INSERT INTO canaries (topic) SELECT 'x'"),
        ("reader", "DROP TABLE raw_events"),
        ("reader", "SELECT 1 SETTINGS max_execution_time = 1000"),
        ("writer", "DROP TABLE raw_events"),
        ("writer", "ALTER TABLE raw_events DROP COLUMN region"),
        ("writer", "ALTER TABLE batches DELETE WHERE 1"),
        ("writer", "CREATE TABLE mine (x UInt8) ENGINE = Memory"),
        ("schema", "DROP TABLE raw_events"),
        ("schema", "SELECT * FROM system.users"),
    ],
)
def test_a_role_is_refused_what_is_not_its_work(
    settings: Settings, server: ClickHouseServer, clients: dict[str, Client], role: str, statement: str
) -> None:
    prepare(as_role(settings, server, "schema"))
    with pytest.raises(DatabaseError, match=r"Code: (497|164|452)"):
        clients[role].command(statement)


def test_the_statements_can_be_parsed(clients: dict[str, Client]) -> None:
    """This server can't store roles; it knows their language."""
    for statement in statements(DATABASE):
        assert clients["writer"].command(f"EXPLAIN AST {statement}"), statement
    with pytest.raises(DatabaseError, match="Syntax error"):
        clients["writer"].command("EXPLAIN AST GRANT SOMETHING ELSE ON nothing TO nobody")


def test_a_missing_grant_is_one_line(settings: Settings, server: ClickHouseServer) -> None:
    with pytest.raises(PipelineError) as refused:
        drain_once(as_role(settings, server, "reader"))
    assert "\n" not in str(refused.value)
