"""Faults of ClickHouse: killed, refusing, silent, cut off; at the server itself, or at the proxy in front of it."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from random import Random

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.lab.chaos.proxy import Answer, Exchange, Request, error_answer, inserts_into
from metrics_pipeline.lab.chaos.world import HIT_SECONDS, World
from metrics_pipeline.ledger.tables import BATCHES
from metrics_pipeline.rollups.tables import ROLLUP_1M

_PASSING_ERRORS = (159, 202, 210, 241, 252, 999)
_ACCOUNT_ERRORS = (497, 516)
_TOO_MANY_BYTES = 1 << 60
_WRITTEN = (RAW_EVENTS.name, ROLLUP_1M.name, DEAD_LETTERS.name, BATCHES.name)


def kill(world: World, rng: Random) -> str:
    """kill -9 of the server at any moment, then a restart."""
    server = world.need_engines().clickhouse
    world.hold(rng.uniform(0, 0.5))
    server.kill()
    return world.come_back(server, rng)


def kill_mid_insert(world: World, rng: Random) -> str:
    """kill -9 of the server some milliseconds after it got an insert: raw may be there, the rollup not yet."""
    server = world.need_engines().clickhouse
    delay_seconds = rng.uniform(0, 0.015)
    begun, killed = threading.Lock(), threading.Event()

    def kill_once() -> None:
        if begun.acquire(blocking=False):
            time.sleep(delay_seconds)
            server.kill()
            # Only now: a server that is started before the other one is dead finds its port and its folder taken.
            killed.set()

    with world.proxy.misbehaving(inserts_into(RAW_EVENTS.name), lambda exchange: exchange.forward(kill_once)):
        world.await_that(killed.is_set, HIT_SECONDS, "nothing was inserted")
        said = world.come_back(server, rng)
    return f"{1000 * delay_seconds:.1f} ms after the request; {said}"


def answer_errors(world: World, rng: Random) -> str:
    """Requests fail with an error that passes: too many parts, memory, queries, a timeout, Keeper, the network."""
    return _answer_with(world, rng, rng.choice(_PASSING_ERRORS))


def refuse_account(world: World, rng: Random) -> str:
    """The account may no longer do what it must: a run stops instead of waiting."""
    return _answer_with(world, rng, rng.choice(_ACCOUNT_ERRORS))


def _answer_with(world: World, rng: Random, code: int) -> str:
    matches = rng.choice((_any_request, Request.is_insert, *map(inserts_into, (RAW_EVENTS.name, BATCHES.name))))
    share = rng.choice((0.3, 1.0))

    def misbehave(exchange: Exchange) -> Answer:
        return error_answer(code) if rng.random() < share else exchange.forward()

    hits = world.misbehave(matches, misbehave, rng.uniform(0.5, 2.5))
    return f"code {code}, {hits} requests, {share:.0%} of them failed"


def hang(world: World, rng: Random) -> str:
    """No answer, for longer than a request may take; the server may have done the work or not."""
    is_done = rng.random() < 0.5
    limit_seconds = world.settings.clickhouse.request_timeout_seconds

    def misbehave(exchange: Exchange) -> None:
        if is_done:
            exchange.forward()
        world.hold(limit_seconds + 1)

    hits = world.misbehave(_any_request, misbehave, limit_seconds * rng.uniform(0.5, 1.3))
    return f"{hits} requests, {'done' if is_done else 'not done'} by the server"


def lose_answers(world: World, rng: Random) -> str:
    """The connection breaks after the server has committed, before its answer arrives."""

    def misbehave(exchange: Exchange) -> None:
        exchange.forward()

    return f"{world.misbehave(Request.is_insert, misbehave, rng.uniform(0.2, 1.5))} inserts"


def break_requests(world: World, rng: Random) -> str:
    """The connection breaks in the middle of a request."""
    longer_seconds = rng.uniform(0.2, 1.5)
    hits = world.misbehave(Request.is_insert, lambda exchange: exchange.break_off(rng.random()), longer_seconds)
    return f"{hits} inserts"


def slow_down(world: World, rng: Random) -> str:
    """Every answer takes long, but arrives."""
    delay_seconds = rng.uniform(0.3, 0.9) * world.settings.clickhouse.request_timeout_seconds

    def misbehave(exchange: Exchange) -> Answer:
        answer = exchange.forward()
        world.hold(delay_seconds)
        return answer

    return f"{world.misbehave(_any_request, misbehave, rng.uniform(1.0, 4.0))} answers, {delay_seconds:.1f} s each"


def _refusing(
    sentence: str, code: int, tables: Sequence[str], *changes: tuple[str, str]
) -> Callable[[World, Random], str]:
    """The server itself refuses something of a table, with its error `code`.

    `changes` are what makes it do so, and what undoes that: statements with the table's name left out.
    """

    def inject(world: World, rng: Random) -> str:
        table, errors = rng.choice(tables), world.proxy.errors
        with connect(world.settings) as client, ExitStack() as stack:
            for change, back in changes:
                client.command(change.format(table=table))
                stack.callback(client.command, back.format(table=table))
            before = errors[code]
            world.await_that(lambda: errors[code] > before, HIT_SECONDS, "the server refused nothing")
            world.hold(rng.uniform(0.3, 2.5))
            return f"{table}: the server answered {errors[code] - before} times with code {code}"

    inject.__doc__ = sentence
    return inject


run_out_of_disk = _refusing(
    "The server refuses inserts into a table for lack of space on its disk (its own error 243).",
    243,
    _WRITTEN,
    (
        f"ALTER TABLE {{table}} MODIFY SETTING min_free_disk_bytes_to_perform_insert = {_TOO_MANY_BYTES}",
        "ALTER TABLE {table} RESET SETTING min_free_disk_bytes_to_perform_insert",
    ),
)
pile_up_parts = _refusing(
    'Merges stop, and the server throws its own "too many parts" (252).',
    252,
    (RAW_EVENTS.name, ROLLUP_1M.name, BATCHES.name),
    ("SYSTEM STOP MERGES {table}", "SYSTEM START MERGES {table}"),
    (
        "ALTER TABLE {table} MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1",
        "ALTER TABLE {table} RESET SETTING parts_to_delay_insert, parts_to_throw_insert",
    ),
)
lose_table = _refusing(
    "A table is missing for a while.",
    60,
    # Never raw_events nor the view: an insert without the view would succeed and never be counted in the rollup.
    # Without the view's target every insert fails before it begins.
    (ROLLUP_1M.name, BATCHES.name, DEAD_LETTERS.name),
    ("RENAME TABLE {table} TO {table}_away", "RENAME TABLE {table}_away TO {table}"),
)
make_read_only = _refusing(
    "A table takes no writes (the server's own error 774).",
    774,
    _WRITTEN,
    ("ALTER TABLE {table} MODIFY SETTING table_readonly = 1", "ALTER TABLE {table} RESET SETTING table_readonly"),
)


def _any_request(_request: Request) -> bool:
    return True
