"""Retention beside the events on real engines: cold volumes, TTLs, dead letters, ledger, canaries, alerts."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from metrics_pipeline.alerting.canary_notes import CanaryNotes
from metrics_pipeline.alerting.canary_rules import Canary, Sighting
from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.log import read_alert_states, write_alert_states
from metrics_pipeline.alerting.notifications import AlertState, AlertStates, Phase
from metrics_pipeline.alerting.rules import Alert
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.dead_letters.judge import LetterFilter
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.event.contract import Reason
from metrics_pipeline.kafka.intents import Owner
from metrics_pipeline.lab.local.clickhouse import ClickHouseServer, start_clickhouse
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.retention.plan import CANARIES
from metrics_pipeline.retention.policy import Policy
from metrics_pipeline.retention.report import DROP, MOVE, Report
from metrics_pipeline.rollups import building
from metrics_pipeline.rollups.grains import GRAINS
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS, LEDGER, RAW
from metrics_pipeline.rollups.retained_from_store import note_retained_from, read_retained_from
from metrics_pipeline.settings import LocalSettings, Settings, kafka_address
from metrics_pipeline.wiring.audit import audit
from metrics_pipeline.wiring.dead_letters import replay_dead_letters
from tests.worlds.events import encode, event
from tests.worlds.hours import delete_records
from tests.worlds.pipeline import drain_once, send
from tests.worlds.retention import (
    DAY,
    SERVICES,
    TIERS,
    TODAY,
    Event,
    assert_answers,
    build,
    events_of,
    held_days,
    land,
    midnight,
    retain,
)

SHORT = Policy.model_validate(
    {
        "raw": {"days": 5, "services": {"checkout": 9}},
        "rollups": {"1m": 7, "10m": 14, "1h": 60, "1d": 500, "7d": 500},
        "dead_letters": {"days": 90},
        "ledger": {"days": 40},
    }
)


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server whose tables lie on two disks unless they are told otherwise; nothing moves by itself."""
    folder = tmp_path_factory.mktemp("tiered")
    config = {
        "storage_configuration": (
            f"<disks><cold><path>{folder / 'cold'}/</path></cold></disks>"
            "<policies><tiered><move_factor>0</move_factor><volumes>"
            "<hot><disk>default</disk></hot><cold><disk>cold</disk></cold>"
            "</volumes></tiered></policies>"
        ),
        "merge_tree": "<storage_policy>tiered</storage_policy>",
    }
    server = start_clickhouse(clickhouse_program(cache_folder(LocalSettings())), folder, config=config)
    yield server
    server.process.stop(20)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two partitions; and buckets of a grain are built by one statement, though they lie apart."""
    monkeypatch.setenv("METRICS_KAFKA__PARTITIONS", "2")
    monkeypatch.setattr(building, "_chunks", lambda buckets, _grain: [buckets] if buckets else [])


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with connect(settings) as made:
        yield made


@pytest.fixture
def months(settings: Settings) -> Settings:
    """The broker keeps messages of any time."""
    keep = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    topic = ConfigResource(ResourceType.TOPIC, settings.kafka.topic, incremental_configs=[keep])
    admin = AdminClient({"bootstrap.servers": kafka_address(settings)})
    for future in admin.incremental_alter_configs([topic]).values():
        future.result()
    return settings.model_copy(update={"events": settings.events.model_copy(update={"max_age_days": 7})})


def policy_with(**changes: object) -> Policy:
    return Policy.model_validate({**SHORT.model_dump(), **changes})


def month_before(count: int) -> tuple[str, int]:
    """The month so many before this one: its name as a partition, and the middle of it, epoch seconds."""
    today = datetime.fromtimestamp(TODAY, UTC)
    total = today.year * 12 + today.month - 1 - count
    middle = datetime(total // 12, total % 12 + 1, 15, 12, tzinfo=UTC)
    return f"{middle:%Y%m}", int(middle.timestamp())


def send_at(settings: Settings, seconds: int, values: Sequence[bytes | None], *, partition: int | None = None) -> None:
    """Messages of that time, to each partition in turn."""
    producer = Producer({"bootstrap.servers": kafka_address(settings), "linger.ms": 5})
    for number, value in enumerate(values):
        at = number % settings.kafka.partitions if partition is None else partition
        producer.produce(settings.kafka.topic, value, partition=at, timestamp=seconds * 1_000)
    assert producer.flush(30) == 0


def events_at(seconds: int, count: int, seed: int) -> list[bytes]:
    random_ = random.Random(seed)
    return [encode(event(random_, timestamp=seconds * 1_000 + random_.randrange(60_000))) for _ in range(count)]


def drain_at(settings: Settings, seconds: int, *, seed: int) -> None:
    """One batch of messages of that time, with events of then."""
    send_at(settings, seconds, events_at(seconds, 16, seed))
    assert drain_once(settings).inserted == 16


def partitions_of(client: Client, table: str) -> set[str]:
    sql = """SELECT DISTINCT partition_id FROM system.parts
        WHERE active AND database = currentDatabase() AND table = {table:String}"""
    return {str(row[0]) for row in client.query(sql, parameters={"table": table}).result_rows}


def number(client: Client, sql: str) -> int:
    return int(client.query(sql).result_rows[0][0])


def done(report: Report, action: str, table: str) -> list[str]:
    return [d.partition for d in report.done if (d.action, d.table) == (action, table)]


class TestColdVolume:
    """Older partitions of events and rollups lie on a volume of their own."""

    COLD = policy_with(cold={"volume": "cold", "after_days": 3})
    DAYS = (1, 3, 5, 8, 15, 40)

    @staticmethod
    def disks(client: Client) -> dict[tuple[str, str], set[str]]:
        sql = """SELECT table, partition_id, groupUniqArray(disk_name) FROM system.parts
            WHERE active AND database = currentDatabase() GROUP BY ALL"""
        return {(str(table), str(id_)): set(disks) for table, id_, disks in client.query(sql).result_rows}

    def test_what_is_old_and_stays_moves_once_and_answers_stay(
        self, settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        events = events_of(self.DAYS, random.Random(1))
        land(settings, events)
        build(settings, self.DAYS, monkeypatch)
        assert set().union(*self.disks(client).values()) == {"default"}
        dry = retain(settings, client, self.COLD, dry_run=True)
        assert set().union(*self.disks(client).values()) == {"default"}
        report = retain(settings, client, self.COLD)
        assert report.refused == []
        assert [(d.action, d.table, d.partition) for d in dry.done] == [
            (d.action, d.table, d.partition) for d in report.done
        ]
        moved, dropped = (
            {(d.table, d.partition) for d in report.done if d.action == action} for action in (MOVE, DROP)
        )
        assert not moved & dropped
        assert {table for table, _ in moved} > {RAW, "rollup_1m", "rollup_totals_10m", "rollup_regions_1h"}
        assert (RAW, f"{midnight(5):%Y%m%d}") in moved
        assert (RAW, f"{midnight(15):%Y%m%d}") in dropped
        found = self.disks(client)
        assert {where for where, disks in found.items() if disks == {"cold"}} == moved
        assert all(disks == {"default"} for where, disks in found.items() if where not in moved)
        assert not {d.partition for d in report.done if d.table == RAW} & {f"{midnight(d):%Y%m%d}" for d in (1, 3)}
        assert report.bytes_freed == sum(d.bytes for d in report.done if d.action != MOVE)
        assert_answers(client, events, self.DAYS)
        assert audit(settings).problems == ()
        again = retain(settings, client, self.COLD)
        assert (again.done, again.refused) == ([], [])

    def test_a_day_that_gets_a_late_event_moves_again(self, settings: Settings, client: Client) -> None:
        events = events_of((5,), random.Random(2))
        land(settings, events, max_age_days=6)
        day = f"{midnight(5):%Y%m%d}"
        assert done(retain(settings, client, self.COLD), MOVE, RAW) == [day]
        came = Event(5, 30, "search", "free", 777.0, str(uuid.UUID(int=1, version=4)))
        land(settings, [came], max_age_days=6)
        assert self.disks(client)[RAW, day] == {"cold", "default"}
        assert done(retain(settings, client, self.COLD), MOVE, RAW) == [day]
        assert self.disks(client)[RAW, day] == {"cold"}
        assert_answers(client, [*events, came], (5,))

    def test_a_volume_that_there_is_not_is_a_wrong_policy(self, settings: Settings, client: Client) -> None:
        land(settings, events_of((8, 15), random.Random(3)))
        wrong = policy_with(cold={"volume": "icy", "after_days": 3})
        for dry_run in (True, False):
            with pytest.raises(ConfigurationError, match=r"storage policy tiered of \w+ has no volume icy: name one"):
                retain(settings, client, wrong, dry_run=dry_run)
        assert set(held_days(client, RAW)) == {8, 15}
        assert read_retained_from(client).until == {}


class TestNet:
    """TTLs behind the policy, for when nobody applies it."""

    @staticmethod
    def engine(client: Client, table: str) -> str:
        sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"
        return str(client.query(sql, parameters={"table": table}).result_rows[0][0])

    def test_events_and_dead_letters_get_one_that_outlives_the_policy(self, settings: Settings, client: Client) -> None:
        policy = policy_with(net={"days": 11})
        assert retain(settings, client, policy, dry_run=True).times_to_live == {RAW: 20, DEAD_LETTERS: 101}
        assert " TTL " not in self.engine(client, RAW) + self.engine(client, DEAD_LETTERS)
        assert retain(settings, client, policy).times_to_live == {RAW: 20, DEAD_LETTERS: 101}
        assert "TTL toDateTime(timestamp) + toIntervalDay(20) " in self.engine(client, RAW)
        assert "TTL toDateTime(kafka_timestamp) + toIntervalDay(101) " in self.engine(client, DEAD_LETTERS)
        for table in (RAW, DEAD_LETTERS):
            assert "ttl_only_drop_parts = 1" in self.engine(client, table)
        for table in (f"rollup_{grain.name}" for grain in GRAINS):
            assert " TTL " not in self.engine(client, table)
        assert retain(settings, client, policy).times_to_live == {}
        # A longer reach, as a longer time, lengthens it.
        assert retain(settings, client, policy, reach=30).times_to_live == {RAW: 41}
        assert "toIntervalDay(41)" in self.engine(client, RAW)
        before = [self.engine(client, table) for table in (RAW, DEAD_LETTERS)]
        assert retain(settings, client, policy_with(net={"days": 0})).times_to_live == {}
        assert [self.engine(client, table) for table in (RAW, DEAD_LETTERS)] == before

    def test_without_a_net_nothing_is_set(self, settings: Settings, client: Client) -> None:
        report = retain(settings, client, policy_with(net={"days": 0}))
        assert report.times_to_live == {}
        assert " TTL " not in self.engine(client, RAW) + self.engine(client, DEAD_LETTERS)

    @pytest.mark.parametrize(
        "other",
        [
            "toDateTime(timestamp) + INTERVAL 1000 DAY TO VOLUME 'cold'",
            "toDateTime(timestamp) + INTERVAL 1000 DAY DELETE WHERE tier = 'free'",
            "toDateTime(timestamp) + INTERVAL 5 DAY TO VOLUME 'cold', toDateTime(timestamp) + INTERVAL 1000 DAY",
            "toDateTime(timestamp) + INTERVAL 9000 HOUR",
        ],
    )
    def test_one_that_does_other_things_is_left_alone(self, settings: Settings, client: Client, other: str) -> None:
        client.command(f"ALTER TABLE raw_events MODIFY TTL {other}")
        before = self.engine(client, RAW)
        report = retain(settings, client, SHORT)
        assert report.times_to_live == {DEAD_LETTERS: 120}
        assert report.warnings == ["raw_events has a TTL that does other things as well: it is left alone"]
        assert self.engine(client, RAW) == before

    @pytest.mark.parametrize(("words", "days"), [("100 DAY", 100), ("2 WEEK", 14), ("1 YEAR", 365)])
    def test_events_are_whole_from_the_midnight_after_which_it_has_dropped_nothing(
        self, settings: Settings, client: Client, words: str, days: int
    ) -> None:
        def midnight_after(seconds: float) -> int:
            last = int(seconds) - days * DAY
            return last if last % DAY == 0 else last - last % DAY + DAY

        assert read_retained_from(client).of(RAW) == 0
        client.command(f"ALTER TABLE raw_events MODIFY TTL toDateTime(timestamp) + INTERVAL {words}")
        earliest = midnight_after(time.time())
        found = read_retained_from(client)
        assert earliest <= found.of(RAW) <= midnight_after(time.time())
        assert found.compared_from == found.of(RAW)
        assert found.buildable_from(GRAINS[1]) == 0

    def test_days_that_are_refused_do_not_go_by_it_either(
        self, settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is spread once all that it would drop has been verified."""
        days = (8, 45, 46)
        land(settings, events_of(days, random.Random(4)))
        build(settings, days, monkeypatch)
        client.command(
            f"ALTER TABLE raw_events DELETE WHERE tier = 'free' AND toDate(timestamp) = toDate({TODAY}) - 45",
            settings={"mutations_sync": 1},
        )
        dry = retain(settings, client, SHORT, dry_run=True)
        report = retain(settings, client, SHORT)
        assert [(r.table, r.partition) for r in report.refused] == [(r.table, r.partition) for r in dry.refused]
        assert (RAW, f"{midnight(45):%Y%m%d}") in [(r.table, r.partition) for r in report.refused]
        assert set(held_days(client, RAW)) == {8, 45}
        assert RAW not in report.times_to_live
        assert read_retained_from(client).of(RAW) == TODAY - 45 * DAY
        assert [r.table for r in retain(settings, client, SHORT).refused] == [r.table for r in report.refused]
        assert set(held_days(client, RAW)) == {8, 45}

    def test_one_that_is_there_recedes_from_a_day_that_is_refused(
        self, settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = policy_with(net={"days": 11})
        assert retain(settings, client, policy).times_to_live[RAW] == 20
        land(settings, events_of((12,), random.Random(5)), max_age_days=19)
        build(settings, (12,), monkeypatch)
        client.command("ALTER TABLE raw_events DELETE WHERE tier = 'free'", settings={"mutations_sync": 1})
        report = retain(settings, client, policy)
        assert (RAW, f"{midnight(12):%Y%m%d}") in [(r.table, r.partition) for r in report.refused]
        assert report.times_to_live == {RAW: 24}
        assert set(held_days(client, RAW)) == {12}


class TestDeadLetters:
    """They go by the month of their messages."""

    OLD, YOUNG = month_before(7), month_before(1)

    @pytest.fixture
    def letters(self, months: Settings) -> Settings:
        """Of both months and of now, in one batch that has all of them and in one of the old month alone."""
        (_, old), (_, young) = self.OLD, self.YOUNG
        send_at(months, old, [b"{", b"[", encode({"service": "checkout"})])
        send_at(months, young, [b"{"] * 4)
        send(months, [b"[]", *events_at(TODAY, 5, 1)])
        assert drain_once(months).dead_letters == 8
        send_at(months, old + DAY, [b"{"] * 2)
        assert drain_once(months).dead_letters == 2
        assert audit(months).problems == ()
        return months

    def test_a_month_that_is_over_goes_with_a_word_about_those_never_replayed(
        self, letters: Settings, client: Client
    ) -> None:
        replayed = replay_dead_letters(letters, LetterFilter((Reason.MISSING_FIELD,)), "run")
        assert (replayed.landed, sum(replayed.kept.values())) == (0, 1)
        dry = retain(letters, client, SHORT, dry_run=True)
        assert done(dry, DROP, DEAD_LETTERS) == [self.OLD[0]]
        assert number(client, "SELECT count() FROM dead_letters FINAL") == 10
        assert read_retained_from(client).of(DEAD_LETTERS) == 0
        report = retain(letters, client, SHORT)
        assert done(report, DROP, DEAD_LETTERS) == [self.OLD[0]]
        for words, said in (("go", dry.warnings), ("went", report.warnings)):
            (warning,) = said
            assert warning.startswith(f"4 dead letters of partition {self.OLD[0]} {words} that were never replayed: ")
        assert partitions_of(client, DEAD_LETTERS) == {self.YOUNG[0], f"{midnight(0):%Y%m}"}
        assert number(client, "SELECT count() FROM dead_letters FINAL") == 5
        again = retain(letters, client, SHORT)
        assert (done(again, DROP, DEAD_LETTERS), again.warnings) == ([], [])

    def test_the_books_stay_exact_and_letters_that_are_kept_stay_audited(
        self, letters: Settings, client: Client
    ) -> None:
        retain(letters, client, SHORT)
        for deep in (False, True):
            verdict = audit(letters, deep=deep)
            assert verdict.problems == ()
            assert verdict.books.ledger.counts.dead_letters == 10
        send(letters, [b"{"] * 3, partition=0)
        assert drain_once(letters).dead_letters == 3
        assert audit(letters).problems == ()
        client.command("DELETE FROM dead_letters WHERE kafka_timestamp >= now() - INTERVAL 1 HOUR AND payload = '{'")
        (problem,) = audit(letters).problems
        assert problem.startswith("partition 0: ")
        assert "look for deletes in system.mutations" in problem

    def test_the_books_stay_exact_where_the_ttl_drops_them(self, letters: Settings, client: Client) -> None:
        """Nobody applies the policy, so nothing is noted in retained_from."""
        client.command("ALTER TABLE dead_letters MODIFY SETTING ttl_only_drop_parts = 1")
        client.command("ALTER TABLE dead_letters MODIFY TTL toDateTime(kafka_timestamp) + INTERVAL 120 DAY")
        client.command("OPTIMIZE TABLE dead_letters FINAL")
        assert number(client, "SELECT count() FROM dead_letters FINAL") == 5
        verdict = audit(letters)
        assert verdict.problems == ()
        assert verdict.books.ledger.counts.dead_letters == 10


class TestLedger:
    """A month of it goes if what is left tells where reading stands, without a gap."""

    POLICY = policy_with(
        raw={"days": 5}, rollups={grain.name: 1_200 for grain in GRAINS}, ledger={"days": 1_211}, net={"days": 0}
    )
    OLDER, OLD = month_before(46), month_before(45)

    @staticmethod
    def refused(report: Report) -> str:
        (found,) = [r for r in report.refused if r.table == LEDGER]
        assert found.is_waiting
        return f"{found.partition}: {found.reason}"

    @staticmethod
    def drain_recent(settings: Settings, *, seed: int, days_ago: int = 1, partition: int | None = None) -> None:
        """Messages of now, of events of that day."""
        send(settings, events_at(int(midnight(days_ago).timestamp()), 8, seed), partition=partition)
        limits = settings.events.model_copy(update={"max_age_days": 20})
        assert drain_once(settings.model_copy(update={"events": limits})).inserted == 8

    @pytest.fixture
    def compared(self, client: Client) -> None:
        """As if events of up to three weeks ago had been verified: the ledger is compared with newer ones."""
        note_retained_from(client, {RAW: TODAY - 21 * DAY})

    def test_old_months_go_and_reading_goes_on(self, months: Settings, client: Client) -> None:
        (older, older_at), (old, old_at) = self.OLDER, self.OLD
        drain_at(months, older_at, seed=1)
        drain_at(months, old_at, seed=2)
        client.command("INSERT INTO batches SELECT * REPLACE('an earlier incarnation' AS topic_id) FROM batches")
        self.drain_recent(months, seed=3, days_ago=15)
        rows = number(client, "SELECT count() FROM batches FINAL")
        # Nothing is built yet, so no events would go.
        assert done(retain(months, client, self.POLICY, dry_run=True), DROP, LEDGER) == []
        assert number(client, "SELECT count() FROM batches FINAL") == rows
        report = retain(months, client, self.POLICY)
        assert report.refused == []
        assert done(report, DROP, LEDGER) == [older, old]
        assert partitions_of(client, LEDGER) == {f"{midnight(0):%Y%m}"}
        assert number(client, "SELECT count() FROM batches FINAL") < rows
        month_end = datetime.fromtimestamp(read_retained_from(client).of(LEDGER), UTC)
        assert (month_end.day, month_end - timedelta(days=1) > datetime.fromtimestamp(old_at, UTC)) == (1, True)
        verdict = audit(months, deep=True)
        assert verdict.problems == ()
        assert verdict.books.ledger.gaps == verdict.books.tail == ()
        drain_at(months, TODAY, seed=4)
        assert audit(months, deep=True).problems == ()
        assert number(client, "SELECT count() FROM raw_events") == number(
            client, "SELECT uniqExact(event_id) FROM raw_events"
        )
        again = retain(months, client, self.POLICY)
        assert (done(again, DROP, LEDGER), again.refused) == ([], [])

    @pytest.mark.usefixtures("compared")
    def test_a_month_with_the_last_row_of_a_partition_stays_and_older_ones_go(
        self, months: Settings, client: Client
    ) -> None:
        (older, older_at), (old, old_at) = self.OLDER, self.OLD
        drain_at(months, older_at, seed=1)
        drain_at(months, old_at, seed=2)
        self.drain_recent(months, seed=3, partition=1)
        report = retain(months, client, self.POLICY)
        assert self.refused(report) == (
            f"{old}: partition 0 of {months.kafka.topic} has its last row there, which tells where its reading stands"
        )
        assert done(report, DROP, LEDGER) == [older]
        assert audit(months).problems == ()
        self.drain_recent(months, seed=4, partition=0)
        assert audit(months).problems == ()
        report = retain(months, client, self.POLICY)
        assert done(report, DROP, LEDGER) == [old]
        assert audit(months).problems == ()

    @pytest.mark.usefixtures("compared")
    def test_a_month_whose_rows_alternate_with_later_ones_stays(self, months: Settings, client: Client) -> None:
        old, old_at = self.OLD
        self.drain_recent(months, seed=1)
        drain_at(months, old_at, seed=2)
        self.drain_recent(months, seed=3)
        report = retain(months, client, self.POLICY)
        assert self.refused(report) == (
            f"{old}: rows of partition 0 of {months.kafka.topic} from before and after that month alternate, so "
            "dropping it would leave a gap"
        )
        assert old in partitions_of(client, LEDGER)
        assert audit(months).problems == ()

    def test_a_month_of_events_that_are_still_compared_stays(self, months: Settings, client: Client) -> None:
        """Raw events of its middle are the newest that go: those of its end may be compared with it."""
        old, old_at = self.OLD
        drain_at(months, old_at, seed=1)
        drain_at(months, TODAY, seed=2)
        report = retain(months, client, self.POLICY)
        assert self.refused(report) == f"{old}: raw events and rollups of that time are still compared with it"
        assert done(report, DROP, RAW) != []
        retained_from = read_retained_from(client)
        assert retained_from.of(LEDGER) == 0
        assert old_at < retained_from.compared_from < old_at + 2 * DAY
        self.drain_recent(months, seed=3, days_ago=15)
        assert done(retain(months, client, self.POLICY), DROP, LEDGER) == [old]
        assert audit(months).problems == ()

    @pytest.mark.usefixtures("compared")
    def test_rows_of_lost_offsets_go_with_the_month_in_which_they_were_lost(
        self, months: Settings, client: Client
    ) -> None:
        """They have no messages, so no month of their own."""
        old, old_at = self.OLD
        drain_at(months, old_at, seed=1)
        send_at(months, old_at, events_at(old_at, 3, 2), partition=0)
        delete_records(months, 11)
        assert drain_once(months).lost == 3
        (problem,) = audit(months).problems
        assert problem.startswith("lost to retention: partition 0, offsets 8 to 10")
        self.drain_recent(months, seed=3)
        lost = "last_message = toDateTime64(0, 3, 'UTC')"
        then = f"started_at = toDateTime64({old_at}, 3, 'UTC')"
        client.command(f"ALTER TABLE batches UPDATE {then} WHERE {lost}", settings={"mutations_sync": 1})
        assert done(retain(months, client, self.POLICY), DROP, LEDGER) == [old]
        assert number(client, f"SELECT count() FROM batches FINAL WHERE {lost}") == 0
        assert audit(months).problems == ()


def test_months_of_canaries_go(settings: Settings, client: Client) -> None:
    owner = Owner(1, 0)
    notes = CanaryNotes(client, LedgerScope(settings.kafka.topic, settings.kafka.group), 10.0)
    of_months = [month_before(7), month_before(6), month_before(1), (f"{midnight(0):%Y%m}", TODAY)]
    canaries = [
        Canary(str(uuid.UUID(int=at, version=4)), owner, 0, middle * 1_000) for at, (_, middle) in enumerate(of_months)
    ]
    notes.note(Sighting(canary, None) for canary in canaries)
    notes.note(Sighting(canary, 1.0) for canary in canaries[1:])
    names = [name for name, _ in of_months]
    assert done(retain(settings, client, SHORT, dry_run=True), DROP, CANARIES) == names[:2]
    assert partitions_of(client, CANARIES) == set(names)
    assert done(retain(settings, client, SHORT), DROP, CANARIES) == names[:2]
    assert partitions_of(client, CANARIES) == set(names[2:])


def test_alerts_that_are_gone_are_forgotten_after_their_time(settings: Settings, client: Client) -> None:
    """Not those that are still remembered, however old, nor one that came back."""

    def state(subject: str) -> AlertState:
        return AlertState(Alert("lag", subject, Severity.CRITICAL, "late"), Phase.FIRING, old, old)

    old, young = float(TODAY - 91 * DAY), float(TODAY - 89 * DAY)
    states = {s.alert.key: s for s in map(state, ("gone", "gone lately", "firing", "back"))}
    alert_states = AlertStates(states)
    write_alert_states(client, AlertStates(), alert_states, old - DAY)
    left = AlertStates({key: states[key] for key in ("lag:gone lately", "lag:firing")})
    write_alert_states(client, alert_states, left, old)
    back = AlertStates({**left.states, "lag:back": state("back")})
    write_alert_states(client, left, back, old + 60)
    remembered = AlertStates({key: back.states[key] for key in ("lag:firing", "lag:back")})
    write_alert_states(client, back, remembered, young)
    assert retain(settings, client, SHORT, dry_run=True).alerts_forgotten == 0
    assert number(client, "SELECT count() FROM alert_log FINAL WHERE key != ''") == 4
    assert retain(settings, client, SHORT).alerts_forgotten == 1
    rows = client.query("SELECT subject, phase FROM alert_log FINAL WHERE key != '' ORDER BY subject").result_rows
    assert [tuple(row) for row in rows] == [("back", "firing"), ("firing", "firing"), ("gone lately", "gone")]
    assert read_alert_states(client).states.keys() == {"lag:firing", "lag:back"}
    assert retain(settings, client, SHORT).alerts_forgotten == 0


def test_of_two_overrides_that_name_an_event_the_longer_one_holds(
    settings: Settings, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either may be the longer one, and either shorter than what holds for all others."""
    policy = Policy.model_validate(
        {
            "raw": {"days": 10, "services": {"checkout": 30, "reports": 3}, "tiers": {"enterprise": 20, "free": 5}},
            "rollups": {"1m": 40, "10m": 120},
        }
    )
    kept = {
        ("checkout", "free"): 30,
        ("checkout", "enterprise"): 30,
        ("reports", "free"): 5,
        ("reports", "enterprise"): 20,
        ("search", "free"): 5,
        ("search", "enterprise"): 20,
    }
    assert kept.keys() == {(service, tier) for service in SERVICES for tier in TIERS}
    days = (3, 4, 5, 6, 20, 21, 30, 31)
    events = events_of(days, random.Random(5))
    land(settings, events)
    build(settings, days, monkeypatch)
    assert retain(settings, client, policy).refused == []
    for (service, tier), limit in kept.items():
        found = held_days(client, RAW, f"service = '{service}' AND tier = '{tier}'")
        # The day of so many midnights ago ended one day less ago.
        wanted = Counter(e.day for e in events if (e.service, e.tier) == (service, tier) and e.day - 1 < limit)
        assert found == wanted, (service, tier)
    assert audit(settings).problems == ()
