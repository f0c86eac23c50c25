"""Canaries on the real engines: sent, drained, seen, and what is said of those that are not."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from typer.testing import CliRunner

from metrics_pipeline.alerting.burn import Tally
from metrics_pipeline.alerting.canary import send_canaries
from metrics_pipeline.alerting.canary_notes import CanaryNotes, count_landed
from metrics_pipeline.alerting.canary_rules import Canary, Sighting
from metrics_pipeline.alerting.reading import read_burn
from metrics_pipeline.alerting.run import look
from metrics_pipeline.cli import app
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import ClickHouseUnavailableError, ConfigurationError, KafkaUnavailableError
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.lab.local.process import choose_port
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.settings import Settings, kafka_address, load_settings
from tests.worlds.events import events
from tests.worlds.pipeline import assert_exact, drain_once, send
from tests.worlds.waiting import await_


@contextmanager
def draining(settings: Settings) -> Iterator[None]:
    """Drains beside the test, one run after the other, as the relay has it."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            # A broker that has just started may still load its groups: the relay, too, tries again.
            with suppress(KafkaUnavailableError):
                drain_if_behind()

    def drain_if_behind() -> None:
        if sum(lag.offsets for lag in read_lag(kafka_address(settings), settings.kafka).values()):
            drain_once(settings)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield
        finally:
            stop.set()
            done.result(60)


def scope(settings: Settings) -> LedgerScope:
    return LedgerScope(settings.kafka.topic, settings.kafka.group)


def test_a_canary_is_seen_once_it_was_drained(settings: Settings) -> None:
    seen: list[Sighting] = []
    with draining(settings):
        found = send_canaries(settings, on_seen=seen.append)
    (sighting,) = found.sightings
    assert list(found.sightings) == seen
    assert sighting.seconds is not None
    assert sighting.seconds > 0
    assert found.late == ()
    (canaries,) = found.burn.canaries
    assert canaries.seconds == pytest.approx(sighting.seconds)
    assert set(canaries.tallies.values()) == {Tally(0, 1)}
    with connect(settings) as client:
        (row,) = client.query("SELECT * FROM canaries FINAL").named_results()
        (event,) = client.query("SELECT * FROM raw_events").named_results()
        assert count_landed(client) == 1
        of_events = read_burn(client, scope(settings), 30).events
    assert set(of_events.values()) == {Tally(0, 1)}, "a canary is an event like any"
    assert row["event_id"] == event["event_id"]
    assert row["produced_at"] == event["timestamp"]
    assert (row["shard"], row["partition"]) == (0, event["kafka_partition"])
    assert (row["visible_at"] - row["produced_at"]).total_seconds() == pytest.approx(sighting.seconds, abs=0.002)
    assert_exact(settings, events=1)


