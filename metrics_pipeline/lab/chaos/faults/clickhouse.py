"""Faults of ClickHouse: killed, refusing, silent, cut off; at the server itself, or at the proxy in front of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from metrics_pipeline.delivery.tables import DEAD_LETTERS, RAW_EVENTS
from metrics_pipeline.lab.chaos.engines import OwnEngines
from metrics_pipeline.lab.chaos.proxy import Answer, Exchange, Request, error_answer
from metrics_pipeline.lab.chaos.world import World
from metrics_pipeline.ledger.tables import BATCHES
from metrics_pipeline.rollups.tables import ROLLUP_1M

_HIT_SECONDS = 10.0
"""A request of the wanted kind comes within this time."""
_PASSING_ERRORS = (159, 202, 210, 241, 252, 999)
_ACCOUNT_ERRORS = (497, 516)
_TOO_MANY_BYTES = 1 << 60
_REFUSED_SECONDS = 10.0
_NO_TABLE, _NO_SPACE, _TOO_MANY_PARTS, _READ_ONLY = 60, 243, 252, 774
_WRITTEN = (RAW_EVENTS.name, ROLLUP_1M.name, DEAD_LETTERS.name, BATCHES.name)


def kill(world: World, rng: Random) -> str:
    """kill -9 of the server at any moment, then a restart."""
    engines = world.need_engines()
    world.hold(rng.uniform(0, 0.5))
    engines.kill_clickhouse()
    return _come_back(world, engines, rng)


def kill_mid_insert(world: World, rng: Random) -> str:
    """kill -9 of the server some milliseconds after it got an insert: raw may be there, the rollup not yet."""
    engines = world.need_engines()
    delay_seconds = rng.uniform(0, 0.015)
    killed: list[float] = []

    def kill_when_sent(exchange: Exchange) -> Answer:
        def kill() -> None:
            if not killed:
                killed.append(delay_seconds)
                time.sleep(delay_seconds)
                engines.kill_clickhouse()

        return exchange.forward(kill)

    with world.proxy.misbehaving(_inserts_into(RAW_EVENTS.name), kill_when_sent):
        world.await_that(lambda: bool(killed), _HIT_SECONDS, "nothing was inserted")
        said = _come_back(world, engines, rng)
    return f"{1000 * delay_seconds:.1f} ms after the request; {said}"


def _come_back(world: World, engines: OwnEngines, rng: Random) -> str:
    away_seconds = rng.uniform(0, 2)
    world.hold(away_seconds)
    began = time.monotonic()
    engines.restart_clickhouse()
    return f"away for {away_seconds + time.monotonic() - began:.1f} s"


def answer_errors(world: World, rng: Random) -> str:
    """Requests fail with an error that passes: too many parts, memory, queries, a timeout, Keeper, the network."""
    return _answer_with(world, rng, rng.choice(_PASSING_ERRORS))


def refuse_account(world: World, rng: Random) -> str:
    """The account may no longer do what it must: a run stops instead of waiting."""
    return _answer_with(world, rng, rng.choice(_ACCOUNT_ERRORS))


def _answer_with(world: World, rng: Random, code: int) -> str:
    matches = rng.choice((_any_request, _any_insert, *map(_inserts_into, (RAW_EVENTS.name, BATCHES.name))))
    share = rng.choice((0.3, 1.0))

    def misbehave(exchange: Exchange) -> Answer:
        return error_answer(code) if rng.random() < share else exchange.forward()

    with world.proxy.misbehaving(matches, misbehave) as hits:
        world.await_hits(hits, _HIT_SECONDS)
        world.hold(rng.uniform(0.5, 2.5))
    return f"code {code}, {hits.count} requests, {share:.0%} of them failed"


def hang(world: World, rng: Random) -> str:
    """No answer, for longer than a request may take; the server may have done the work or not."""
    is_done = rng.random() < 0.5
    limit_seconds = world.settings.clickhouse.request_timeout_seconds

    def misbehave(exchange: Exchange) -> Answer | None:
        if is_done:
            exchange.forward()
        world.hold(limit_seconds + 1)
        return None

    with world.proxy.misbehaving(_any_request, misbehave) as hits:
        world.await_hits(hits, _HIT_SECONDS)
        world.hold(limit_seconds * rng.uniform(0.5, 1.3))
    return f"{hits.count} requests, {'done' if is_done else 'not done'} by the server"


def lose_answers(world: World, rng: Random) -> str:
    """The connection breaks after the server has committed, before its answer arrives."""

    def misbehave(exchange: Exchange) -> Answer | None:
        exchange.forward()
        return None

    with world.proxy.misbehaving(_any_insert, misbehave) as hits:
        world.await_hits(hits, _HIT_SECONDS)
        world.hold(rng.uniform(0.2, 1.5))
    return f"{hits.count} inserts"


def break_requests(world: World, rng: Random) -> str:
    """The connection breaks in the middle of a request."""

    def misbehave(exchange: Exchange) -> Answer | None:
        exchange.break_off(rng.random())
        return None

    with world.proxy.misbehaving(_any_insert, misbehave) as hits:
        world.await_hits(hits, _HIT_SECONDS)
        world.hold(rng.uniform(0.2, 1.5))
    return f"{hits.count} inserts"


def slow_down(world: World, rng: Random) -> str:
    """Every answer takes long, but arrives."""
    delay_seconds = rng.uniform(0.3, 0.9) * world.settings.clickhouse.request_timeout_seconds

    def misbehave(exchange: Exchange) -> Answer:
        answer = exchange.forward()
        world.hold(delay_seconds)
        return answer

    with world.proxy.misbehaving(_any_request, misbehave) as hits:
        world.await_hits(hits, _HIT_SECONDS)
        world.hold(rng.uniform(1.0, 4.0))
    return f"{hits.count} answers, {delay_seconds:.1f} s each"


def run_out_of_disk(world: World, rng: Random) -> str:
    """The server refuses inserts into a table for lack of space on its disk (its own error 243)."""
    table = rng.choice(_WRITTEN)
    setting = f"min_free_disk_bytes_to_perform_insert = {_TOO_MANY_BYTES}"
    with _altered(world, table, f"MODIFY SETTING {setting}", "RESET SETTING min_free_disk_bytes_to_perform_insert"):
        refused = _await_refusals(world, rng, _NO_SPACE)
    return f"{table}: {refused}"


def pile_up_parts(world: World, rng: Random) -> str:
    """Merges stop, and the server throws its own "too many parts" (252)."""
    table = rng.choice((RAW_EVENTS.name, ROLLUP_1M.name, BATCHES.name))
    with world.database() as client:
        client.command(f"SYSTEM STOP MERGES {table}")
    try:
        limits = "parts_to_delay_insert = 1, parts_to_throw_insert = 1"
        with _altered(
            world, table, f"MODIFY SETTING {limits}", "RESET SETTING parts_to_delay_insert, parts_to_throw_insert"
        ):
            refused = _await_refusals(world, rng, _TOO_MANY_PARTS)
    finally:
        with world.database() as client:
            client.command(f"SYSTEM START MERGES {table}")
    return f"{table}: {refused}"


def lose_table(world: World, rng: Random) -> str:
    """A table is missing for a while.

    Never raw_events nor the view: an insert without the view would succeed and never be counted in the rollup.
    Without the view's target every insert fails before it begins.
    """
    table = rng.choice((ROLLUP_1M.name, BATCHES.name, DEAD_LETTERS.name))
    with world.database() as client:
        client.command(f"RENAME TABLE {table} TO {table}_away")
        try:
            refused = _await_refusals(world, rng, _NO_TABLE)
        finally:
            client.command(f"RENAME TABLE {table}_away TO {table}")
    return f"{table}: {refused}"


def make_read_only(world: World, rng: Random) -> str:
    """A table takes no writes (the server's own error 774)."""
    table = rng.choice(_WRITTEN)
    with _altered(world, table, "MODIFY SETTING table_readonly = 1", "RESET SETTING table_readonly"):
        refused = _await_refusals(world, rng, _READ_ONLY)
    return f"{table}: {refused}"


def _await_refusals(world: World, rng: Random, code: int) -> str:
    """The fault lasts until the server has refused something for it, and a little longer."""
    before = world.proxy.errors[code]
    world.await_that(lambda: world.proxy.errors[code] > before, _REFUSED_SECONDS, "the server refused nothing")
    world.hold(rng.uniform(0.3, 2.5))
    return f"the server answered {world.proxy.errors[code] - before} times with code {code}"


@contextmanager
def _altered(world: World, table: str, change: str, back: str) -> Iterator[None]:
    with world.database() as client:
        client.command(f"ALTER TABLE {table} {change}")
        try:
            yield
        finally:
            client.command(f"ALTER TABLE {table} {back}")


def _any_request(_request: Request) -> bool:
    return True


def _any_insert(request: Request) -> bool:
    return request.is_insert


def _inserts_into(table: str) -> Callable[[Request], bool]:
    return lambda request: request.inserts_into(table)
