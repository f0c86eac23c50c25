"""A ClickHouse server on this machine, loopback only."""

import os
from collections.abc import Mapping
from pathlib import Path

from metrics_pipeline.lab.local.fetch import ClickHouseProgram
from metrics_pipeline.lab.local.process import Engine, answers_http, await_answer, choose_port, spawn

_START_SECONDS = 60
_FOREVER = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(3) FROM system.numbers FORMAT Null "
    "SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 100000000000"
)
"""The library has no server mode of its own: this query opens the listeners and keeps the process alive."""


class ClickHouseServer(Engine):
    @property
    def url(self) -> str:
        return self.address


def start_clickhouse(
    program: ClickHouseProgram,
    folder: Path,
    *,
    preferred_port: int | None = None,
    preferred_tcp_port: int | None = None,
    config: Mapping[str, str] | None = None,
) -> ClickHouseServer:
    """Start a server whose data live in `folder`, and wait until it answers. Raises LocalEngineError.

    `config` holds further XML elements of the server's configuration, name to content.
    """
    folder.mkdir(parents=True, exist_ok=True)
    http_port, tcp_port = choose_port(preferred_port), choose_port(preferred_tcp_port)
    options = {**_CONFIG, "http_port": str(http_port), "tcp_port": str(tcp_port), **(config or {})}
    elements = "".join(f"  <{name}>{content}</{name}>\n" for name, content in options.items())
    (folder / "config.xml").write_text(f"<clickhouse>\n{elements}</clickhouse>\n")
    (folder / "users.xml").write_text(_USERS)
    data = folder / "data"
    if program.is_library:
        flags = [
            f"--config-file={folder / 'config.xml'}",
            f"--path={data}",
            "--listen_host=127.0.0.1",
            f"--http_port={http_port}",
            f"--tcp_port={tcp_port}",
            "--multiquery",
            f"--query={_FOREVER}",
        ]
    else:
        flags = [f"--config-file={folder / 'config.xml'}", "--", f"--path={data}/"]
    process = spawn("clickhouse", [*program.command, *flags], folder, os.environ | {"CLICKHOUSE_WATCHDOG_ENABLE": "0"})
    await_answer(process, lambda: answers_http(f"http://127.0.0.1:{http_port}/ping"), _START_SECONDS)
    return ClickHouseServer(process, f"http://127.0.0.1:{http_port}/default")


_CONFIG = {
    # With a log or a console named here the library ignores the level and writes 300 lines a second.
    "logger": "<level>warning</level>",
    "listen_host": "127.0.0.1",
    "users_config": "users.xml",
    "max_server_memory_usage_to_ram_ratio": "0.5",
    "mark_cache_size": str(256 << 20),
    "max_concurrent_queries": "100",
    "background_pool_size": "2",
    "background_merges_mutations_concurrency_ratio": "1",
    "background_schedule_pool_size": "8",
    **{
        table: f"<database>system</database><table>{table}</table>"
        f"<flush_interval_milliseconds>{flush_ms}</flush_interval_milliseconds><ttl>event_date + INTERVAL 1 DAY</ttl>"
        for table, flush_ms in {"query_log": 1_000, "asynchronous_metric_log": 7_000}.items()
    },
}

_USERS = """<clickhouse>
  <profiles><default><log_queries>1</log_queries></default></profiles>
  <quotas><default/></quotas>
  <users>
    <default>
      <password></password>
      <networks><ip>127.0.0.1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
    </default>
  </users>
</clickhouse>
"""
