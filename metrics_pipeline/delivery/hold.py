"""What one owner works on: the log, the right to commit its offsets, and the tables."""

from dataclasses import dataclass

from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.delivery.ports import Warehouse
from metrics_pipeline.kafka.ports import Log


@dataclass(frozen=True, slots=True)
class Hold:
    """A run's hold on partitions of `log`: `ownership` guards their offsets in the consumer group `group`."""

    group: str
    log: Log
    ownership: Ownership
    warehouse: Warehouse
