"""Settings with values that are easy to get wrong: refused in a line that names them, and tells no part of a secret."""

import json
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.setting_values import OWN_OPTIONS, URL_SHAPE, checked_options, checked_url
from metrics_pipeline.settings import load_settings


@pytest.mark.parametrize("setting", ["METRICS_CLICKHOUSE__URL", "METRICS_CLICKHOUSE__SERVERS"])
@pytest.mark.parametrize(
    "url",
    [
        "http://writer:Sesame#Tr0ub4dor@127.0.0.1:8123/metrics",
        "http://writer:Sesame/Tr0ub4dor@127.0.0.1:8123/metrics",
        "http://writer:Sesame?Tr0ub4dor@127.0.0.1:8123/metrics",
        "http://writer:Sesame[Tr0ub4dor@127.0.0.1:8123/metrics",
        # Without the check these would be asked for as port 12 of the host `writer`.
        "http://writer:12#Sesame@127.0.0.1:8123/metrics",
        "http://writer:12/Sesame@127.0.0.1:8123/metrics",
        "http://writer:Sesame@127.0.0.1:81234/metrics",
        "http://writer:Sesame@127.0.0.1:http/metrics",
        "http://writer:Sesame@127.0.0.1:8123/proxied/metrics",
        "http://writer:Sesame@127.0.0.1:8123?database=metrics",
        "clickhouse://writer:Sesame@127.0.0.1:9000/metrics",
        "127.0.0.1:8123",
        "http:///metrics",
    ],
)
def test_a_url_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, setting: str, url: str) -> None:
    monkeypatch.setenv(setting, json.dumps([url]) if setting.endswith("SERVERS") else url)
    monkeypatch.setenv("METRICS_CLICKHOUSE__CLUSTER", "events")
    with pytest.raises(ConfigurationError, match=setting) as refused:
        load_settings()
    assert URL_SHAPE in str(refused.value)
    assert not any(part in str(refused.value) for part in ("Sesame", "Tr0ub4dor", "12#"))


@given(st.text(), st.text(), st.integers(1, 65_535))
def test_any_user_and_password_can_be_written_in_a_url(user: str, password: str, port: int) -> None:
    user, password = (text.encode(errors="replace").decode() for text in (user, password))
    url = checked_url(f"https://{quote(user, safe='')}:{quote(password, safe='')}@clickhouse.example:{port}/metrics")
    parts = urlsplit(url)
    assert (parts.hostname, parts.port) == ("clickhouse.example", port)
    assert (unquote(parts.username or ""), unquote(parts.password or "")) == (user, password)


@given(st.text())
def test_no_text_makes_a_url_fail_otherwise(text: str) -> None:
    try:
        parts = urlsplit(checked_url(text))
    except ValueError as refused:
        assert str(refused) == URL_SHAPE  # noqa: PT017 - most texts are refused, not all
    else:
        assert parts.hostname
        assert parts.port is None or parts.port > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("socket.timeout.ms=60000", "must be a JSON object"),
        ("[1]", "must be a JSON object"),
        ('{"socket.timeout.ms": null}', "socket.timeout.ms must be a text"),
        ('{"socket.timeout.ms": {"a": "hidden"}}', "socket.timeout.ms must be a text"),
        *((json.dumps({name: "hidden"}), f"{name} is the pipeline's own: remove it") for name in OWN_OPTIONS),
    ],
)
def test_wrong_options_of_the_client_are_refused(monkeypatch: pytest.MonkeyPatch, options: str, said: str) -> None:
    monkeypatch.setenv("METRICS_KAFKA__OPTIONS", options)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value).startswith(f"wrong settings:\n  METRICS_KAFKA__OPTIONS: {said}")
    assert "hidden" not in str(refused.value)


def test_an_option_of_ours_is_refused_as_a_variable_of_its_own_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA__OPTIONS__group.id", "team")
    with pytest.raises(ConfigurationError, match=r"METRICS_KAFKA__OPTIONS: group\.id is the pipeline's own"):
        load_settings()


def test_numbers_and_booleans_of_options_become_texts() -> None:
    options = {"socket.timeout.ms": 60_000, "socket.keepalive.enable": True, "x": 0.5, "client.rack": "a"}
    texts = {"socket.timeout.ms": "60000", "socket.keepalive.enable": "true", "x": "0.5", "client.rack": "a"}
    assert checked_options(json.dumps(options)) == texts
    assert checked_options(options) == texts


def test_a_part_that_is_meant_as_json_and_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA", '{"topic": "orders"')
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == "wrong settings:\n  METRICS_KAFKA: must be JSON"
