"""The comparison at the end of a chaos run finds each kind of wrong there is."""

from random import Random

import pytest

from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.lab.chaos.compare import Comparison, compare
from metrics_pipeline.lab.chaos.load import Eaten, SideSender, parcel_of
from metrics_pipeline.settings import Settings
from metrics_pipeline.wiring.audit import audit
from tests.worlds.pipeline import drain_once


@pytest.fixture
def sender(settings: Settings) -> SideSender:
    """Has sent events, each twice, and malformed messages; all have landed."""
    made = SideSender(settings)
    made.send(parcel_of(Random(7), 500, range(8), malformed=0.1, late=0.1), copies=2)
    drain_once(settings)
    return made


def compared(settings: Settings, sender: SideSender, eaten: Eaten | None = None, tamper: str = "") -> Comparison:
    with connect(settings, mutations_sync=1) as client:
        if tamper:
            client.command(tamper)
        return compare(client, sender.sent, eaten or Eaten(), audit(settings))


def test_what_is_exact_has_no_differences(settings: Settings, sender: SideSender) -> None:
    comparison = compared(settings, sender)
    assert comparison.differences == ()
    assert comparison.sent == comparison.landed == sum(len(part.events) for part in sender.sent)
    assert comparison.malformed == comparison.dead_letters > 0


ONE = "(SELECT max(event_id) FROM raw_events)"
STRANGER = f"SELECT * REPLACE (generateUUIDv4() AS event_id) FROM raw_events r WHERE r.event_id = {ONE}"


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (f"ALTER TABLE raw_events DELETE WHERE event_id = {ONE}", "1 events lost"),
        (f"INSERT INTO raw_events SELECT * FROM raw_events WHERE event_id = {ONE}", "1 events more than once"),
        (f"ALTER TABLE raw_events UPDATE status = 599 WHERE event_id = {ONE}", "1 events in raw_events with other"),
        (
            f"INSERT INTO raw_events {STRANGER}",
            "1 events in raw_events, never sent",
        ),
        ("ALTER TABLE rollup_1m DELETE WHERE minute = (SELECT max(minute) FROM rollup_1m)", "in rollup_1m"),
        ("ALTER TABLE dead_letters DELETE WHERE kafka_offset = (SELECT max(kafka_offset) FROM dead_letters)", "dead"),
        ("ALTER TABLE batches DELETE WHERE 1", "audit: "),
    ],
)
def test_what_was_tampered_with_is_said(settings: Settings, sender: SideSender, tamper: str, said: str) -> None:
    comparison = compared(settings, sender, tamper=tamper)
    assert any(said in difference for difference in comparison.differences), comparison.differences


def test_events_that_should_be_gone_but_are_not_are_said(settings: Settings, sender: SideSender) -> None:
    event = sender.sent[0].events.row(0, named=True)
    eaten = Eaten(ranges=[OffsetRange(0, 0, 1)])
    eaten.events[event["event_id"]] = event["copies"]
    differences = compared(settings, sender, eaten).differences
    assert any("1 events in raw_events, never sent" in d for d in differences)
    assert any("the audit lists as lost: []" in d for d in differences)
