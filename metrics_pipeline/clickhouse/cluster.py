"""The servers of a cluster, and connections to their own tables. Without a cluster there is one shard of one server."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import SHARD_SUFFIX, connect, connect_to, database_name
from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.clickhouse.storage import Storage
from metrics_pipeline.errors import ClickHouseUnavailableError, ConfigurationError
from metrics_pipeline.settings import Settings, clickhouse_url

MAX_SERVERS = 1_000


@dataclass(frozen=True, slots=True)
class Server:
    """One replica of one shard, both numbered from 1."""

    shard: int
    replica: int
    url: str

    @property
    def name(self) -> str:
        """For people; without the account."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def shard_database(settings: Settings) -> str:
    """Where a server's own tables are."""
    name = database_name(settings)
    return name if settings.clickhouse.cluster is None else name + SHARD_SUFFIX


def storage_of(settings: Settings) -> Storage:
    """How a server's own tables are kept."""
    clickhouse = settings.clickhouse
    is_replicated = clickhouse.cluster is not None and clickhouse.replicated
    return Storage(clickhouse.deduplication_window_blocks, is_replicated, shard_database(settings))


@contextmanager
def connect_shards(settings: Settings, **server_settings: Any) -> Iterator[tuple[Client, ...]]:
    """Connections to one server of each shard, the first that answers; the shard with the ledger comes first.

    Raises ClickHouseUnavailableError where no server of a shard answers, ConfigurationError where there is no such
    cluster.
    """
    with ExitStack() as stack:
        if settings.clickhouse.cluster is None:
            yield (stack.enter_context(connect(settings, **server_settings)),)
            return
        of_shards = groupby(read_servers(settings), key=lambda server: server.shard)
        yield tuple(
            stack.enter_context(_first_to_answer(settings, list(servers), server_settings)) for _, servers in of_shards
        )


def _first_to_answer(settings: Settings, servers: list[Server], server_settings: Mapping[str, Any]) -> Client:
    for server in servers[:-1]:
        try:
            return connect_to(settings, server.url, shard_database(settings), **server_settings)
        except ClickHouseUnavailableError:
            continue
    return connect_to(settings, servers[-1].url, shard_database(settings), **server_settings)


def read_servers(settings: Settings, *, all_of_them: bool = False) -> tuple[Server, ...]:
    """The servers of the cluster, in the order of their shards and replicas.

    A server that the settings name and that does not answer is left out; with `all_of_them` it raises
    ClickHouseUnavailableError.

    Raises ConfigurationError if the server that is asked knows no such cluster, or the settings name other servers.
    """
    clickhouse = settings.clickhouse
    sql = """SELECT shard_num, replica_num, host_name FROM system.clusters WHERE cluster = {cluster:String}
        ORDER BY shard_num, replica_num LIMIT {limit:UInt32}"""
    parameters = {"cluster": clickhouse.cluster, "limit": MAX_SERVERS}
    with connect(settings) as client:
        rows = query_rows(client, "reading the cluster", sql, parameters)
    if not rows:
        raise ConfigurationError(
            f"the server knows no cluster {clickhouse.cluster}: add it to remote_servers of its configuration, or set "
            "METRICS_CLICKHOUSE__CLUSTER to one that SELECT cluster FROM system.clusters lists"
        )
    if not clickhouse.servers:
        return tuple(Server(int(shard), int(replica), _with_host(settings, str(host))) for shard, replica, host in rows)
    named, silent = list[Server](), list[Server]()
    for url in clickhouse.servers:
        try:
            named.append(_place_of(settings, url.get_secret_value()))
        except ClickHouseUnavailableError:
            if all_of_them:
                raise
            silent.append(Server(0, 0, url.get_secret_value()))
    missing = {int(shard) for shard, *_ in rows} - {server.shard for server in named}
    if missing and silent:
        raise ClickHouseUnavailableError(
            f"no server of shard {min(missing)} of the cluster {clickhouse.cluster} answers: is {silent[0].name} up?"
        )
    if missing:
        raise ConfigurationError(
            f"METRICS_CLICKHOUSE__SERVERS names no server of shard {min(missing)}: name all servers of the cluster "
            f"{clickhouse.cluster}"
        )
    return tuple(sorted(named, key=lambda server: (server.shard, server.replica)))


def _place_of(settings: Settings, url: str) -> Server:
    """The server at this URL, with the shard and replica that it says it is."""
    sql = "SELECT shard_num, replica_num FROM system.clusters WHERE cluster = {cluster:String} AND is_local"
    server = Server(0, 0, url)
    with connect_to(settings, url, "system") as client:
        rows = query_rows(client, f"asking {server.name} for its shard", sql, {"cluster": settings.clickhouse.cluster})
    if not rows:
        raise ConfigurationError(
            f"METRICS_CLICKHOUSE__SERVERS: {server.name} is no server of the cluster {settings.clickhouse.cluster}, "
            "by its own remote_servers"
        )
    return Server(int(rows[0][0]), int(rows[0][1]), url)


def _with_host(settings: Settings, host: str) -> str:
    parts = urlsplit(clickhouse_url(settings))
    account, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{account}{at}{host}{port}").geturl()
