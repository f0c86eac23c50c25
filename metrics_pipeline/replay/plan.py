"""Hours of the topic once more: what raw_events should hold of them, and what has to change. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from metrics_pipeline.dead_letters.judge import Outcome
from metrics_pipeline.delivery.chunk import ORIGIN, POSITION, own_rows
from metrics_pipeline.delivery.stored import CONTENT, ROW_SCHEMA
from metrics_pipeline.event.contract import EVENT_SCHEMA, IDENTITY, LINEAGE
from metrics_pipeline.event.decode import Decoded
from metrics_pipeline.kafka.intents import OffsetRange
from metrics_pipeline.ledger.entry import EventMinutes
from metrics_pipeline.ledger.minutes import Look, tabulate
from metrics_pipeline.ledger.tables import PlanStep
from metrics_pipeline.rollups.grains import SETTLE_SECONDS, UNIT

SOURCE = "replay"
"""Of ledger rows that a replay of hours writes."""
GROUP_SUFFIX = ".replay"
"""The side group whose one slot holds the open chunk, and whose owner may replay."""

PLAN_SCHEMA = pl.Schema(
    {"step": pl.String()}
    | {column.name: column.polars_type for column in LINEAGE}
    | {"timestamp": EVENT_SCHEMA["timestamp"], CONTENT: pl.UInt64(), "letter_batch": pl.String()}
)


_MINUTE = pl.col("timestamp").cast(pl.Int64) // 60_000 * 60
"""Epoch seconds."""


class Mode(StrEnum):
    """What a replay does about rows that are there."""

    FILL = "fill"
    """Leave them, and insert what is missing: what the ledger has accounted for, and raw_events lacks."""
    REPLACE = "replace"
    """Also remove those that aren't what today's rules make of their messages."""


@dataclass(frozen=True, slots=True)
class LostLetters:
    """A partition's range in a micro-batch of which `count` dead letters are gone."""

    batch: str
    range: OffsetRange
    count: int


@dataclass(frozen=True, slots=True)
class Window:
    """What is known of the messages of some ranges.

    `origins` are all messages, `rows` (ROW_SCHEMA) those rows of raw_events that stem from them, `letters` dead letters
    at their positions, `decoded` what today's rules say of all others.
    """

    origins: pl.DataFrame
    rows: pl.DataFrame
    letters: pl.DataFrame
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Found:
    """What has to change in a window, and how much is right.

    `remove` are rows (ROW_SCHEMA), `insert` are events, `bad` are messages that are no events and have neither a row
    nor a dead letter, or whose row is to be removed. `unrepaired` messages are left: their units of rollups are not
    closed yet.
    """

    messages: int
    right: int
    duplicates: int
    letters: int
    unrepaired: int
    remove: pl.DataFrame
    insert: pl.DataFrame
    bad: pl.DataFrame

    @property
    def has_changes(self) -> bool:
        return bool(len(self.remove) or len(self.insert) or len(self.bad))

    @property
    def vanishing(self) -> int:
        """Identities that raw_events loses: another message may have been taken for a duplicate of them."""
        return self.remove.join(self.insert, on=IDENTITY, how="anti").n_unique(IDENTITY)


def closed_until(now_ms: int) -> int:
    """Units that end by then, epoch seconds, are closed: their rollups can be repaired."""
    return now_ms // 1_000 - SETTLE_SECONDS


def rows_of_messages(rows: pl.DataFrame, origins: pl.DataFrame) -> pl.DataFrame:
    """Those rows that stem from these messages: a position alone may be that of another incarnation of the topic."""
    return rows.join(origins, on=ORIGIN, how="semi", maintain_order="left")


def without_letters(decoded: Decoded, letters: pl.DataFrame) -> Decoded:
    """What the rules say of the messages that are no dead letters: those are left to their own replay."""
    events = decoded.events.join(letters, on=POSITION, how="anti", maintain_order="left")
    return Decoded(events, decoded.dead_letters.join(letters, on=POSITION, how="anti", maintain_order="left"))


