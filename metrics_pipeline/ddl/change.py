"""One step from what a server has to what is wanted. Pure."""

import hashlib
from dataclasses import dataclass
from enum import Enum

from metrics_pipeline.ddl.found_schema import NOTHING, Size


class Phase(Enum):
    """In this order. Versions before and after work side by side until CONTRACT begins."""

    EXPAND = "expand"
    MIGRATE = "migrate"
    CONTRACT = "contract"


class Way(Enum):
    """How much a change costs."""

    METADATA = "metadata only"
    MUTATION = "background mutation"
    REBUILD = "rebuild"


class Work(Enum):
    """What has to be done for a change beside its statements."""

    NOTHING = "nothing"
    FILL_COLUMN = "fill column"
    """Write the default of `column` into the parts that lack it."""
    COUNT_BUCKETS = "count buckets"
    """Count in the books the events of buckets of new grains."""
    REMAKE_ROLLUPS = "remake rollups"
    """Remake the rollups from raw_events."""


@dataclass(frozen=True, slots=True)
class Change:
    """`is_needed`: this version's drains can't run before it is done.

    `refusal` says why it is not done, and by what it can be; such a change has no statements.
    """

    object: str
    what: str
    statements: tuple[str, ...] = ()
    phase: Phase = Phase.EXPAND
    way: Way = Way.METADATA
    size: Size = NOTHING
    destroys: bool = False
    is_needed: bool = False
    refusal: str = ""
    work: Work = Work.NOTHING
    table: str = ""
    column: str = ""

    @property
    def difference(self) -> str:
        return f"{self.object}: {self.what}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order in which they are made."""

    changes: tuple[Change, ...] = ()

    @property
    def statements(self) -> tuple[str, ...]:
        """Of all changes that destroy nothing."""
        return tuple(s for change in self.safe for s in change.statements)

    @property
    def differences(self) -> tuple[str, ...]:
        """What is there but differs, and is not mended."""
        return tuple(change.difference for change in self.refused)

    @property
    def safe(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if not c.refusal and not c.destroys)

    @property
    def destructive(self) -> tuple[Change, ...]:
        """Done only when that is asked for."""
        return tuple(c for c in self.changes if c.destroys and not c.refusal)

    @property
    def refused(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.refusal)

    @property
    def needed(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.is_needed)

    @property
    def is_empty(self) -> bool:
        """Is the schema as it is wanted? What is left over from other versions doesn't count: these may still run."""
        return not self.safe and not self.refused

    @property
    def hash(self) -> str:
        """Equal for plans that do the same."""
        return hash_of((*self.statements, "", *self.differences))

    def of(self, phase: Phase) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.phase is phase)


def hash_of(texts: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
