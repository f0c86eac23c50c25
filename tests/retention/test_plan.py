"""Plans of retention against their definition, partition by partition; what it costs; what an answer then lacks."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.questions.completeness import left_out
from metrics_pipeline.retention.plan import (
    CANARIES,
    DAY_SECONDS,
    MARGIN_DAYS,
    GrainDrop,
    Partition,
    Plan,
    SelectiveDelete,
    bytes_per_day,
    costs,
    cutoff,
    days_of,
    enforced_until,
    plan_retention,
    reach_days,
)
from metrics_pipeline.retention.policy import LEDGER_MARGIN_DAYS, Policy
from metrics_pipeline.rollups.grains import GRAINS, LIVE
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS, LEDGER, NOTHING_DROPPED, RAW, RetainedFrom
from metrics_pipeline.runtime.timerange import TimeRange

EPOCH_DAY = 45 * 448
"""Days since 1970 at which partitions of every grain begin."""
NOW = EPOCH_DAY * DAY_SECONDS + 40_000
SERVICES, TIERS = ("checkout", "search", "reports"), ("free", "enterprise")
MONTHLY = (DEAD_LETTERS, LEDGER, CANARIES)

days = st.integers(1, 120)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """All that hold together: short times, so that their cut-offs lie among a few partitions."""
    kept = sorted(draw(st.lists(days, min_size=len(GRAINS), max_size=len(GRAINS))))
    raw = {
        "days": draw(days),
        "services": draw(st.dictionaries(st.sampled_from(SERVICES), days)),
        "tiers": draw(st.dictionaries(st.sampled_from(TIERS), days)),
    }
    longest = max(raw["days"], *raw["services"].values(), *raw["tiers"].values(), kept[0])
    return Policy.model_validate(
        {
            "raw": raw,
            "rollups": dict(zip((grain.name for grain in GRAINS), kept, strict=True)),
            "dead_letters": {"days": draw(days)},
            "canaries": {"days": draw(days)},
            "ledger": {"days": longest + LEDGER_MARGIN_DAYS + draw(days)},
            "cold": {"volume": draw(st.sampled_from(("", "cold"))), "after_days": draw(days)},
        }
    )


@st.composite
def partitions(draw: st.DrawFn) -> list[Partition]:
    """Of all tables, in any order, around the cut-offs; those of a grain as two cubes have them."""
    kinds = [*[(RAW, "", 1)] * 12, *((table, "", 30) for table in MONTHLY)]
    kinds += [(f"{cube}_{g.name}", g.name, g.partition_days) for cube in ("rollup", "rollup_totals") for g in GRAINS]
    found = {}
    for _ in range(draw(st.integers(0, 40))):
        table, grain, length = draw(st.sampled_from(kinds))
        start = (EPOCH_DAY - draw(st.integers(-3, 150))) // length * length * DAY_SECONDS
        id_ = str(start)
        end = start + length * DAY_SECONDS
        found[table, id_] = Partition(table, id_, start, end, 10, 1_000, grain, is_cold=draw(st.booleans()))
    return list(found.values())


moments = st.integers(NOW - DAY_SECONDS, NOW + DAY_SECONDS)
reaches = st.integers(1, 40)


def dropped(plan: Plan) -> list[Partition]:
    return [
        *(item for item in plan.raw if isinstance(item, Partition)),
        *(p for drop in plan.rollups for p in drop.partitions),
        *plan.dead_letters,
        *plan.canaries,
        *plan.ledger,
    ]


def longest_kept(policy: Policy, p: Partition, reach: int) -> int:
    """Days, however the rows are called."""
    if p.table == RAW:
        return max(policy.raw.longest_days, reach)
    kept = days_of(policy, p.table, p.grain)
    assert kept is not None
    return max(kept, reach) if p.grain == LIVE.name else kept


def is_over(p: Partition, kept: int, now: int) -> bool:
    """Of each moment that it may hold more than so many days have passed, counted by midnights."""
    return all((now // DAY_SECONDS - m // DAY_SECONDS) > kept for m in (p.start_seconds, p.end_seconds - 1))


@given(partitions(), policies(), moments, reaches)
def test_a_partition_goes_if_and_only_if_all_of_its_time_is_over(
    found: list[Partition], policy: Policy, now: int, reach: int
) -> None:
    gone = dropped(plan_retention(found, policy, now, reach))
    assert len(set(gone)) == len(gone)
    assert set(gone) == {p for p in found if is_over(p, longest_kept(policy, p, reach), now)}


@given(partitions(), policies(), moments, reaches)
def test_what_an_event_may_still_come_to_stays_as_it_is(
    found: list[Partition], policy: Policy, now: int, reach: int
) -> None:
    plan = plan_retention(found, policy, now, reach)
    touched = [p for p in dropped(plan) if p.table == RAW or p.grain == LIVE.name]
    touched += [item.partition for item in plan.raw if isinstance(item, SelectiveDelete)]
    assert all(now - p.end_seconds >= reach * DAY_SECONDS for p in touched)


@given(partitions(), policies(), moments, reaches)
def test_an_event_goes_if_and_only_if_the_time_of_its_names_is_over(
    found: list[Partition], policy: Policy, now: int, reach: int
) -> None:
    """With its partition, or out of one that stays; the longer of two overrides holds."""
    plan = plan_retention(found, policy, now, reach)
    by_day = selective_deletes(plan)
    whole = {item for item in plan.raw if isinstance(item, Partition)}
    assert not by_day.keys() & whole
    for p in (p for p in found if p.table == RAW):
        for service in (*SERVICES, "other"):
            for tier in (*TIERS, "other"):
                named = [d for d in (policy.raw.services.get(service), policy.raw.tiers.get(tier)) if d is not None]
                kept = max(max(named) if named else policy.raw.days, reach)
                goes = p in whole or (p in by_day and deletes(by_day[p], service, tier))
                assert goes == is_over(p, kept, now), (p, service, tier)


def deletes(selective_delete: SelectiveDelete, service: str, tier: str) -> bool:
    if service in selective_delete.kept_services or tier in selective_delete.kept_tiers:
        return False
    return (
        selective_delete.is_default_over
        or service in selective_delete.ended_services
        or tier in selective_delete.ended_tiers
    )


@given(partitions(), policies(), moments, reaches)
def test_finer_rows_go_before_those_that_stand_for_them_and_older_before_newer(
    found: list[Partition], policy: Policy, now: int, reach: int
) -> None:
    plan = plan_retention(found, policy, now, reach)
    order = [(GRAINS.index(drop.grain), drop.start_seconds) for drop in plan.rollups]
    assert order == sorted(set(order))
    assert all({(p.grain, p.start_seconds) for p in d.partitions} == {key_of(d)} for d in plan.rollups)
    raw = [item.partition if isinstance(item, SelectiveDelete) else item for item in plan.raw]
    for in_order in (raw, plan.dead_letters, plan.canaries, plan.ledger, plan.moves):
        assert all(a.start_seconds <= b.start_seconds for a, b in pairwise(in_order))


def key_of(drop: GrainDrop) -> tuple[str, int]:
    return drop.grain.name, drop.start_seconds


@given(partitions(), policies(), moments, reaches)
def test_what_is_old_and_stays_moves_once(found: list[Partition], policy: Policy, now: int, reach: int) -> None:
    """Of events and rollups alone, and where the policy names a volume."""
    plan = plan_retention(found, policy, now, reach)
    staying = set(found) - set(dropped(plan))
    assert len(set(plan.moves)) == len(plan.moves)
    assert set(plan.moves) == {
        p
        for p in staying
        if policy.cold.volume
        and (p.table == RAW or p.grain)
        and not p.is_cold
        and is_over(p, policy.cold.after_days, now)
    }


@given(partitions(), policies(), moments, reaches, st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_in_which_partitions_are_listed(
    found: list[Partition], policy: Policy, now: int, reach: int, random_: object
) -> None:
    shuffled = list(found)
    random_.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_retention(shuffled, policy, now, reach) == plan_retention(found, policy, now, reach)


@given(partitions(), policies(), moments, reaches)
def test_what_goes_today_goes_tomorrow_if_it_is_still_there(
    found: list[Partition], policy: Policy, now: int, reach: int
) -> None:
    today, tomorrow = (plan_retention(found, policy, at, reach) for at in (now, now + DAY_SECONDS))
    assert set(dropped(today)) <= set(dropped(tomorrow))


@settings(max_examples=300)
@given(partitions(), policies(), moments, reaches, st.integers(0, 40))
def test_days_that_were_deleted_from_are_looked_at_again_only_for_what_ended_since(
    found: list[Partition], policy: Policy, now: int, reach: int, days_later: int
) -> None:
    """Nothing is deleted twice, nothing is missed, and another policy begins again."""
    first = selective_deletes(plan_retention(found, policy, now, reach))
    noted = RetainedFrom(enforced_until(policy.raw, now, reach))
    assert selective_deletes(plan_retention(found, policy, now, reach, noted)) == {}
    later = now + days_later * DAY_SECONDS
    full, again = (
        plan_retention(found, policy, later, reach, retained_from) for retained_from in (NOTHING_DROPPED, noted)
    )
    assert dropped(again) == dropped(full)
    deleted_again = selective_deletes(again)
    for p, selective_delete in selective_deletes(full).items():
        done = [t for t in (first.get(p), deleted_again.get(p)) if t is not None]
        for service in (*SERVICES, "other"):
            for tier in (*TIERS, "other"):
                assert deletes(selective_delete, service, tier) == any(deletes(t, service, tier) for t in done)
    other = Policy.model_validate({**policy.model_dump(), "raw": {**policy.raw.model_dump(), "tiers": {"new": 1}}})
    assert plan_retention(found, other, now, reach, noted) == plan_retention(found, other, now, reach)


def selective_deletes(plan: Plan) -> dict[Partition, SelectiveDelete]:
    return {item.partition: item for item in plan.raw if isinstance(item, SelectiveDelete)}


def test_a_day_is_kept_for_so_many_midnights() -> None:
    midnight = EPOCH_DAY * DAY_SECONDS
    day = Partition(RAW, "day", midnight - 31 * DAY_SECONDS, midnight - 30 * DAY_SECONDS, 1, 1)
    policy = Policy.model_validate({"raw": {"days": 30}})
    assert plan_retention([day], policy, midnight - 1, 1) == Plan()
    assert plan_retention([day], policy, midnight, 1).raw == (day,)
    assert plan_retention([day], policy, midnight + DAY_SECONDS - 1, 31) == Plan()
    assert cutoff(midnight, 30) == cutoff(midnight + DAY_SECONDS - 1, 30) == day.end_seconds


@pytest.mark.parametrize(
    ("max_age", "kept_ms", "reach"),
    [
        (14, None, 14),
        (14, 0, 14),
        (14, 1, 15),
        (14, 86_400_000, 15),
        (14, 86_400_001, 16),
        (1, 7 * 86_400_000, 8),
    ],
)
def test_an_event_may_come_as_late_as_its_message_and_as_old(max_age: int, kept_ms: int | None, reach: int) -> None:
    assert reach_days(max_age, kept_ms) == reach + MARGIN_DAYS


def filled(
    table: str, length: int, count: int, per_day: int, grain: str = "", ends: int = EPOCH_DAY
) -> list[Partition]:
    """Partitions without a gap up to so many days since 1970, of so many bytes a day."""
    return [
        Partition(
            table,
            str(number),
            (ends - (number + 1) * length) * DAY_SECONDS,
            (ends - number * length) * DAY_SECONDS,
            1,
            per_day * length,
            grain,
        )
        for number in range(count)
    ]


@given(st.sampled_from((1, 7, 28, 30)), st.integers(1, 20), st.integers(1, 10**9), st.integers(0, DAY_SECONDS - 1))
def test_the_rate_is_that_of_the_newest_whole_days_whatever_a_partition_spans(
    length: int, count: int, per_day: int, second: int
) -> None:
    """What is filling, and what was long ago, at another rate, is left out."""
    recent = filled(RAW, length, -(-7 // length), per_day)
    before = filled(RAW, length, count, per_day * 50, ends=EPOCH_DAY - len(recent) * length)
    filling = Partition(RAW, "filling", EPOCH_DAY * DAY_SECONDS, (EPOCH_DAY + length) * DAY_SECONDS, 1, 0)
    of_table = [filling, *before, *recent]
    assert bytes_per_day(of_table, EPOCH_DAY * DAY_SECONDS + second) == pytest.approx(per_day)


def test_of_a_table_that_is_younger_than_a_partition_the_rate_is_that_of_what_there_is() -> None:
    start = NOW // DAY_SECONDS * DAY_SECONDS - 3 * DAY_SECONDS
    first = Partition(DEAD_LETTERS, "first", start, start + 30 * DAY_SECONDS, 1, 4_000)
    assert bytes_per_day([first], start + 4 * DAY_SECONDS) == 1_000
    assert bytes_per_day([first], start + 3_600) == 4_000
    assert bytes_per_day([], NOW) == 0
    ahead = Partition(RAW, "ahead", NOW + 5, NOW + 5 + DAY_SECONDS, 1, 4_000)
    assert bytes_per_day([ahead], NOW) == 0


def test_where_events_begin_to_come_today_the_rate_is_that_of_today() -> None:
    """Late events alone are in the days before. The first hours say little."""
    midnight = EPOCH_DAY * DAY_SECONDS
    today = Partition(RAW, "today", midnight, midnight + DAY_SECONDS, 1, 6_000)
    found = [today, *filled(RAW, 1, 7, 10)]
    assert bytes_per_day(found, midnight + DAY_SECONDS // 2) == 12_000
    assert bytes_per_day(found, midnight + 3_600) == 10


def test_costs_are_those_of_tables_full_of_the_days_that_the_policy_keeps() -> None:
    policy = Policy.model_validate({"raw": {"days": 30}, "cost": {"price_per_gb_month": 0.5}})
    found = [*filled(RAW, 1, 10, 10**9), *filled("rollup_10m", 7, 5, 10**8, "10m"), *filled("other", 1, 9, 10**9)]
    report = costs(found, policy, NOW)
    assert [(t.table, t.bytes, t.bytes_per_day, t.days) for t in report.tables] == [
        (RAW, 10 * 10**9, 10**9, 30.5),
        ("rollup_10m", 35 * 10**8, 10**8, 123.5),
    ]
    assert [t.price_per_month for t in report.tables] == [pytest.approx(30.5 * 0.5), pytest.approx(12.35 * 0.5)]
    assert report.price == pytest.approx(13 * (30.5 + 12.35) * 0.5)
    weighed = costs(found, policy, NOW, raw_days=60.0)
    assert [t.days for t in weighed.tables] == [60.5, 123.5]
    assert weighed.price == pytest.approx(13 * (60.5 + 12.35) * 0.5)
    assert costs([], policy, NOW).price == 0


@st.composite
def whole(draw: st.DrawFn) -> RetainedFrom:
    """As retention notes them: at the starts of partitions, and no coarser rows are gone where finer ones are left."""
    until, latest = {}, 0
    for grain in reversed(GRAINS):
        days_on = draw(st.integers(0, 90)) // grain.partition_days * grain.partition_days
        latest = max(latest, draw(st.sampled_from((0, (EPOCH_DAY + days_on) * DAY_SECONDS))))
        if latest:
            until[grain.name] = latest
    return RetainedFrom(until)


@st.composite
def spans(draw: st.DrawFn) -> TimeRange:
    step = draw(st.sampled_from((60, 600, 3_600, DAY_SECONDS)))
    start = EPOCH_DAY * DAY_SECONDS + draw(st.integers(-20 * DAY_SECONDS, 100 * DAY_SECONDS)) // step * step
    return time_range(start, start + draw(st.integers(1, 800 if step < DAY_SECONDS else 100)) * step)


def time_range(start: int, end: int) -> TimeRange:
    return TimeRange(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))


def bounds(span: TimeRange) -> tuple[int, int]:
    return int(span.start.timestamp()), int(span.end.timestamp())


def lacking(retained_from: RetainedFrom, asked: TimeRange) -> Iterator[tuple[int, int, str]]:
    """By the definition, bucket by bucket: [start, end) and what is left of it that is in no answer."""
    start, end = bounds(asked)
    while start < end:
        grain = next((g for g in reversed(GRAINS) if start < retained_from.buildable_from(g)), LIVE)
        # Live rows and retained_from lie within days, and spans are of whole minutes: a day's live rows are all in it.
        length = DAY_SECONDS if grain is LIVE else grain.seconds
        bucket_end = min(end, start - start % length + length)
        is_within = grain is LIVE or (grain.floor(start) == start and start + length <= end)
        if start < retained_from.of(GRAINS[-1].name):
            yield start, bucket_end, "gone"
        elif not is_within:
            yield start, bucket_end, grain.name
        start = bucket_end


def joined(parts: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Neighbours that lack the same as one."""
    found: list[tuple[int, int, str]] = []
    for start, end, name in parts:
        if found and found[-1][1:] == (start, name):
            found[-1] = (found[-1][0], end, name)
        else:
            found.append((start, end, name))
    return found