def rows_of_events(events: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """The rows (ROW_SCHEMA, without content) of those events that raw_events has from their own messages."""
    own = own_rows(events, stored)
    return own.select(*IDENTITY, *ORIGIN, pl.lit(0).alias(CONTENT)).cast(ROW_SCHEMA)


def wrong_rows(window: Window, contents: pl.DataFrame) -> pl.DataFrame:
    """Rows that aren't what today's rules make of their messages; `contents` (POSITION, CONTENT) are those rules'."""
    judged = window.rows.join(window.letters, on=POSITION, how="anti", maintain_order="left")
    return judged.join(contents, on=[*POSITION, CONTENT], how="anti", maintain_order="left")


def without_right_row(window: Window, wrong: pl.DataFrame) -> pl.DataFrame:
    """Events that are not in raw_events as their own messages say."""
    right = window.rows.join(wrong, on=[*ORIGIN, CONTENT], how="anti")
    return window.decoded.events.join(right, on=ORIGIN, how="anti", maintain_order="left")


def examine(window: Window, wrong: pl.DataFrame, stored: pl.DataFrame, mode: Mode, closed_until: int) -> Found:
    """What has to change. `stored` are the rows (IDENTITY, ORIGIN) of the identities that have no right row here."""
    candidates = without_right_row(window, wrong).sort(POSITION)
    is_open = ~_is_closed(closed_until)
    unrepaired = pl.concat([frame.filter(is_open).select(POSITION) for frame in (wrong, candidates)]).unique()
    remove = wrong.join(unrepaired, on=POSITION, how="anti", maintain_order="left")
    staying = stored.join(remove, on=[*IDENTITY, *ORIGIN], how="anti")
    absent = candidates.join(staying, on=IDENTITY, how="anti", maintain_order="left")
    missing = absent.unique(IDENTITY, keep="first", maintain_order=True)
    left = pl.concat([wrong.select(POSITION), missing.select(POSITION)]).join(unrepaired, on=POSITION, how="semi")
    bad = window.decoded.dead_letters
    if mode is Mode.FILL:
        bad = bad.join(window.rows, on=ORIGIN, how="anti", maintain_order="left")
    return Found(
        messages=len(window.origins),
        right=window.rows.join(wrong, on=[*ORIGIN, CONTENT], how="anti")
        .join(window.letters, on=POSITION, how="anti")
        .n_unique(POSITION),
        duplicates=len(candidates) - len(missing),
        letters=len(window.letters),
        unrepaired=left.n_unique(),
        remove=remove,
        insert=missing.join(unrepaired, on=POSITION, how="anti", maintain_order="left"),
        bad=bad.join(unrepaired, on=POSITION, how="anti", maintain_order="left"),
    )


def make_plan(found: Found, lost: Sequence[LostLetters], deficits: Mapping[int, int], mode: Mode) -> pl.DataFrame:
    """The changes, message by message (PLAN_SCHEMA).

    `deficits` says how many events of a minute (epoch seconds) the ledger has accounted for that raw_events lacks: as
    many of those inserted are restored. A minute that isn't in it lacks all of them.
    """
    is_new = found.insert.join(found.remove, on=POSITION, how="semi", maintain_order="left")
    rowless = found.insert.join(found.remove, on=POSITION, how="anti", maintain_order="left")
    limits = pl.DataFrame(list(deficits.items()), {"minute": pl.Int64, "deficit": pl.Int64}, orient="row")
    ranked = (
        rowless.with_columns(minute=_MINUTE)
        .with_columns(rank=pl.int_range(pl.len()).over("minute"))
        .join(limits, on="minute", how="left", maintain_order="left")
    )
    is_restored = pl.col("deficit").is_null() | (pl.col("rank") < pl.col("deficit"))
    return pl.concat(
        [
            _planned(found.remove, PlanStep.REMOVE, content=pl.col(CONTENT)),
            _planned(is_new, PlanStep.INSERT),
            # Mode fill leaves what nobody misses: today's rules make another event of it than those that judged it.
            _planned(ranked.filter(~is_restored & (mode is Mode.REPLACE)), PlanStep.INSERT),
            _planned(ranked.filter(is_restored), PlanStep.RESTORE),
            *_letters(found, lost, mode),
        ]
    )


def inserts(plan: pl.DataFrame) -> pl.DataFrame:
    return of_step(plan, PlanStep.INSERT, PlanStep.RESTORE)


def of_step(plan: pl.DataFrame, *steps: PlanStep) -> pl.DataFrame:
    return plan.filter(pl.col("step").is_in([step.value for step in steps]))


def planned_letters(plan: pl.DataFrame, bad: pl.DataFrame, token: str) -> pl.DataFrame:
    """The dead letters that are planned, among `bad` messages; each with the batch that accounts for it."""
    batches = of_step(plan, PlanStep.LETTER, PlanStep.LOST_LETTER).select(*ORIGIN, "letter_batch")
    named = pl.when(pl.col("letter_batch") == "").then(pl.lit(token)).otherwise("letter_batch")
    joined = bad.join(batches, on=ORIGIN, how="inner", maintain_order="left")
    return joined.with_columns(batch=named).drop("letter_batch")


def minutes_of_plan(plan: pl.DataFrame, landed: pl.DataFrame, spent: pl.DataFrame) -> EventMinutes:
    """What a chunk adds to the ledger and takes from it, per minute.

    `landed` are its events that raw_events has; `spent` (columns POSITION) those to be restored that it never will
    have, since another message brought them or the server refuses them: what accounted for them is taken back. Minutes
    in which both figures are 0 are noted, too: they were touched.
    """
    added = of_step(plan, PlanStep.INSERT).join(landed, on=ORIGIN, how="semi")
    removed = [of_step(plan, PlanStep.REMOVE), of_step(plan, PlanStep.RESTORE).join(spent, on=POSITION, how="semi")]
    touched = pl.concat([of_step(plan, PlanStep.REMOVE), inserts(plan)])
    counted = pl.concat(
        [
            _per_minute(added, 1, 0),
            *(_per_minute(frame, 0, 1) for frame in removed),
            _per_minute(touched, 0, 0),
        ]
    )
    sums = counted.group_by("minute").sum().sort("minute")
    return EventMinutes(*(tuple(sums[name].to_list()) for name in ("minute", "inserted", "removed")))


def minutes_of_events(events: pl.DataFrame) -> frozenset[int]:
    """The minutes (epoch seconds) of their timestamps."""
    return frozenset(events.select(_MINUTE).to_series().unique())


def deficits(look: Look, minutes: frozenset[int], in_flux: frozenset[int]) -> tuple[dict[int, int], frozenset[int]]:
    """Minute -> events that the ledger has accounted for and raw_events lacks; and minutes that can't be judged yet.

    `in_flux` are minutes of open batches.
    """
    table = tabulate(look)
    found = dict.fromkeys(minutes, 0)
    for row in table.filter(pl.col("minute").is_in(list(minutes))).iter_rows(named=True):
        if row["is_touched"]:
            in_flux |= {row["minute"]}
        else:
            found[row["minute"]] = max(0, row["ledger"] - row["raw"])
    return {minute: count for minute, count in found.items() if minute not in in_flux}, minutes & in_flux


def still_to_land(window: Window) -> pl.DataFrame:
    """The messages (columns ORIGIN) whose dead letters no replay has landed yet."""
    done = pl.col("outcome").is_in([Outcome.LANDED.value, Outcome.DUPLICATE.value])
    return window.origins.join(window.letters.filter(~done), on=POSITION, how="semi", maintain_order="left")


def _letters(found: Found, lost: Sequence[LostLetters], mode: Mode) -> Iterator[pl.DataFrame]:
    """Those that are gone from the table first: as many as the ledger says, of messages without a row."""
    rest = found.bad
    for of_batch in lost:
        partition, offset = map(pl.col, POSITION)
        is_within = offset.is_between(of_batch.range.start, of_batch.range.end, closed="left")
        rowless = rest.join(found.remove, on=POSITION, how="anti", maintain_order="left")
        again = rowless.filter((partition == of_batch.range.partition) & is_within).head(of_batch.count)
        rest = rest.join(again, on=POSITION, how="anti", maintain_order="left")
        yield _planned(again, PlanStep.LOST_LETTER, letter_batch=pl.lit(of_batch.batch))
    if mode is Mode.REPLACE:
        yield _planned(rest, PlanStep.LETTER)


def _planned(
    frame: pl.DataFrame, step: PlanStep, content: pl.Expr | None = None, letter_batch: pl.Expr | None = None
) -> pl.DataFrame:
    timestamp = pl.col("timestamp") if "timestamp" in frame.columns else pl.col("kafka_timestamp")
    return frame.select(
        step=pl.lit(step.value),
        **{name: pl.col(name) for name in ORIGIN},
        timestamp=timestamp,
        content=pl.lit(0) if content is None else content,
        letter_batch=pl.lit("") if letter_batch is None else letter_batch,
    ).cast(PLAN_SCHEMA)


def _per_minute(frame: pl.DataFrame, inserted: int, removed: int) -> pl.DataFrame:
    return frame.select(
        minute=_MINUTE,
        inserted=pl.lit(inserted, pl.Int64),
        removed=pl.lit(removed, pl.Int64),
    )


def _is_closed(closed_until: int) -> pl.Expr:
    ends = (pl.col("timestamp").cast(pl.Int64) // 1_000 // UNIT.seconds + 1) * UNIT.seconds
    return ends <= closed_until
