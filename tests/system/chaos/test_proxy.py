"""The proxy in front of a real server: it passes on what it must, and misbehaves as it says."""

from collections.abc import Iterator

import pytest
from clickhouse_connect.driver.client import Client
from pydantic import SecretStr

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.errors import ClickHouseUnavailableError, ConfigurationError
from metrics_pipeline.lab.chaos.proxy import Answer, Exchange, Proxy, Request, error_answer, inserts_into
from metrics_pipeline.lab.chaos.staging import altered
from metrics_pipeline.settings import Settings, clickhouse_url


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    made = Proxy(clickhouse_url(settings))
    yield made
    made.close()


@pytest.fixture
def through(settings: Settings, proxy: Proxy) -> Iterator[Client]:
    """A client whose way leads through the proxy."""
    own = {"url": SecretStr(proxy.url), "request_timeout_seconds": 3.0}
    with connect(altered(settings, clickhouse=own)) as client:
        client.command("CREATE TABLE numbers (n UInt64) ENGINE = MergeTree ORDER BY n")
        yield client


def insert(client: Client) -> None:
    rows = b"\n".join(str(n).encode() for n in range(100_000)) + b"\n"
    calling("inserting", lambda: client.raw_insert("numbers", ["n"], rows, fmt="TSV"))


def stored(settings: Settings) -> int:
    with connect(settings) as client:
        return int(client.query("SELECT count() FROM numbers").result_rows[0][0])


def test_what_nothing_is_wrong_with_passes(settings: Settings, through: Client) -> None:
    insert(through)
    assert through.query("SELECT count(), max(n) FROM numbers").result_rows == [(100_000, 99_999)]


def test_errors_of_the_server_pass_and_are_counted(proxy: Proxy, through: Client) -> None:
    with pytest.raises(Exception, match="UNKNOWN_TABLE"):
        through.query("SELECT * FROM nowhere")
    assert proxy.errors[60] == 1


@pytest.mark.parametrize(("code", "error"), [(252, ClickHouseUnavailableError), (497, ConfigurationError)])
def test_an_injected_error_is_read_like_the_servers(
    settings: Settings, proxy: Proxy, through: Client, code: int, error: type[Exception]
) -> None:
    with (
        proxy.misbehaving(inserts_into("numbers"), lambda _: error_answer(code)) as hits,
        pytest.raises(error, match=str(code)),
    ):
        insert(through)
    assert (hits.count, stored(settings)) == (1, 0)


def test_a_lost_answer_leaves_what_was_committed(settings: Settings, proxy: Proxy, through: Client) -> None:
    def lose(exchange: Exchange) -> Answer | None:
        exchange.forward()
        return None

    with proxy.misbehaving(Request.is_insert, lose), pytest.raises(ClickHouseUnavailableError):
        insert(through)
    assert stored(settings) > 0


def test_a_broken_request_leaves_nothing(settings: Settings, proxy: Proxy, through: Client) -> None:
    def break_off(exchange: Exchange) -> Answer | None:
        exchange.break_off(0.5)
        return None

    with proxy.misbehaving(Request.is_insert, break_off), pytest.raises(ClickHouseUnavailableError):
        insert(through)
    assert stored(settings) == 0


def test_only_what_matches_is_met(proxy: Proxy, through: Client) -> None:
    with proxy.misbehaving(inserts_into("others"), lambda _: error_answer(252)) as hits:
        insert(through)
    assert hits.count == 0
