"""Dead letters once more: filters, judgement, chunks and what is put on record of them."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_pipeline.dead_letters import judge as dead_letters
from metrics_pipeline.dead_letters.expiry import expiry_warning, warning_end_ms
from metrics_pipeline.dead_letters.judge import (
    LETTER_SCHEMA,
    MAX_CHUNK_LETTERS,
    LetterFilter,
    Outcome,
    changed,
    chunks_of,
    judge,
    letter_filter,
    marks,
    position_of,
    sort_out,
    verdict_on,
)
from metrics_pipeline.delivery.chunk import (
    ORIGIN,
    POSITION,
    SLOT,
    each_position,
    open_chunk_of,
    own_rows,
    slot_commits,
    stored_elsewhere,
)
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.event.contract import IDENTITY, MAX_PAYLOAD_BYTES, NO_EVENTS
from metrics_pipeline.event.decode import EventLimits, decode
from metrics_pipeline.event.messages import Messages
from metrics_pipeline.event.rules import Rules
from metrics_pipeline.kafka.intents import METADATA_LIMIT_BYTES, decode_commit, encode_metadata
from metrics_pipeline.runtime.timerange import TimeRange
from tests.worlds.events import encode, event

NOW_MS = 1_790_000_000_000
STRICT = Rules(EventLimits(max_age_ms=86_400_000, max_future_ms=0))
LOOSE = Rules(EventLimits(max_age_ms=864_000_000, max_future_ms=864_000_000))
DAY_MS = 86_400_000


def letters_of(values: list[bytes | None], topic_id: str = "id", **columns: Any) -> pl.DataFrame:
    """What the table holds of messages that the strict rules refuse, one offset after the other in partition 3."""
    count = len(values)
    decoded = decode(Messages([3] * count, list(range(count)), [NOW_MS] * count, values), STRICT.limits)
    assert len(decoded.dead_letters) == count
    defaults = {"topic_id": topic_id, "batch": "b", "outcome": "", "replay_reason": "", "replay_detail": ""}
    named = {name: pl.lit(value) for name, value in (defaults | columns).items()}
    return decoded.dead_letters.with_columns(**named).select(LETTER_SCHEMA.names()).cast(LETTER_SCHEMA)


def early(seed: int, days: int = 1) -> bytes:
    return encode(event(random.Random(seed), timestamp=NOW_MS + days * DAY_MS))


def stored_of(events: pl.DataFrame, **changes: Any) -> pl.DataFrame:
    return (
        events.select(*IDENTITY, *ORIGIN)
        .with_columns(**{n: pl.lit(v) for n, v in changes.items()})
        .cast({name: NO_EVENTS.schema[name] for name in ORIGIN})
    )


def test_letters_are_judged_against_the_time_of_their_messages_and_a_tombstone_stays_one() -> None:
    letters = letters_of([early(1), None, b"", early(2, days=11), b"{"])
    judged = judge(letters, LOOSE)
    assert judged.events["kafka_offset"].to_list() == [0]
    assert judged.kept["replay_reason"].to_list() == ["tombstone", "empty", "timestamp_in_future", "truncated"]
    assert set(judged.kept["outcome"]) == {Outcome.KEPT}
    assert len(judge(letters, STRICT).events) == 0


@pytest.mark.parametrize("fill", [b" ", b"x"])
def test_a_payload_that_was_cut_is_never_an_event(fill: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where messages may be that long some day, and what is left of one is an event by itself."""
    whole = early(1)
    cut = whole + fill * (MAX_PAYLOAD_BYTES - len(whole))
    letters = letters_of([cut, early(2)])
    monkeypatch.setattr("metrics_pipeline.event.decode.exact.MAX_MESSAGE_BYTES", 4 * MAX_PAYLOAD_BYTES)
    judged = judge(letters, LOOSE)
    assert judged.events["kafka_offset"].to_list() == [1]
    assert judged.kept["replay_detail"].to_list() == [dead_letters.CUT_DETAIL]
    assert verdict_on(cut, "too_large", NOW_MS, LOOSE).detail == dead_letters.CUT_DETAIL


def test_verdicts_on_single_letters_are_those_of_a_replay() -> None:
    assert verdict_on(early(1), "timestamp_in_future", NOW_MS, LOOSE).is_event
    assert verdict_on(early(1), "timestamp_in_future", NOW_MS, STRICT).reason == "timestamp_in_future"
    assert verdict_on(b"", "tombstone", NOW_MS, LOOSE).reason == "tombstone"


def test_events_are_sorted_by_where_raw_events_has_them_from() -> None:
    own, elsewhere, missing = early(1), early(2), early(3)
    events = judge(letters_of([own, elsewhere, missing, missing, elsewhere, own]), LOOSE).events
    stored = pl.concat([stored_of(events[:1]), stored_of(events[1:2], kafka_partition=9)])
    found = sort_out(events.sample(fraction=1, shuffle=True, seed=4), stored)
    assert found.landed["kafka_offset"].to_list() == [0]
    assert sorted(found.duplicates["kafka_offset"]) == [1, 4, 5]
    assert found.missing["kafka_offset"].to_list() == [2]
    assert found.copies["kafka_offset"].to_list() == [3]


