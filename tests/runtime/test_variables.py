"""Variables that begin as settings do: what is read, what is refused and with which hint, and what is left alone."""

from pathlib import Path

import pytest

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import load_settings
from tests.system.kubernetes.links import service_links

SERVICES = [
    "metrics",
    "metrics-pipeline",
    "metrics-pipeline-exporter",
    "metrics-kafka",
    "metrics-local",
    "metrics--kafka",
]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("host", ["10.96.12.7", "fd00::12:7"])
def test_what_kubernetes_says_of_a_service_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, service: str, host: str
) -> None:
    ports = [("metrics", 9464, "TCP"), ("dns", 53, "UDP")]
    links = service_links(service, host, ports)
    assert len(links) == 13
    assert all(name.startswith("METRICS_") for name in links)
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("METRICS_KAFKA__TOPIC", "orders")
    assert load_settings().kafka.topic == "orders"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS_PORT", "9090"),
        ("METRICS_ENABLED", "true"),
        ("METRICS_COLLECTOR_URL", "http://collector:4318"),
        ("METRICS_NAMESPACE", "shop"),
        ("METRICS_PIPELINE_VERSION", "0.2.0"),
        ("METRICS_LOCAL", "1"),
        ("METRICS_EVENTS", "on"),
        ("METRICS_ALERTS", "[1]"),
        ("METRICS_KAFKA", "kafka:9092"),
        ("METRICS", "1"),
    ],
)
def test_a_variable_of_another_program_is_left_alone(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    before = load_settings()
    monkeypatch.setenv(name, value)
    assert load_settings() == before


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("METRICS_KAFAK__TOPIC", "x", "METRICS_KAFKA__TOPIC"),
        ("METRICS_KAFKA__TOPICS", "x", "METRICS_KAFKA__TOPIC"),
        ("metrics_kafka__topics", "x", "METRICS_KAFKA__TOPIC"),
        ("METRICS_DRAINS__WINDOW_SECONDS", "5", "METRICS_DRAIN__WINDOW_SECONDS"),
        ("METRICS__KAFKA__TOPIC", "x", "METRICS_KAFKA__TOPIC"),
        ("METRICS_KAFKA__BOOTSTRAP__SERVERS", "kafka:9092", "METRICS_KAFKA__BOOTSTRAP_SERVERS"),
        ("METRICS_KAFKA_TOPIC", "x", "METRICS_KAFKA__TOPIC"),
        ("METRICS_KAFKA_TOPICS", "x", "METRICS_KAFKA__TOPIC"),
        ("METRICS_CLICKHOUSE_URL", "http://clickhouse:8123", "METRICS_CLICKHOUSE__URL"),
        ("METRICS_ALERTS_DAGSTER_URL", "http://dagster:3000", "METRICS_ALERTS__DAGSTER_URL"),
        ("METRICS_SECRET_DIR", "/run/secrets", "METRICS_SECRETS_DIR"),
        ("METRICS_SECRETS__DIR", "/run/secrets", "METRICS_SECRETS_DIR"),
    ],
)
def test_a_misspelt_setting_is_refused_and_the_right_one_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, meant: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == f"wrong settings:\n  {name} is no setting: {meant} is; rename it, or unset it"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # Not what Kubernetes makes: no Service's name ends with a hyphen, and no port of one is a number alone.
        ("METRICS_CLICKHOUSE__PORT", "tcp://10.96.12.7:8123"),
        ("METRICS_CLICKHOUSE__HTTP_PORT", "8123"),
        ("METRICS_GRAFANA__PASSWORD", "a-secret"),
    ],
)
def test_a_name_like_no_setting_is_refused_with_how_they_begin(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name} is no setting: .*METRICS_CLICKHOUSE__") as refused:
        load_settings()
    assert value not in str(refused.value)


def test_all_misspelt_settings_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("METRICS_KAFKA__TOPICS", "METRICS_DRAIN__SHARD"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigurationError, match=r"(?s)METRICS_DRAIN__SHARDS is;.*METRICS_KAFKA__TOPIC is;"):
        load_settings()


def test_a_part_as_json_is_read_and_a_wrong_name_in_it_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA", '{"topic": "orders"}')
    assert load_settings().kafka.topic == "orders"
    monkeypatch.setenv("METRICS_KAFKA", '{"topics": "orders"}')
    with pytest.raises(ConfigurationError, match="__TOPICS is no setting: METRICS_KAFKA__TOPIC is;"):
        load_settings()


def test_an_option_of_the_client_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA__OPTIONS__client.rack", "a")
    assert load_settings().kafka.options == {"client.rack": "a"}


def test_a_file_of_secrets_with_a_wrong_name_is_refused_and_its_value_not_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kafka__sasl_pasword").write_text("hidden")
    monkeypatch.setenv("METRICS_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match="METRICS_KAFKA__SASL_PASSWORD is;") as refused:
        load_settings()
    assert "hidden" not in str(refused.value)
