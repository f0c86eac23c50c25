"""Encrypted and logged in to a real broker: what lands, and what each refusal says."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType
from pydantic import SecretStr, ValidationError

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.errors import ConfigurationError, KafkaUnavailableError
from metrics_pipeline.kafka.admin import describe_topic
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.schema import all as schema
from metrics_pipeline.settings import ClickHouseSettings, KafkaSettings, Settings
from metrics_pipeline.wiring.audit import audit
from tests.system.security.conftest import CLIENT_ID, CLIENT_SECRET, PASSWORD, USER, Pems, SecuredKafka, grant
from tests.worlds.events import events
from tests.worlds.pipeline import drain_once

EVENTS = 500
SIDE_GROUPS = ("", ".handover", ".shards", ".deferred", ".replay", ".dead-letters")
"""As docs/deploy.md names them."""


def scram(secured: SecuredKafka, pems: Pems, **more: Any) -> KafkaSettings:
    """Over TLS, with a certificate of ours, which that listener wants."""
    values = {
        "bootstrap_servers": secured.scram,
        "security_protocol": "SASL_SSL",
        "ca_file": pems.authority,
        "certificate_file": pems.client,
        "key_file": pems.client_key,
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_username": USER,
        "sasl_password": PASSWORD,
        "request_timeout_seconds": 20,
    }
    return KafkaSettings(**(values | more))


def oauth(secured: SecuredKafka, pems: Pems, **more: Any) -> KafkaSettings:
    values = {
        "bootstrap_servers": secured.oauth,
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_username": CLIENT_ID,
        "sasl_password": CLIENT_SECRET,
        "sasl_token_url": secured.token_url,
        "certificate_file": None,
        "key_file": None,
    }
    return scram(secured, pems, **(values | more))


@pytest.fixture
def topic(secured: SecuredKafka) -> str:
    """A topic with events, of which the account may do nothing."""
    name = f"secured-{uuid.uuid4().hex[:8]}"
    secured.admin.create_topics([NewTopic(name, 4, 1)])[name].result(30)
    producer = Producer({"bootstrap.servers": secured.plain})
    for value in events(EVENTS, seed=1):
        producer.produce(name, value)
    assert producer.flush(30) == 0
    return name


@pytest.fixture
def database(clickhouse: ClickHouseServer) -> Iterator[ClickHouseSettings]:
    name = f"secured_{uuid.uuid4().hex[:8]}"
    made = ClickHouseSettings(url=SecretStr(clickhouse.url.removesuffix("default") + name))
    with connect(Settings(clickhouse=ClickHouseSettings(url=SecretStr(clickhouse.url)))) as client:
        client.command(f"CREATE DATABASE {name}")
        with connect(Settings(clickhouse=made)) as inside:
            schema.apply(inside, Storage(made.deduplication_window_blocks))
        yield made
        client.command(f"DROP DATABASE {name}")


def grant_all(secured: SecuredKafka, topic: str) -> None:
    """What docs/deploy.md asks for, and nothing else."""
    grant(secured.admin, ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.DESCRIBE)
    for side in SIDE_GROUPS:
        grant(secured.admin, ResourceType.GROUP, topic + side, AclOperation.READ)
    grant(secured.admin, ResourceType.TRANSACTIONAL_ID, f"{topic}.", AclOperation.WRITE, prefixed=True)


@pytest.mark.parametrize("login", [scram, oauth], ids=["SCRAM", "OAUTHBEARER"])
def test_a_drain_lands_all_with_the_grants_of_the_docs(
    secured: SecuredKafka, pems: Pems, topic: str, database: ClickHouseSettings, login: Any
) -> None:
    grant_all(secured, topic)
    settings = Settings(kafka=login(secured, pems, topic=topic, group=topic), clickhouse=database)
    assert drain_once(settings).inserted == EVENTS
    assert audit(settings).problems == ()


@pytest.mark.parametrize(
    ("login", "wrong", "said"),
    [
        (scram, {"sasl_password": "guess"}, "check METRICS_KAFKA__SASL_USERNAME and METRICS_KAFKA__SASL_PASSWORD"),
        (oauth, {"sasl_password": "guess"}, "check METRICS_KAFKA__SASL_USERNAME and METRICS_KAFKA__SASL_PASSWORD"),
        (scram, {"ca_file": None}, "METRICS_KAFKA__CA_FILE"),
        (scram, {"certificate_file": None, "key_file": None}, "METRICS_KAFKA__CERTIFICATE_FILE"),
        (scram, {}, "grant READ and DESCRIBE on the topic"),
    ],
    ids=["password", "client secret", "unknown authority", "no certificate", "no grant"],
)
def test_a_refusal_says_at_once_what_to_do(
    secured: SecuredKafka, pems: Pems, topic: str, login: Any, wrong: dict[str, Any], said: str
) -> None:
    settings = login(secured, pems, topic=topic, **wrong)
    with pytest.raises(ConfigurationError, match=said) as refused:
        describe_topic(settings.bootstrap_servers, settings)
    assert "\n" not in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_an_expired_certificate_is_refused(secured: SecuredKafka, pems: Pems, topic: str) -> None:
    settings = scram(secured, pems, topic=topic, bootstrap_servers=secured.expired)
    with pytest.raises(ConfigurationError, match="its certificate has expired"):
        describe_topic(secured.expired, settings)


def test_a_missing_grant_on_a_group_is_named(
    secured: SecuredKafka, pems: Pems, topic: str, database: ClickHouseSettings
) -> None:
    grant(secured.admin, ResourceType.TOPIC, topic, AclOperation.READ, AclOperation.DESCRIBE)
    settings = Settings(kafka=scram(secured, pems, topic=topic, group=topic), clickhouse=database)
    with pytest.raises(ConfigurationError, match="grant READ on groups"):
        drain_once(settings)


def test_a_token_service_that_is_away_may_come_back(secured: SecuredKafka, pems: Pems, topic: str) -> None:
    settings = oauth(secured, pems, topic=topic, sasl_token_url="http://127.0.0.1:9/token", request_timeout_seconds=2)  # noqa: S106
    with pytest.raises(KafkaUnavailableError):
        describe_topic(secured.oauth, settings)


@pytest.mark.parametrize("missing", ["sasl_username", "sasl_password", "sasl_token_url"])
def test_a_login_without_a_part_is_no_setting(secured: SecuredKafka, pems: Pems, missing: str) -> None:
    with pytest.raises(ValidationError, match=f"needs .*{missing}"):
        oauth(secured, pems, **{missing: None})


def test_secrets_are_in_no_text_of_the_settings(secured: SecuredKafka, pems: Pems) -> None:
    made = scram(secured, pems)
    for text in (repr(made), str(made), made.model_dump_json()):
        assert PASSWORD not in text