@given(whole(), spans())
def test_what_is_left_out_is_what_no_whole_bucket_within_the_span_holds(
    retained_from: RetainedFrom, asked: TimeRange
) -> None:
    found = [(*bounds(part.span), part.grain.name if part.grain else "gone") for part in left_out(retained_from, asked)]
    assert joined(found) == joined(list(lacking(retained_from, asked)))
    assert all(a[1] <= b[0] for a, b in pairwise(found))


@given(whole(), st.integers(-3, 12), st.integers(1, 60))
def test_spans_of_whole_longest_buckets_lack_only_what_is_gone(
    retained_from: RetainedFrom, first: int, weeks: int
) -> None:
    week = GRAINS[-1].seconds
    start = EPOCH_DAY * DAY_SECONDS + first * week
    end = start + weeks * week
    gone = min(end, retained_from.of(GRAINS[-1].name))
    expected = [(start, gone, None)] if gone > start else []
    found = [(*bounds(part.span), part.grain) for part in left_out(retained_from, time_range(start, end))]
    assert found == expected


@given(spans())
def test_where_nothing_was_dropped_nothing_is_left_out(asked: TimeRange) -> None:
    assert list(left_out(NOTHING_DROPPED, asked)) == []


@given(spans(), st.integers(0, 10**6))
def test_of_times_that_no_rollup_keeps_all_is_left_out(asked: TimeRange, more: int) -> None:
    _, end = bounds(asked)
    retained_from = RetainedFrom({grain.name: end + more for grain in GRAINS})
    (part,) = left_out(retained_from, asked)
    assert (part.span, part.grain) == (asked, None)


@given(whole(), spans(), st.integers(-720, 840))
def test_parts_are_in_the_time_zone_of_the_question(
    retained_from: RetainedFrom, asked: TimeRange, minutes: int
) -> None:
    zone = timezone(timedelta(minutes=minutes))
    parts = list(left_out(retained_from, TimeRange(asked.start.astimezone(zone), asked.end.astimezone(zone))))
    assert parts == list(left_out(retained_from, asked))
    assert all(part.span.start.tzinfo is zone for part in parts)
