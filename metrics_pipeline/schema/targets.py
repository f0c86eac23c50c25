"""Everywhere a schema is: one database without a cluster; with one, two databases on each of its servers.

Statements are run on each server by its own connection, not ON CLUSTER: each is compared with what is wanted, so one
that was away, or is new, gets what it lacks from the next apply, and no queue of statements has to be watched.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.client import connect, connect_to, database_name
from metrics_pipeline.clickhouse.cluster import Server, read_servers, shard_database, storage_of
from metrics_pipeline.ddl.change import Plan
from metrics_pipeline.ddl.migrating import Progress, Works
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.schema import all as schema
from metrics_pipeline.schema import distributed
from metrics_pipeline.settings import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """One database of one server. `server` is None without a cluster; `is_distributed`: of tables over all shards."""

    settings: Settings
    client: Client
    server: Server | None = None
    is_distributed: bool = False

    def plan(self) -> Plan:
        if self.is_distributed:
            return distributed.plan(self.client, self.settings.clickhouse.cluster or "", shard_database(self.settings))
        return schema.plan(self.client, storage_of(self.settings))

    def apply(self, works: Works, progress: Progress, *, allow_destructive: bool) -> Plan:
        if self.is_distributed:
            cluster = self.settings.clickhouse.cluster or ""
            return distributed.apply(self.client, cluster, shard_database(self.settings), progress)
        return schema.apply(
            self.client, storage_of(self.settings), allow_destructive=allow_destructive, works=works, progress=progress
        )

    def named(self, plan: Plan) -> Plan:
        """What it changes, with where."""
        if self.server is None:
            return plan
        where = self.server.name if self.is_distributed else f"{self.server.name}, shard {self.server.shard}"
        return Plan(tuple(replace(change, object=f"{where}: {change.object}") for change in plan.changes))


def plan_everywhere(settings: Settings) -> Plan:
    with _targets(settings) as targets:
        return _joined(target.named(target.plan()) for target in targets)


def apply_everywhere(
    settings: Settings,
    works_of: Callable[[Client], Works] = lambda _client: {},
    expected_hash: str = "",
    *,
    allow_destructive: bool = False,
    progress: Progress = lambda _words: None,
) -> Plan:
    """Bring all servers to the wanted schema; returns what was planned. `works_of` one shard, given its own tables.

    Harmless when repeated, interrupted or run twice at once. Where a hash is expected, raises ConfigurationError if
    another plan is needed by now; that nothing is left to do is fine.
    """
    with _targets(settings) as targets:
        if expected_hash:
            wanted = _joined(target.named(target.plan()) for target in targets)
            if not wanted.is_empty and wanted.hash != expected_hash:
                raise ConfigurationError(
                    "the server, or this version, is not what the plan was made for: run `metrics-pipeline schema "
                    "plan` again and look at what it says"
                )
        return _joined(
            target.named(target.apply(works_of(target.client), progress, allow_destructive=allow_destructive))
            for target in targets
        )


@contextmanager
def _targets(settings: Settings) -> Iterator[tuple[Place, ...]]:
    """The shards' own tables first: what is spread over them can't ask for a column that they lack."""
    with ExitStack() as stack:
        if settings.clickhouse.cluster is None:
            yield (Place(settings, stack.enter_context(connect(settings))),)
            return
        servers = read_servers(settings, all_of_them=True)
        databases = ((shard_database(settings), False), (database_name(settings), True))
        yield tuple(
            Place(settings, stack.enter_context(connect_to(settings, server.url, database)), server, is_distributed)
            for database, is_distributed in databases
            for server in servers
        )


def _joined(plans: Iterator[Plan]) -> Plan:
    return Plan(tuple(change for plan in plans for change in plan.changes))
