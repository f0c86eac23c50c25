"""A connection to ClickHouse, configured for this pipeline."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.settings import Settings, clickhouse_url

SHARD_SUFFIX = "_shard"
"""Suffix of the database with a shard's own tables, where there is a cluster."""

_SERVER_SETTINGS = {
    # The views of rollups read rollup_builds twice in one query, and rely on reading the same rows.
    "enable_shared_storage_snapshot_in_query": 1,
}
_CLUSTER_SETTINGS = {
    # An insert is acknowledged once each shard has its rows.
    "distributed_foreground_insert": 1,
    # A query within a query asks the same shard: what belongs together is on one, see schema/distributed.py.
    "distributed_product_mode": "local",
    # Half an answer would be a wrong one.
    "skip_unavailable_shards": 0,
}
_REPLICA_SETTINGS = {
    # An acknowledged insert is on most replicas, and look-ups ask a replica that has all of them.
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
    "select_sequential_consistency": 1,
    # Deletes of replays name the rows by a query, which replicas refuse otherwise.
    "allow_nondeterministic_mutations": 1,
}


def connect(settings: Settings, **server_settings: Any) -> Client:
    """Open a client for `settings.clickhouse.url`; it may be used by several threads at once.

    Raises ClickHouseUnavailableError if nothing answers, ConfigurationError if the account is refused.
    """
    return connect_to(settings, clickhouse_url(settings), database_name(settings), **server_settings)


def connect_to(settings: Settings, address: str, database: str, **server_settings: Any) -> Client:
    """Likewise, for another server or database than those of `settings.clickhouse.url`."""
    url = urlsplit(address)
    of_cluster: dict[str, Any] = {}
    if settings.clickhouse.cluster is not None:
        of_cluster = _CLUSTER_SETTINGS | (_REPLICA_SETTINGS if settings.clickhouse.replicated else {})
    secure = url.scheme == "https"
    return calling(
        f"connecting to ClickHouse at {url.hostname}:{url.port or ''}",
        lambda: clickhouse_connect.get_client(
            host=url.hostname or "",
            port=url.port or (8443 if secure else 8123),
            secure=secure,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password or ""),
            database=database,
            autogenerate_session_id=False,
            client_name="metrics-pipeline",
            ca_cert=_path(settings.clickhouse.ca_file),
            client_cert=_path(settings.clickhouse.certificate_file),
            client_cert_key=_path(settings.clickhouse.key_file),
            # The certificate encrypts, the account of the URL logs in: without this, the client sends no password.
            tls_mode="strict",
            connect_timeout=10,
            send_receive_timeout=settings.clickhouse.request_timeout_seconds,
            query_retries=0,
            settings={**_SERVER_SETTINGS, **of_cluster, **server_settings},
        ),
    )


def database_name(settings: Settings) -> str:
    """The database that the URL names; `default` without one."""
    return urlsplit(clickhouse_url(settings)).path.strip("/") or "default"


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)