def test_a_row_of_another_life_of_the_topic_is_another_message() -> None:
    events = judge(letters_of([early(1)]), LOOSE).events
    other_life = stored_of(events).with_columns(pl.col("kafka_timestamp") - timedelta(days=1))
    assert len(own_rows(events, other_life)) == 0
    assert len(sort_out(events, other_life).duplicates) == 1
    assert len(stored_elsewhere(events, other_life)) == 1
    assert len(stored_elsewhere(events, stored_of(events))) == 0


def test_only_marks_that_say_something_new_are_written() -> None:
    letters = letters_of([b"{", b"[]"])
    kept = judge(letters, LOOSE).kept
    assert len(changed(kept, letters)) == 2
    names = ["outcome", "replay_reason", "replay_detail"]
    marked = letters.drop(names).join(kept, on=POSITION).select(LETTER_SCHEMA.names())
    assert len(changed(kept, marked)) == 0
    assert len(changed(marks(letters, Outcome.LANDED), marked)) == 2


_POSITIONS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)) | st.tuples(st.just(7), st.integers(0, 5_000)),
    min_size=1,
    max_size=400,
    unique=True,
)


@settings(deadline=None, derandomize=True)
@given(_POSITIONS)
def test_chunks_cover_all_letters_and_fit_on_record_with_any_verdicts(positions: list[tuple[int, int]]) -> None:
    frame = pl.DataFrame(sorted(positions), schema={n: NO_EVENTS.schema[n] for n in POSITION}, orient="row")
    covered: list[tuple[int, int]] = []
    for chunk, rows in chunks_of("x" * 22, "group", frame, LOOSE, 2**62):
        assert list(rows.iter_rows()) == each_position(chunk.ranges)
        covered += each_position(chunk.ranges)
        worst = chunk.found_until("f" * (chunk.offsets // 2 + 2))
        metadata = encode_metadata(slot_commits(worst)[SLOT])
        assert len(metadata.encode()) <= METADATA_LIMIT_BYTES
        assert open_chunk_of({SLOT: decode_commit(0, metadata)}) == worst
    assert covered == sorted(positions)


def test_dense_and_sparse_letters_fill_their_chunks() -> None:
    def sizes(step: int) -> list[int]:
        rows = [(0, n * step) for n in range(6_000)]
        frame = pl.DataFrame(rows, schema={n: NO_EVENTS.schema[n] for n in POSITION}, orient="row")
        return [len(rows) for _, rows in chunks_of("id", "group", frame, LOOSE, 1)]

    assert sizes(1)[0] > 0.95 * MAX_CHUNK_LETTERS
    assert max(sizes(1)) <= MAX_CHUNK_LETTERS
    assert sizes(1_000)[0] > 0.95 * MAX_CHUNK_LETTERS / 2


def test_tokens_differ_by_letters_time_group_and_life_of_the_topic() -> None:
    frame = pl.DataFrame([(0, 1), (0, 2)], schema={n: NO_EVENTS.schema[n] for n in POSITION}, orient="row")

    def token(rows: pl.DataFrame = frame, topic_id: str = "id", group: str = "group", opened_ms: int = 1) -> str:
        ((chunk, _),) = chunks_of(topic_id, group, rows, LOOSE, opened_ms)
        return chunk.token

    assert token() == token()
    assert len({token(), token(frame[:1]), token(topic_id="di"), token(group="g"), token(opened_ms=2)}) == 5


def test_no_chunk_is_open_where_nothing_or_a_closed_one_is_committed() -> None:
    assert open_chunk_of({}) is None
    assert open_chunk_of({SLOT: decode_commit(0, json.dumps({"topic": "id"}))}) is None


def test_filters_are_read_from_what_people_write() -> None:
    start = datetime(2026, 11, 3, 10, tzinfo=UTC)
    wanted = letter_filter(["empty"], ["checkout"], TimeRange(start, start + timedelta(hours=1)))
    start_ms = round(start.timestamp() * 1_000)
    assert wanted == LetterFilter(("empty",), ("checkout",), start_ms, start_ms + 3_600_000)
    assert letter_filter([], [], None) == LetterFilter()
    with pytest.raises(ConfigurationError, match=r"no reason 'emtpy'.*empty"):
        letter_filter(["emtpy"], [], None)


def test_positions_are_read_from_what_people_write() -> None:
    assert position_of("3:1042") == (3, 1042)
    for wrong in ("3", "3:", ":4", "a:1", "-1:4", "3:1:2", f"{2**32}:1"):
        with pytest.raises(ConfigurationError, match="no position"):
            position_of(wrong)


def test_a_warning_comes_before_letters_are_dropped() -> None:
    week_ms = 7 * DAY_MS
    end_ms = warning_end_ms(NOW_MS, week_ms)
    assert NOW_MS - week_ms < end_ms < NOW_MS - week_ms / 2
    assert warning_end_ms(NOW_MS, 400 * DAY_MS) == NOW_MS - 393 * DAY_MS
    assert expiry_warning("Kafka", week_ms, 0, None) is None
    said = expiry_warning("Kafka", week_ms, 3, NOW_MS - week_ms)
    assert said is not None
    day = f"{datetime.fromtimestamp(NOW_MS / 1_000, UTC):%Y-%m-%d}"
    assert said.startswith(f"Kafka drops 3 dead letters that were never replayed, the first one at {day}")


def test_no_letters_are_no_events() -> None:
    judged = judge(letters_of([b"{"])[:0], LOOSE)
    assert (len(judged.events), len(judged.kept)) == (0, 0)
    assert len(sort_out(judged.events, stored_of(judged.events)).missing) == 0
