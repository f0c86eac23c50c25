"""Puts the audit together from settings, and reads what is on its way."""

from collections.abc import Sequence

from metrics_pipeline.audit.books import ClickHouseBooks
from metrics_pipeline.audit.run import Audit, not_landed
from metrics_pipeline.audit.verdict import Verdict
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.clickhouse.server_time import server_clock
from metrics_pipeline.dead_letters.judge import GROUP_SUFFIX as LETTERS_SUFFIX
from metrics_pipeline.delivery.chunk import SLOT, open_chunk_of
from metrics_pipeline.kafka.admin import TopicDescription, describe_topic
from metrics_pipeline.kafka.committed import committed_offsets
from metrics_pipeline.kafka.intents import OpenBatch, open_batches
from metrics_pipeline.ledger.deferred import GROUP_SUFFIX as DEFERRED_SUFFIX
from metrics_pipeline.ledger.minutes import EVERYTHING, Scope
from metrics_pipeline.replay.plan import GROUP_SUFFIX as HOURS_SUFFIX
from metrics_pipeline.rollups.retained_from import DEAD_LETTERS
from metrics_pipeline.rollups.retained_from_store import read_retained_from
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.settings import Settings, kafka_address
from metrics_pipeline.wiring.engines import side_group


def audit(settings: Settings, scope: Scope = EVERYTHING, *, deep: bool = False) -> Verdict:
    """Read the books of the topic and judge them; `deep` also compares the identities of all events in scope."""
    address, kafka = kafka_address(settings), settings.kafka
    description = describe_topic(address, kafka)
    with connect(settings) as client:
        retained_from = read_retained_from(client)
        books = ClickHouseBooks(
            client, kafka.topic, description.topic_id, kafka.group, dead_letters_from=retained_from.of(DEAD_LETTERS)
        )
        return Audit(
            books,
            lambda: committed_offsets(address, kafka, description.partitions),
            description.topic_id,
            server_clock(client, SystemClock()),
            deep=deep,
            beside=lambda: open_beside_drains(settings, description),
            compared_from=retained_from.compared_from,
        ).run(scope)


def batches_under_way(
    settings: Settings,
    books: ClickHouseBooks,
    topic: TopicDescription,
    replays: Sequence[str] = (LETTERS_SUFFIX, HOURS_SUFFIX),
) -> tuple[OpenBatch, ...]:
    """What drains, backfills and these replays have begun, and the ledger does not have; read in this order."""
    intents = (
        *open_batches(committed_offsets(kafka_address(settings), settings.kafka, topic.partitions)),
        *open_beside_drains(settings, topic, replays),
    )
    return not_landed(books, intents)


def open_beside_drains(
    settings: Settings, topic: TopicDescription, replays: Sequence[str] = (LETTERS_SUFFIX, HOURS_SUFFIX)
) -> tuple[OpenBatch, ...]:
    """What backfills and replays, of dead letters and of hours, are landing or left half done."""
    commits = committed_offsets(kafka_address(settings), side_group(settings, DEFERRED_SUFFIX), topic.partitions)
    backfilling = open_batches({p: c for p, c in commits.items() if c.topic_id == topic.topic_id})
    slots = (committed_offsets(kafka_address(settings), side_group(settings, suffix), (SLOT,)) for suffix in replays)
    return (*backfilling, *(chunk for slot in slots if (chunk := open_chunk_of(slot)) is not None))
