"""Inserts by the owner of what is inserted, which are there when they are acknowledged.

A server notes a token before it adds the part that the token stands for. If it is killed or fails in between, it knows
a token of rows that it does not have, and takes every repeat for one that has landed. So whoever repeats an insert
looks for its rows afterwards, and inserts those that are missing under another token. A partition of a table gets its
rows whole or not at all, so what is missing is the same for all who look.
Source: ClickHouse's `MergeTreeSink`, which calls `addPart` of its log before `renameTempPartAndAdd`.

Views note tokens by themselves: rows that are inserted once more may be counted twice in the rollups, or, where it was
a view's part that got lost, not at all. The check of drift finds and repairs that.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import polars as pl

from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.ports import Warehouse
from metrics_pipeline.errors import ClickHouseUnavailableError
from metrics_pipeline.ledger.entry import LedgerEntry
from metrics_pipeline.runtime.retry import Retry

MAX_ROUNDS = 5
"""A server that breaks off at the same moment this often in a row has another problem."""

_Rows = TypeVar("_Rows", pl.DataFrame, Sequence[LedgerEntry])

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inserting:
    """Of one owner. Not thread-safe: one thread calls it at a time."""

    ownership: Ownership
    retry: Retry

    def as_owner(self, write: Callable[[], None]) -> int:
        """Write, retrying, and only while we are the owner; returns how often it was tried."""
        tries = 0

        def attempt() -> None:
            nonlocal tries
            self.ownership.prove()
            tries += 1
            write()

        self.retry.call(attempt)
        return tries

    def insert(
        self,
        rows: _Rows,
        token: str,
        write: Callable[[_Rows, str], None],
        missing: Callable[[_Rows], _Rows],
        *,
        is_repeat: bool,
    ) -> None:
        """Insert `rows` under `token`, once, and see to it that they are there.

        `missing` are those of the rows that the table does not hold; it is asked only after a repeat. `is_repeat`: an
        earlier run may have tried. Raises ClickHouseUnavailableError if they are still missing after five rounds.
        """
        under = token
        for number in range(1, MAX_ROUNDS + 1):
            tries = self.as_owner(partial(write, rows, under))
            if tries == 1 and not is_repeat:
                return
            rows = self.retry.call(partial(missing, rows))
            if not len(rows):
                return
            under, is_repeat = f"{token}+{number}", True
            logger.error(
                "the server knows batch %s, but lacks %d rows of it: it broke off after it had noted the token. They "
                "are inserted once more; rollups of their minutes may be wrong until the next check of drift",
                token,
                len(rows),
            )
        raise ClickHouseUnavailableError(
            f"{len(rows)} rows of batch {token} were acknowledged {MAX_ROUNDS} times and are not there: look for "
            "deletes in system.mutations and for broken parts in system.detached_parts"
        )

    def insert_entry(self, warehouse: Warehouse, entry: LedgerEntry, *, is_repeat: bool) -> None:
        """Insert a row of the ledger, likewise."""
        self.insert(
            (entry,),
            entry.token,
            lambda _entries, token: warehouse.insert_ledger_entry(entry, token),
            lambda entries: () if warehouse.has_ledger_entry(entry.token) else entries,
            is_repeat=is_repeat,
        )
