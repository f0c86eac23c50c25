"""HTTPS to a real server behind a TLS proxy: authorities, certificates of ours, passwords, and what refusals say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer
from metrics_pipeline.settings import ClickHouseSettings, Settings, clickhouse_url
from metrics_pipeline.wiring.audit import audit
from tests.system.security.conftest import Pems
from tests.worlds.events import events
from tests.worlds.forwarding import Connect, tcp, tls_proxy
from tests.worlds.pipeline import drain_once, send

EVENTS = 500


@pytest.fixture
def https(clickhouse: ClickHouseServer, pems: Pems) -> Iterator[int]:
    """Wants a certificate of ours."""
    with tls_proxy(_place(clickhouse), pems.server, pems.server_key, pems.authority) as port:
        yield port


def through(settings: Settings, port: int, pems: Pems, user: str = "", **more: Any) -> Settings:
    plain = clickhouse_url(settings)
    url = f"https://{user}127.0.0.1:{port}/{plain.rsplit('/', 1)[1]}"
    values = {"ca_file": pems.authority, "certificate_file": pems.client, "key_file": pems.client_key}
    made = ClickHouseSettings(url=SecretStr(url), **(values | more))
    return settings.model_copy(update={"clickhouse": made})


def test_a_drain_lands_all_over_tls(settings: Settings, https: int, pems: Pems) -> None:
    send(settings, events(EVENTS, seed=1))
    secured = through(settings, https, pems)
    assert drain_once(secured).inserted == EVENTS
    assert audit(secured).problems == ()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ca_file": None}, "METRICS_CLICKHOUSE__CA_FILE"),
        ({"certificate_file": None, "key_file": None}, "METRICS_CLICKHOUSE__CERTIFICATE_FILE"),
        ({"user": "default:guess@"}, "check the user, password"),
        ({"user": "nobody:guess@"}, "check the user, password"),
    ],
    ids=["unknown authority", "no certificate", "password", "user"],
)
def test_a_refusal_says_what_to_do(
    settings: Settings, https: int, pems: Pems, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as refused:
        connect(through(settings, https, pems, **wrong))
    assert "\n" not in str(refused.value)
    assert "guess" not in str(refused.value)


def test_an_expired_certificate_is_refused(settings: Settings, clickhouse: ClickHouseServer, pems: Pems) -> None:
    with (
        tls_proxy(_place(clickhouse), pems.expired, pems.expired_key, None) as port,
        pytest.raises(ConfigurationError, match=r"certificate has expired.*METRICS_CLICKHOUSE__CA_FILE"),
    ):
        connect(through(settings, port, pems))


def _place(clickhouse: ClickHouseServer) -> Connect:
    host, port = clickhouse.url.split("/")[2].split(":")
    return tcp(host, int(port))


def test_files_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ca_file"):
        ClickHouseSettings(ca_file=tmp_path / "nowhere.pem")
