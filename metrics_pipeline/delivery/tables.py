"""The tables that a delivery writes besides the ledger: raw_events and dead_letters."""

from metrics_pipeline.ddl.objects import Column, Table
from metrics_pipeline.event.contract import IDENTITY, LINEAGE, TABLE_COLUMNS
from metrics_pipeline.event.contract import Column as EventColumn


def event_column(column: EventColumn) -> Column:
    """A column of the event contract as one of raw_events."""
    return Column(
        column.name,
        column.clickhouse_type,
        column.codec,
        column.comment,
        column.default,
        is_filled=bool(column.default),
    )


RAW_EVENTS = Table(
    name="raw_events",
    # The look-up keeps duplicates out; replacing is the last guard behind it.
    engine="ReplacingMergeTree",
    partition_by="toYYYYMMDD(timestamp)",
    order_by=IDENTITY,
    primary_key=IDENTITY[:-1],
    # The look-up touches a granule per endpoint and part: small ones make it read an eighth.
    index_granularity=1_024,
    columns=tuple(map(event_column, TABLE_COLUMNS)),
    comment="Every event once, as it was sent.",
    # A replay asks for the rows of messages. Within a granule their times are near each other, as those of events are.
    indexes=("message_index kafka_timestamp TYPE minmax GRANULARITY 1",),
)


DEAD_LETTERS = Table(
    name="dead_letters",
    engine="ReplacingMergeTree",
    partition_by="toYYYYMM(kafka_timestamp)",
    order_by=("topic", "topic_id", "kafka_partition", "kafka_offset"),
    columns=(
        Column("topic", "LowCardinality(String)"),
        Column("topic_id", "LowCardinality(String)"),
        *(Column(c.name, c.clickhouse_type) for c in LINEAGE),
        Column("reason", "LowCardinality(String)", comment="A code; docs/event.md lists them"),
        Column("detail", "String", comment="What is wrong, with the field and its value"),
        Column("service", "LowCardinality(String)", comment="Sender, where it could be read"),
        Column("payload", "String", "ZSTD(3)", "The message as it was"),
        Column("batch", "String", comment="Token of the micro-batch"),
        Column("stored_at", "DateTime64(3, 'UTC')", default="now64(3)"),
        Column("outcome", "LowCardinality(String)", comment="Of its last replay: landed, duplicate or kept"),
        Column("replayed_at", "DateTime64(3, 'UTC')"),
        Column("replay_reason", "LowCardinality(String)", comment="Why it is kept, by the rules of that replay"),
        Column("replay_detail", "String", comment="What is wrong, by these rules"),
    ),
    comment="Messages that are no valid event, each with its reason.",
    # What is new since a moment is asked for every few seconds.
    indexes=("stored_index stored_at TYPE minmax GRANULARITY 1",),
)