def test_each_shard_has_one_in_a_partition_of_its_own(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_DRAIN__SHARDS", "3")
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.5")
    found = send_canaries(load_settings())
    assert [s.canary.owner for s in found.sightings] == [Owner(3, shard) for shard in range(3)]
    assert all(s.canary.partition % 3 == s.canary.owner.shard for s in found.sightings)
    assert len(found.late) == 3, "nobody drains"
    assert [c.shard for c in found.burn.canaries] == [0, 1, 2]
    drain_once(settings)
    with connect(settings) as client:
        hosts = client.query("SELECT host FROM raw_events ORDER BY host").result_rows
    assert hosts == [(f"shard-{shard}-of-3",) for shard in range(3)]


def test_a_standstill_burns_is_told_and_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.3")
    stalled = load_settings()
    for _ in range(2):
        assert send_canaries(stalled).burning is None
    found = send_canaries(stalled)
    assert found.burning is not None
    assert found.burning.rate == pytest.approx(100)
    _, judgement = look(stalled)
    (alert,) = [a for a in judgement.alerts if a.kind == "freshness_burn"]
    assert alert.subject == f"{settings.kafka.topic} canaries of shard 0"
    assert "3 of 3 were not visible within 0.3 s" in alert.summary
    drain_once(settings)
    with connect(settings) as client:
        events_tally = read_burn(client, scope(settings), 0.3).events["5m"]
    assert events_tally == Tally(3, 3), "the events landed late, too"


def test_a_canary_of_which_nothing_more_is_heard_is_late_once_its_objective_passed(settings: Settings) -> None:
    canary = Canary("0192d5a0-0000-4000-8000-000000000001", Owner(1, 0), 0, time.time_ns() // 1_000_000)
    with connect(settings) as client:
        CanaryNotes(client, scope(settings), 1.0).note([Sighting(canary, None)])

        def tally() -> Tally:
            (found,) = read_burn(client, scope(settings), 1.0).canaries
            return found.tallies["5m"]

        assert tally() == Tally(0, 0), "on its way"
        await_("the canary is late", lambda: tally() == Tally(1, 1))
        CanaryNotes(client, scope(settings), 1.0).note([Sighting(canary, 0.4)])
        assert tally() == Tally(0, 1)


def test_windows_hold_what_was_produced_in_them(settings: Settings) -> None:
    now_ms = time.time_ns() // 1_000_000
    ages_seconds = (10, 1_000, 3_000, 20_000, 30_000)
    with connect(settings) as client:
        for number, age in enumerate(ages_seconds):
            canary = Canary(f"0192d5a0-0000-4000-8000-00000000000{number}", Owner(1, 0), 0, now_ms - age * 1_000)
            CanaryNotes(client, scope(settings), 30).note([Sighting(canary, 1.0 + 60 * (number % 2))])
        (found,) = read_burn(client, scope(settings), 30).canaries
        assert read_burn(client, LedgerScope("another", "group"), 30).canaries == ()
    assert found.tallies == {"5m": Tally(0, 1), "30m": Tally(1, 2), "1h": Tally(1, 3), "6h": Tally(2, 4)}
    assert found.seconds == 1.0


def test_the_command_prints_seconds_and_burn_rates_and_fails_if_one_is_not_seen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with draining(settings):
        done = CliRunner().invoke(app, ["canary", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["ok"]
    (canary,) = said["canaries"]
    assert canary["seconds"] > 0
    assert said["burn_rates"]["canaries"]["0"] == {"5m": 0, "30m": 0, "1h": 0, "6h": 0}
    assert set(said["burn_rates"]["events"]) == {"5m", "30m", "1h", "6h"}
    monkeypatch.setenv("METRICS_ALERTS__FRESHNESS_SECONDS", "0.2")
    done = CliRunner().invoke(app, ["canary", "--limit-seconds", "0.4"])
    assert done.exit_code == 1
    assert "not seen in time; objective 0.2 s" in done.stdout
    assert "burn rate of canaries of shard 0: 5m 50.0" in done.stdout


def test_a_limit_below_the_objective_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="METRICS_ALERTS__FRESHNESS_SECONDS"):
        send_canaries(settings, limit_seconds=5)
    with connect(settings) as client:
        assert client.query("SELECT count() FROM canaries").result_rows == [(0,)]


def test_without_an_engine_it_says_which_one_is_away(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_KAFKA__REQUEST_TIMEOUT_SECONDS", "1")
    nowhere = f"127.0.0.1:{choose_port(None)}"
    with monkeypatch.context() as patch:
        patch.setenv("METRICS_KAFKA__BOOTSTRAP_SERVERS", nowhere)
        with pytest.raises(KafkaUnavailableError):
            send_canaries(load_settings())
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", f"http://{nowhere}/default")
    with pytest.raises(ClickHouseUnavailableError):
        send_canaries(load_settings())


def test_the_way_of_other_events_does_not_change(settings: Settings) -> None:
    send(settings, events(200))
    with draining(settings):
        send_canaries(settings)
        send(settings, events(200, seed=1))
    drain_once(settings)
    assert_exact(settings, events=401)
