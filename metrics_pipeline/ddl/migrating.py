"""Carrying out a plan: one change after the other, each of which may be repeated, and begun by several at once.

Nothing is noted anywhere: what is still to be done is what the server still lacks. A mutation that was begun goes on in
the server by itself, is found again there, and is not begun twice.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import run_command
from metrics_pipeline.ddl.change import Change, Phase, Plan, Way, Work
from metrics_pipeline.ddl.live import LiveSchema, Mutation
from metrics_pipeline.errors import ConfigurationError, PipelineError, RetryableError

ATTEMPTS = 3
"""Of a statement that another apply may have disturbed."""
STALLED_SECONDS = 1_800
"""A mutation of which no part is finished for so long is given up; the server goes on with it."""
_POLL_SECONDS = 0.2
_SETTINGS = {
    # Mutations are awaited by looking, since an answer may take longer than a request may.
    "alter_sync": 0,
    "mutations_sync": 0,
    # Old rows go when their parts are merged: nothing is rewritten at once.
    "materialize_ttl_after_modify": 0,
}

Progress = Callable[[str], None]
"""Told what is being done, in words."""
Works = Mapping[Work, Callable[[Progress], bool]]
"""How to do what statements alone don't; False where a part has to wait, and the change isn't over. What nobody knows
how to do stays in the plan."""


@dataclass(frozen=True, slots=True)
class Migration:
    """`plan` is asked again where another apply may have been quicker."""

    client: Client
    plan: Callable[[], Plan]
    works: Works
    progress: Progress = lambda _words: None
    sleep: Callable[[float], None] = time.sleep

    def run(self, wanted: Plan, *, allow_destructive: bool = False) -> None:
        """Raises ConfigurationError for a mutation that fails, RetryableError for one that stands still."""
        live = LiveSchema(self.client)
        # One that an interrupted apply began: other changes of the same column have to wait for it.
        self._await(live)
        for phase in Phase:
            for change in wanted.of(phase):
                if not change.refusal and (allow_destructive or not change.destroys):
                    self._make(change, live)

    def _make(self, change: Change, live: LiveSchema) -> None:
        self.progress(f"{change.phase.value}: {change.object}: {change.what}")
        if change.work is Work.FILL_COLUMN:
            self._fill(change, live)
            return
        if change.phase is Phase.MIGRATE and change.work is not Work.NOTHING:
            work = self.works.get(change.work)
            if work is None or not work(self.progress):
                return
        for statement in change.statements:
            self._execute(statement, change, live)
        if change.way is Way.MUTATION:
            self._await(live, change.object.split(".", maxsplit=1)[0])

    def _execute(self, statement: str, change: Change, live: LiveSchema) -> None:
        """What fails because another apply has done it, or is at it, is no failure."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                run_command(self.client, f"changing {change.object}", statement, settings=_SETTINGS)
            except PipelineError:
                if not any(set(change.statements) & set(other.statements) for other in self.plan().changes):
                    return
                if attempt == ATTEMPTS:
                    raise
                self._await(live)
            else:
                return

    def _fill(self, change: Change, live: LiveSchema) -> None:
        """A partition at a time, newest first: others, such as deletes of a replay, wait for one at most."""
        while unfilled := live.unfilled(change.table, change.column):
            id_, size = next(iter(unfilled.items()))
            self.progress(
                f"  partition {id_}: {size.rows:,} rows; {len(unfilled) - 1} partitions and "
                f"{sum(s.rows for s in unfilled.values()) - size.rows:,} rows are left"
            )
            statement = f"{change.statements[0]} IN PARTITION ID '{id_}'"
            if not any(_is_of(m, change, id_) for m in live.mutations()):
                self._execute(statement, change, live)
            self._await(live, change.table)

    def _await(self, live: LiveSchema, table: str = "") -> None:
        """Until no change of a column is under way."""
        left, since = -1, time.monotonic()
        while under_way := [m for m in live.mutations() if table in ("", m.table) and _is_schema(m)]:
            if failing := next((m for m in under_way if m.problem), None):
                raise ConfigurationError(
                    f"a change of {failing.table} fails in the server, which tries it again and again: "
                    f"{failing.problem[:500]}: mend what it says and run `metrics-pipeline schema apply` again, or "
                    f"give it up: KILL MUTATION WHERE mutation_id = '{failing.id}' AND table = '{failing.table}'"
                )
            parts = sum(m.parts_to_do for m in under_way)
            if parts != left:
                left, since = parts, time.monotonic()
            elif time.monotonic() - since > STALLED_SECONDS:
                raise RetryableError(
                    f"the server has finished no part of {under_way[0].table} in {STALLED_SECONDS} s, {parts} are "
                    "left: look at system.mutations and system.merges, then run `metrics-pipeline schema apply` again"
                )
            self.sleep(_POLL_SECONDS)


def _is_schema(mutation: Mutation) -> bool:
    command = mutation.command.lstrip("(")
    return command.startswith(("MATERIALIZE COLUMN", "MODIFY COLUMN", "DROP COLUMN"))


def _is_of(mutation: Mutation, change: Change, partition_id: str) -> bool:
    return (
        mutation.table == change.table
        and mutation.command.lstrip("(").replace("`", "").startswith(f"MATERIALIZE COLUMN {change.column} ")
        and f"'{partition_id}'" in mutation.command
    )
