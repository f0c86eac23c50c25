"""What has to be done for a change beside its statements. Pure."""

from enum import Enum


class Work(Enum):
    NOTHING = "nothing"
    FILL_COLUMN = "fill column"
    """Write the default of `column` into the parts that lack it."""
    COUNT_BUCKETS = "count buckets"
    """Count in the books the events of buckets of new grains."""
    REMAKE_ROLLUPS = "remake rollups"
    """Remake the rollups from raw_events."""
