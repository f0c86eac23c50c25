"""Burn rates of the freshness objective, and what a canary is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.alerting.burn import FAST, MIN_LATE, RULES, SLOW, WINDOWS, Tallies, Tally, burn_rate, burning
from metrics_pipeline.alerting.canary_rules import ENDPOINT, SERVICE, TIER, Canary, Sighting, plan_canaries
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.kafka.intents import Owner

shares = st.floats(min_value=0.95, max_value=0.9999)


@st.composite
def tally(draw: st.DrawFn, most: int = 1_000_000) -> Tally:
    events = draw(st.integers(min_value=1, max_value=most))
    return Tally(draw(st.integers(min_value=0, max_value=events)), events)


def everywhere(of: Tally) -> Tallies:
    return dict.fromkeys(WINDOWS, of)


@given(tally(), shares)
def test_a_rate_is_none_without_late_ones_and_at_most_what_a_standstill_burns(of: Tally, share: float) -> None:
    rate = burn_rate(of, share)
    assert rate is not None
    assert (rate == 0) == (of.late == 0)
    assert rate <= burn_rate(Tally(of.events, of.events), share)  # type: ignore[operator]
    assert burn_rate(Tally(), share) is None


@given(tally(), st.integers(min_value=1, max_value=100), shares)
def test_a_rate_is_of_shares_and_not_of_numbers(of: Tally, times: int, share: float) -> None:
    assert burn_rate(Tally(of.late * times, of.events * times), share) == pytest.approx(burn_rate(of, share))


@given(st.integers(min_value=1, max_value=10_000), shares)
def test_rate_1_uses_up_just_what_the_objective_allows(thousands: int, share: float) -> None:
    events = thousands * 1_000
    late = round(events * (1 - share))
    assert burn_rate(Tally(late, events), share) == pytest.approx(1, abs=0.5 / events / (1 - share) + 1e-9)


@given(tally(), shares)
def test_what_burns_everywhere_tells_by_the_fastest_rule_that_it_exceeds(of: Tally, share: float) -> None:
    rate = burn_rate(of, share)
    found = burning(everywhere(of), share)
    fitting = [rule for rule in RULES if rate is not None and rate > rule.rate and of.late >= MIN_LATE]
    assert (None if found is None else found.rule) == (fitting[0] if fitting else None)


@given(tally(), shares, st.sampled_from(RULES))
def test_a_rule_is_silent_while_one_of_its_windows_is_calm(of: Tally, share: float, rule: object) -> None:
    for window in (rule.long, rule.short):  # type: ignore[attr-defined]
        for calm in (Tally(0, of.events), Tally()):
            found = burning({**everywhere(of), window: calm}, share)
            assert found is None or found.rule is not rule


@given(shares)
def test_a_standstill_tells_whatever_objective_may_be_set(share: float) -> None:
    found = burning(everywhere(Tally(MIN_LATE, MIN_LATE)), share)
    assert found is not None
    assert found.rule is FAST


def test_one_late_canary_an_hour_is_no_alert_and_a_tenth_of_a_shift_is() -> None:
    hour = {"5m": Tally(1, 5), "30m": Tally(1, 30), "1h": Tally(1, 60), "6h": Tally(6, 360)}
    assert burning(hour, 0.99) is None
    shift = {"5m": Tally(0, 5), "30m": Tally(3, 30), "1h": Tally(6, 60), "6h": Tally(36, 360)}
    found = burning(shift, 0.99)
    assert found is not None
    assert found.rule is SLOW
    assert found.rate == pytest.approx(10)


def test_a_shard_that_stops_tells_within_ten_minutes() -> None:
    """Canaries a minute apart, a shift of which was in time."""
    minute = next(
        minutes
        for minutes in range(1, 60)
        if burning(
            {
                name: Tally(min(minutes, seconds // 60), min(360 + minutes, seconds // 60))
                for name, seconds in WINDOWS.items()
            },
            0.99,
        )
    )
    assert minute == 9


@given(st.integers(min_value=1, max_value=40), st.integers(min_value=0, max_value=2**40), st.data())
def test_each_shard_gets_one_canary_in_a_partition_of_its_own(
    partitions: int, produced_ms: int, data: st.DataObject
) -> None:
    shards = data.draw(st.integers(min_value=1, max_value=partitions))
    owners = [Owner(shards, shard) for shard in range(shards)]
    ids = [f"id-{shard}" for shard in range(shards)]
    planned = plan_canaries(owners, range(partitions), ids, produced_ms)
    assert [canary.owner for canary in planned] == owners
    assert all(canary.partition in canary.owner.partitions(range(partitions)) for canary in planned)
    assert len({canary.event_id for canary in planned}) == shards


def test_a_shards_partitions_get_one_in_turn() -> None:
    owner = Owner(2, 1)
    minutes = [plan_canaries([owner], range(6), ["x"], minute * 60_000)[0].partition for minute in range(6)]
    assert minutes == [1, 3, 5, 1, 3, 5]


def test_late_is_what_took_longer_or_was_not_seen() -> None:
    seen = Sighting(Canary("x", Owner(1, 0), 0, 0), 1.5)
    assert not seen.is_late(1.5)
    assert seen.is_late(1.4)
    assert replace(seen, seconds=None).is_late(1e9)


def test_a_canary_is_a_valid_event_that_names_its_shard() -> None:
    canary = Canary("0192d5a0-0000-4000-8000-000000000001", Owner(2, 1), 3, 1_760_000_000_123)
    decoded = decode(Messages([3], [7], [canary.produced_ms], [canary.payload()]), EventLimits(1_000, 1_000))
    assert decoded.dead_letters.is_empty()
    (event,) = decoded.events.to_dicts()
    assert (event["service"], event["endpoint"], event["tier"]) == (SERVICE, ENDPOINT, TIER)
    assert (event["event_id"], event["host"]) == (canary.event_id, "shard-1-of-2")
    assert int(event["timestamp"].timestamp() * 1_000) == canary.produced_ms
