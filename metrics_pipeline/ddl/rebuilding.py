"""A table of another shape in the place of one that is in use, while others write to it.

    shadow, feed  ->  copy, a partition at a time  ->  look again until nothing differs  ->  exchange  ->  drop the feed

What is copied is looked up in the shadow, so an interrupted copy goes on where it was, and two at once do the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.ddl.same import canonical
from metrics_pipeline.ddl.shadow import CLAIM, FEED, Shadow
from metrics_pipeline.errors import PipelineError, RetryableError

ROUNDS = 20
"""Of looking for what differs: rows that are written over and over never stay equal."""
CLAIM_SECONDS = 0.2
CLAIM_TRIES = 300
"""A minute: for whoever exchanges the tables, and looks for rows that are left."""
ABANDONED_SECONDS = 600
"""An exchange takes milliseconds: a claim that is older is that of an apply that was killed."""


class Rebuild:
    """One table."""

    def __init__(
        self, client: Client, shadow: Shadow, progress: Callable[[str], None], sleep: Callable[[float], None]
    ) -> None:
        self._sleep = sleep
        self._client = client
        self._shadow = shadow
        self._table = shadow.wanted.name
        self._progress = progress

    def run(self) -> None:
        """Raises RetryableError where the rows change all the time, or another apply doesn't come to its end."""
        if self._is_done():
            return
        for statement in self._shadow.creation:
            self._do(f"creating {self._shadow.name}", statement)
        self._fill()
        with self._claimed():
            is_done = self._is_done()
            if not is_done:
                self._progress(f"  {self._shadow.name} takes the place of {self._table}")
                self._do(f"exchanging {self._table} and {self._shadow.name}", self._shadow.exchange)
            self._do(f"dropping the feed of {self._shadow.name}", f"DROP VIEW IF EXISTS {self._table}{FEED}")
            if not is_done:
                self._do(f"looking for rows that only {self._shadow.name} has", self._shadow.leftovers)

    def _fill(self) -> None:
        for _ in range(ROUNDS):
            differing = [id_ for id_ in self._partitions() if not self._is_done() and self._differing(id_)]
            if not differing:
                return
            for number, id_ in enumerate(differing, 1):
                self._progress(f"  partition {id_}, {number} of {len(differing)}")
                self._do(f"copying partition {id_} of {self._table}", self._shadow.copy, id=id_)
        raise RetryableError(
            f"rows of {self._table} changed in each of {ROUNDS} looks: run `metrics-pipeline schema apply` again "
            "when less is written to it"
        )

    def _partitions(self) -> list[str]:
        """Newest first."""
        sql = """SELECT DISTINCT partition_id FROM system.parts
            WHERE active AND database = currentDatabase() AND table = {table:String} ORDER BY 1 DESC"""
        return [str(row[0]) for row in self._rows(f"listing partitions of {self._table}", sql, table=self._table)]

    def _differing(self, id_: str) -> int:
        return int(self._rows(f"comparing partition {id_} of {self._table}", self._shadow.count, id=id_)[0][0])

    def _is_done(self) -> bool:
        sql = """SELECT partition_key, sorting_key FROM system.tables
            WHERE database = currentDatabase() AND name = {table:String}"""
        ((partition_by, order_by),) = self._rows(f"looking at {self._table}", sql, table=self._table)
        wanted = self._shadow.wanted
        return canonical(partition_by or "tuple()") == canonical(wanted.partition_by) and canonical(
            order_by
        ) == canonical(", ".join(wanted.order_by))

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Exchanging twice would bring the table from before back, so one does it after the other, and looks."""
        claim = self._table + CLAIM
        for _ in range(CLAIM_TRIES):
            if self._claim(claim):
                break
            self._sleep(CLAIM_SECONDS)
        else:
            raise RetryableError(
                f"another `schema apply` is exchanging {self._table}, or was killed while it did: run it again, within "
                f"{ABANDONED_SECONDS} s it goes on by itself"
            )
        try:
            yield
        finally:
            self._do(f"dropping {claim}", f"DROP TABLE IF EXISTS {claim}")

    def _claim(self, claim: str) -> bool:
        sql = """SELECT dateDiff('second', metadata_modification_time, now()) FROM system.tables
            WHERE database = currentDatabase() AND name = {claim:String}"""
        age = self._rows(f"looking for {claim}", sql, claim=claim)
        if age and int(age[0][0]) > ABANDONED_SECONDS:
            self._do(f"dropping the abandoned {claim}", f"DROP TABLE IF EXISTS {claim}")
        elif age:
            return False
        try:
            self._do(f"creating {claim}", f"CREATE TABLE {claim} (at DateTime) ENGINE = Memory")
        except PipelineError:
            if self._rows(f"looking for {claim}", sql, claim=claim):
                return False
            raise
        return True

    def _rows(self, doing: str, sql: str, **parameters: str) -> list[tuple[Any, ...]]:
        return calling(doing, lambda: [tuple(row) for row in self._client.query(sql, parameters).result_rows])

    def _do(self, doing: str, sql: str, **parameters: str) -> None:
        settings = {"max_partitions_per_insert_block": 1_000, "max_threads": 1}
        calling(doing, partial(self._client.command, sql, parameters=parameters, settings=settings))
