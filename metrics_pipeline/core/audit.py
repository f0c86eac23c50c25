"""The verdict of an audit: figures in, contradictions out."""

from dataclasses import dataclass

from metrics_pipeline.core.offsets import OffsetRange


@dataclass(frozen=True, slots=True)
class MinuteDrift:
    """A minute whose rollup doesn't count what raw_events holds."""

    minute: str
    raw: int
    rollup: int


@dataclass(frozen=True, slots=True)
class Books:
    """What the ledger, the topic and the tables say, each by itself."""

    offsets: int
    consumed: int
    inserted: int
    duplicates: int
    dead_letters: int
    skipped: int
    lost: tuple[OffsetRange, ...]
    gaps: tuple[OffsetRange, ...]
    overlaps: tuple[OffsetRange, ...]
    raw_rows: int
    raw_doubles: int
    rollup_requests: int
    dead_letter_rows: int
    drifting_minutes: tuple[MinuteDrift, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The audit's answer; `problems` has a sentence for each contradiction and is empty if the books are exact."""

    books: Books
    problems: tuple[str, ...]

    @property
    def is_ok(self) -> bool:
        return not self.problems

    @property
    def rollup_drift(self) -> int:
        """Requests that the rollup counts too many or too few, summed over the minutes."""
        return sum(abs(m.raw - m.rollup) for m in self.books.drifting_minutes)


def judge(books: Books) -> Verdict:
    """Compare every figure with every other that must equal it."""
    landed = books.inserted + books.duplicates + books.dead_letters
    lost_offsets = sum(r.offsets for r in books.lost)
    accounted = books.consumed + books.skipped + lost_offsets
    checks = [
        (landed != books.consumed, f"{books.consumed} consumed, but {landed} inserted, duplicate or dead"),
        (accounted != books.offsets, f"{books.offsets} offsets, but {accounted} consumed, skipped or lost"),
        (
            books.raw_rows != books.inserted,
            f"{books.inserted} inserted, but raw_events has {books.raw_rows} rows",
        ),
        (books.raw_doubles > 0, f"raw_events holds {books.raw_doubles} events more than once"),
        (
            books.rollup_requests != books.inserted,
            f"{books.inserted} inserted, but rollup_1m counts {books.rollup_requests} requests",
        ),
        (
            books.dead_letter_rows != books.dead_letters,
            f"{books.dead_letters} dead letters in the ledger, but dead_letters has {books.dead_letter_rows} rows",
        ),
    ]
    problems = [sentence for is_wrong, sentence in checks if is_wrong]
    problems += [f"lost to retention: {_named(r)}" for r in books.lost]
    problems += [f"gap in the ledger: {_named(r)}" for r in books.gaps]
    problems += [f"twice in the ledger: {_named(r)}" for r in books.overlaps]
    problems += [f"minute {m.minute}: {m.raw} in raw_events, {m.rollup} in rollup_1m" for m in books.drifting_minutes]
    return Verdict(books, tuple(problems))


def _named(r: OffsetRange) -> str:
    return f"partition {r.partition}, offsets {r.start} to {r.end - 1}"
